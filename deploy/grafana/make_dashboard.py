"""Writes the Grafana dashboard: `python deploy/grafana/make_dashboard.py`.

Panels are a table here, as Grafana's own form of them is ten times as long.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "dashboards/pad-serving.json"
WIDTH, HEIGHT = 8, 7  # of a panel, in units of a grid 24 wide
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """A graph: what it says, in which unit, and its (legend, expression) pairs."""

    title: str
    unit: str
    about: str
    targets: tuple[tuple[str, str], ...]


def quantiles(metric: str, *, selector: str = "", by: str = "") -> tuple[tuple[str, str], ...]:
    """Return the targets of a latency: median, 95th and 99th percentile."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    buckets = f"sum by ({labels}) (rate({metric}_bucket{selector}[{RATE}]))"
    return tuple(
        (f"p{percent}{legend}", f"histogram_quantile({percent / 100}, {buckets})")
        for percent in (50, 95, 99)
    )


def rate(metric: str, *, by: str, selector: str = "") -> tuple[str, str]:
    """Return the target of a counter's rate, one line a label value."""
    return f"{{{{{by}}}}}", f"sum by ({by}) (rate({metric}{selector}[{RATE}]))"


def share(part: str, whole: str) -> str:
    """Return the ratio of two counters' rates; 0 while nothing happens."""
    return f"sum(rate({part}[{RATE}])) / (sum(rate({whole}[{RATE}])) > 0) or vector(0)"


STEP = "pad_step_duration_seconds"
EDGE = "pad_edge_requests_total"
ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel("Tokens", "tps", "Chosen tokens by how they were chosen.",
              (rate("pad_tokens_total", by="kind"),)),
        Panel("Answers", "reqps", "Answers that ended, by reason.",
              (rate("pad_answers_total", by="reason"),)),
        Panel("Answers under way", "short", "Written now, and waiting for a slot.",
              (("{{state}}", "sum by (state) (pad_sessions)"),)),
    ),
    "Latency, as callers see it": (
        Panel("Time to first token", "s", "From the arrival of a request.",
              quantiles("pad_time_to_first_token_seconds")),
        Panel("Between two tokens", "s", "Of one answer.",
              quantiles("pad_inter_token_latency_seconds")),
        Panel("Queue", "s", "From arrival until an answer has a slot.",
              quantiles("pad_queue_time_seconds")),
    ),
    "Steps": (
        Panel("Phases of a step, median", "s",
              "reward_wait is what is left of the reward phases behind our own forward.",
              (("{{phase}}", f'histogram_quantile(0.5, sum by (le, phase) (rate({STEP}_bucket'
                             f'{{job="generator"}}[{RATE}])))'),)),
        Panel("Phases of a step, 99th percentile", "s", "The same, at its worst.",
              (("{{phase}}", f'histogram_quantile(0.99, sum by (le, phase) (rate({STEP}_bucket'
                             f'{{job="generator"}}[{RATE}])))'),)),
        Panel("Overlap", "percentunit",
              "Share of the replicas' time that the generator's own forward hides.",
              (("{{instance}}", "pad:reward_overlap:ratio_rate5m"),)),
        Panel("Rows of a forward", "short", "How full the batches are.",
              (("{{job}} median", "histogram_quantile(0.5, sum by (le, job) (rate("
                                  f"pad_step_batch_rows_bucket[{RATE}])))"),)),
        Panel("Run-ahead", "percentunit", "Guesses that the rewards kept.",
              (("kept", share('pad_run_ahead_tokens_total{outcome="kept"}',
                              "pad_run_ahead_tokens_total")),)),
        Panel("Steps", "ops", "Forwards a second.",
              (("{{instance}}", "sum by (instance) (rate(pad_step_batch_rows_count"
                                f"[{RATE}]))"),)),
    ),
    "Personalisation": (
        Panel("Guided tokens", "percentunit", "Of all tokens.",
              (("guided", share('pad_tokens_total{kind="guided"}', "pad_tokens_total")),)),
        Panel("Changed tokens", "percentunit",
              "Guided tokens that the base model would have chosen otherwise.",
              (("changed", share("pad_tokens_changed_total",
                                 'pad_tokens_total{kind="guided"}')),)),
        Panel("Fallback", "percentunit", "Tokens that were to be guided and got no rewards.",
              (("fallback", share('pad_tokens_total{kind="fallback"}',
                                  'pad_tokens_total{kind=~"guided|fallback"}')),)),
    ),
    "Profiles and caches": (
        Panel("Profile look-ups", "ops", "By where the profile was found.",
              (rate("pad_profile_lookups_total", by="source"),)),
        Panel("Prompt tokens", "tps", "By where their keys and values came from.",
              (("generator {{source}}", f"sum by (source) (rate(pad_prompt_tokens_total[{RATE}]))"),
               ("reward {{source}}",
                f"sum by (source) (rate(pad_reward_prompt_tokens_total[{RATE}]))"))),
        Panel("Prefix caches", "bytes", "Keys and values kept for prompts to come.",
              (("generator {{instance}}", "pad_prefix_cache_bytes"),
               ("reward {{instance}}", "pad_reward_prefix_cache_bytes"))),
    ),
    "Replicas and capacity": (
        Panel("Free rows", "short", "Of the KV caches.",
              (("generator {{instance}}", "pad_free_slots"),
               ("reward {{instance}}", "pad_reward_free_slots"))),
        Panel("Reward sessions", "short", "Where answers were placed.",
              (("{{instance}}", "pad_reward_sessions"),)),
        Panel("Reward forwards", "s", "Median of each replica.",
              (("{{instance}}", f'histogram_quantile(0.5, sum by (le, instance) (rate({STEP}_bucket'
                                f'{{job="reward",phase="reward_forward"}}[{RATE}])))'),)),
        Panel("Memory", "bytes", "Resident.",
              (("{{job}} {{instance}}", "process_resident_memory_bytes"),)),
        Panel("Processor", "percentunit", "Cores in use.",
              (("{{job}} {{instance}}", f"rate(process_cpu_seconds_total[{RATE}])"),)),
        Panel("Versions", "short", "What runs.",
              (("{{service}} {{version}}", "sum by (service, version) (pad_build_info)"),)),
    ),
    "HTTP edge": (
        Panel("Requests", "reqps", "By route and status; 499: the caller hung up.",
              (("{{route}} {{status}}", f"sum by (route, status) (rate({EDGE}[{RATE}]))"),)),
        Panel("Failed and refused", "percentunit", "Of the requests, those with 5xx and 429.",
              (("failed", share(f'{EDGE}{{route=~"/v1/.*",status=~"5.."}}',
                                f'{EDGE}{{route=~"/v1/.*"}}')),
               ("refused", share(f'{EDGE}{{route=~"/v1/.*",status="429"}}',
                                 f'{EDGE}{{route=~"/v1/.*"}}')))),
        Panel("Broken streams", "ops", "Answers that ended with an error after their beginning.",
              (("broken", f"sum(rate(pad_edge_broken_streams_total[{RATE}]))"),)),
        Panel("Time to first token, over HTTP", "s", "From the arrival of a request at the edge.",
              quantiles("pad_edge_time_to_first_token_seconds")),
        Panel("Requests, whole", "s", "Until the last byte of each answer.",
              quantiles("pad_edge_request_duration_seconds",
                        selector='{route=~"/v1/.*completions"}')),
        Panel("Requests in work", "short", "At most EDGE_MAX_REQUESTS an edge.",
              (("{{instance}}", "pad_edge_requests_in_work"),)),
    ),
    "Errors": (
        Panel("Calls by status", "reqps", "Of our own services.",
              (("{{method}} {{code}}", "sum by (method, code) (rate(pad_rpc_total"
                                       f'{{method=~"pad[.].*"}}[{RATE}]))'),)),
        Panel("Failovers", "ops", "Sessions that lost their replica and moved.",
              (("failovers", f"sum(rate(pad_reward_failover_total[{RATE}]))"),)),
        Panel("Row errors", "ops", "Rows that failed and sessions that were not opened.",
              (rate("pad_reward_row_errors_total", by="reason"),)),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's form."""
    return {
        "uid": "pad-serving",
        "title": "PAD serving",
        "tags": ["pad-serving"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-30m", "to": "now"},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        for place, panel in enumerate(panels):
            number += 1
            across, down = place % 3, place // 3
            at = {"h": HEIGHT, "w": WIDTH, "x": across * WIDTH, "y": y + down * HEIGHT}
            yield _graph(number, panel, at)
        y += -(-len(panels) // 3) * HEIGHT


def _graph(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": at,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for i, (legend, expr) in enumerate(panel.targets)
        ],
    }


def text() -> str:
    """Return the dashboard's file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
