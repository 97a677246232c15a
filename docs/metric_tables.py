"""The tables of docs/metrics.md, from the metrics that the services register."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from edge_svc.metrics import EdgeMetrics
from generator_svc.metrics import GeneratorMetrics
from generator_svc.store_metrics import StoreMetrics
from reward_svc.metrics import RewardMetrics
from svc_common.metrics import RpcMetrics, TraceMetrics, new_registry

SECTIONS: dict[str, tuple[Callable[[CollectorRegistry], object], ...]] = {
    "generator": (GeneratorMetrics, StoreMetrics),
    "reward": (RewardMetrics,),
    "both": (RpcMetrics, TraceMetrics),
    "edge": (EdgeMetrics,),
}


def metric_tables() -> dict[str, str]:
    """Return a Markdown table a service, by the names of their markers."""
    tables = {}
    for name, makers in SECTIONS.items():
        registry = CollectorRegistry()
        for make in makers:
            make(registry)
        tables[f"metrics:{name}"] = _table(registry)
    common = new_registry("generator", "0")
    tables["metrics:process"] = _table(common)
    return tables


def _table(registry: CollectorRegistry) -> str:
    rows = []
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        collector = registry._names_to_collectors.get(name)
        labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
        about = family.documentation.rstrip(".") + "."
        rows.append(f"| `{name}` | {family.type} | {labels} | {about} |")
    return (
        "\n".join(
            ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |", *sorted(rows)]
        )
        + "\n"
    )
