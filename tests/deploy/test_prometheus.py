import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import grpc
import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.grafana import make_dashboard
from edge_svc.metrics import OTHER, ROUTES, EdgeMetrics
from generator_svc.metrics import GeneratorMetrics
from generator_svc.store_metrics import StoreMetrics
from reward_svc.metrics import RewardMetrics
from svc_common.metrics import RpcMetrics
from tests.deploy.stack import MAIN, ROOT, default_metrics_port, load_compose, mounts

PROCESS_METRICS = ("process_resident_memory_bytes", "process_cpu_seconds_total")
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())


@pytest.fixture
def services():
    return load_compose(MAIN)["services"]


def rules(name):
    (group,) = yaml.safe_load((ROOT / f"deploy/{name}.yml").read_text())["groups"]
    return group["rules"]


def alerts():
    return rules("alerts")


def recordings():
    return rules("recording")


def metric_labels():
    """Return the label names of each time series the services offer."""
    found = {"up": set()}  # made by Prometheus itself
    found |= {rule["record"]: {"instance"} for rule in recordings()}
    found |= {name: set() for name in PROCESS_METRICS} | {"pad_build_info": {"service", "version"}}
    for metrics in (GeneratorMetrics, StoreMetrics, RewardMetrics, RpcMetrics, EdgeMetrics):
        registry = CollectorRegistry()
        metrics(registry)
        for name, collector in registry._names_to_collectors.items():
            (family,) = collector.describe()
            bounds = ["le"] if name.endswith("_bucket") else []
            if name in {family.name + suffix for suffix in SUFFIXES[family.type]}:
                found[name] = {*collector._labelnames, *bounds}
    return found


def dashboard_expressions():
    """Return the expressions of all panels of the dashboard that Grafana reads."""
    (path,) = (ROOT / "deploy/grafana/dashboards").glob("*.json")
    panels = json.loads(path.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def selectors(expression):
    """Return the metrics of a PromQL expression, each with its label matchers."""
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)|\[[\w$]+\]|\b(and|or)\b", "", expression)
    found = re.finditer(r"\b([a-z_:][\w:]*)\b(?!\s*\()(\{[^}]*\})?", bare)
    matcher = re.compile(r'(\w+)\s*[!=~]+\s*"([^"]*)"')
    return [(match[1], matcher.findall(match[2] or "")) for match in found]


def targets(config):
    """Return the hosts and ports that Prometheus reads, by job."""
    found = {}
    for job in config["scrape_configs"]:
        places = [place for group in job.get("static_configs", []) for place in group["targets"]]
        for group in job.get("dns_sd_configs", []):
            assert group["type"] == "A"
            places += [f"{name}:{group['port']}" for name in group["names"]]
        found[job["job_name"]] = places
    return found


def test_every_service_is_read_where_it_offers_its_metrics(config, services):
    assert targets(config) == {
        name: [f"{name}:{default_metrics_port(name)}"] for name in ("generator", "reward", "edge")
    }
    reachable = set(services["prometheus"]["networks"])
    assert all(reachable & set(services[name]["networks"]) for name in targets(config))


@pytest.mark.parametrize("name", ["reward", "edge"])
def test_every_replica_is_found(config, name):
    """A static target would be read through one address: that of any replica."""
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == name]
    assert "dns_sd_configs" in job
    assert "static_configs" not in job


def test_rules_lie_beside_the_configuration_here_and_in_the_container(config, services):
    inside = dict(mounts(services["prometheus"]))
    names = ["prometheus.yml", *config["rule_files"]]
    for name in names:
        assert inside[f"./deploy/{name}"] == f"/etc/prometheus/{name}"
    assert names == ["prometheus.yml", "recording.yml", "alerts.yml"]


@pytest.mark.parametrize(
    "expression",
    [rule["expr"] for rule in [*alerts(), *recordings()]] + dashboard_expressions(),
)
def test_only_metrics_and_labels_that_exist_are_asked_for(expression):
    known = metric_labels()
    used = selectors(expression)
    assert used
    for name, matchers in used:
        assert name in known, name
        assert {label for label, _ in matchers} <= known[name] | {"job", "instance"}
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    labels = {label.strip() for group in grouped for label in group.split(",")}
    assert labels <= set().union(*(known[name] for name, _ in used)) | {"job", "instance"}


def test_alerts_match_label_values_that_occur(config):
    known = {
        "code": {code.name for code in grpc.StatusCode},
        "job": set(targets(config)),
        "kind": token_kinds(),
        "outcome": {"complete", "partial"},
        "part": {"base", "store", "rewards"},
        "phase": {"reward_wait", "reward_queue", "reward_forward", "reward_select"},
        "method": {"pad.v1.GeneratorService/Generate"},
        "route": {*ROUTES, OTHER},
        "status": {"200", "429", "500", "503", "504"},
    }
    for rule in [*alerts(), *recordings()]:
        for _, matchers in selectors(rule["expr"]):
            for label, pattern in matchers:
                for part in pattern.split("|"):
                    assert any(re.fullmatch(part, value) for value in known[label]), part


def token_kinds():
    registry = CollectorRegistry()
    metrics = GeneratorMetrics(registry)
    for is_guided, is_wanted in [(True, True), (False, True), (False, False)]:
        token = SimpleNamespace(is_guided=is_guided, is_changed=False, finish_reason=None)
        sequence = SimpleNamespace(params=SimpleNamespace(is_guided=is_wanted))
        metrics.token(token, sequence, 0.1)
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {sample.labels["kind"] for sample in samples if "kind" in sample.labels}


def test_alerts_have_names_of_their_own_and_say_what_is_wrong():
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    assert all(rule["labels"]["severity"] in ("page", "ticket") for rule in alerts())
    assert all(rule["annotations"]["summary"] for rule in alerts())


def test_prometheus_itself_accepts_the_files():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool")
    command = [promtool, "check", "config", ROOT / "deploy/prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_what_its_table_says():
    assert make_dashboard.PATH.read_text() == make_dashboard.text(), (
        "run python deploy/grafana/make_dashboard.py"
    )


def test_the_dashboard_lies_where_grafana_is_told_to_look(services):
    inside = dict(mounts(services["grafana"]))
    provider = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/dashboards/pad.yml").read_text()
    )["providers"][0]
    assert inside["./deploy/grafana/dashboards"] == provider["options"]["path"]
    (source,) = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    assert source["uid"] == make_dashboard.DATASOURCE["uid"]
    assert source["url"] == "http://prometheus:9090"
    assert set(services["grafana"]["networks"]) & set(services["prometheus"]["networks"])


def test_every_alert_has_a_run_book():
    text = (ROOT / "docs/operate.md").read_text()
    assert re.findall(r"^### (\w+)$", text, re.M) == [rule["alert"] for rule in alerts()]


ALERT_TESTS = ROOT / "tests/deploy/alerts_test.yml"


def test_alerts_fire_when_they_should_and_not_otherwise():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool")
    command = [promtool, "test", "rules", ALERT_TESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_in_a_case_and_every_query_of_an_autoscaler_is_tried():
    cases = [
        case
        for group in yaml.safe_load(ALERT_TESTS.read_text())["tests"]
        for case in group["promql_expr_test"]
    ]
    labels = " ".join(sample["labels"] for case in cases for sample in case["exp_samples"])
    fired = re.findall(r'alertname="(\w+)"', labels)
    assert sorted(fired) == sorted(rule["alert"] for rule in alerts())
    scaled = yaml.safe_load_all(
        (ROOT / "deploy/kubernetes/autoscaling/scaled-objects.yaml").read_text()
    )
    queries = {each["metadata"]["query"] for its in scaled for each in its["spec"]["triggers"]}
    assert queries <= {case["expr"] for case in cases}
