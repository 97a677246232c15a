"""Writes the rules of ../recording.yml and ../alerts.yml for the Prometheus Operator.

`python deploy/kubernetes/make_rules.py`
"""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
PATH = HERE / "monitoring/rules.yaml"
SOURCES = ("recording.yml", "alerts.yml")


def text() -> str:
    """Return the file."""
    groups = []
    for name in SOURCES:
        groups += yaml.safe_load((HERE.parent / name).read_text(encoding="utf-8"))["groups"]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "pad-serving"},
        "spec": {"groups": groups},
    }
    head = f"# Made of deploy/{' and deploy/'.join(SOURCES)} by make_rules.py.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, width=100)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
