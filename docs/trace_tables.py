"""The tables of docs/tracing.md, from what the services write into spans."""

from edge_svc.http_spans import HTTP_ATTRIBUTES
from generator_svc.trace_attributes import GENERATION_ATTRIBUTES, STEP_ATTRIBUTES
from reward_svc.session_trace import SESSION_ATTRIBUTES
from svc_common.rpc_spans import RPC_ATTRIBUTES

SECTIONS = {
    "rpc": RPC_ATTRIBUTES,
    "generation": GENERATION_ATTRIBUTES,
    "step": STEP_ATTRIBUTES,
    "session": SESSION_ATTRIBUTES,
    "edge": HTTP_ATTRIBUTES,
}


def trace_tables() -> dict[str, str]:
    """Return a Markdown table a kind of span, by the names of their markers."""
    return {f"attributes:{name}": _table(rows) for name, rows in SECTIONS.items()}


def _table(attributes: dict[str, str]) -> str:
    rows = (f"| `{name}` | {about} |" for name, about in attributes.items())
    return "\n".join(["| attribute | value |", "| --- | --- |", *rows]) + "\n"
