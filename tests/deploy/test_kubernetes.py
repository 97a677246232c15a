"""The manifests are valid, name what is there, and agree with the services' settings."""

import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes import make_rules
from edge_svc.metrics import ROUTES
from edge_svc.settings import EdgeSettings
from svc_common.settings import load_settings
from tests.deploy.stack import ALL_SETTINGS, ROOT, SETTINGS, default_metrics_port, default_port
from tests.deploy.test_prometheus import metric_labels, selectors

FOLDER = ROOT / "deploy/kubernetes"
COMPONENTS = ("edge", "gpu", "autoscaling", "monitoring")
OVERLAYS = ("base", *COMPONENTS, "example")  # the base alone, with one component, with all
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule"}  # their schemas come with their operators


@cache
def render(name):
    """Return the objects of the base with a component, or of a Kustomization of its own."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    if name not in COMPONENTS:
        return build(FOLDER / name)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "kubernetes"
        shutil.copytree(FOLDER, whole)
        (whole / "own").mkdir()
        own = {"resources": ["../base"], "components": [f"../{name}"]}
        (whole / "own/kustomization.yaml").write_text(yaml.safe_dump(own))
        return build(whole / "own")


def build(folder):
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(objects, kind):
    return {its["metadata"]["name"]: its for its in objects if its["kind"] == kind}


def workloads(objects):
    return of_kind(objects, "Deployment") | of_kind(objects, "StatefulSet")


def pods(objects):
    return {name: its["spec"]["template"] for name, its in workloads(objects).items()}


def containers(objects):
    found = {}
    for name, pod in pods(objects).items():
        (found[name],) = pod["spec"]["containers"]
    return found


def chosen(objects, labels):
    """Return the pods that a selector finds."""
    return {
        name
        for name, pod in pods(objects).items()
        if labels.items() <= pod["metadata"]["labels"].items()
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay):
    for its in render(overlay):
        if its["kind"] not in CUSTOM:
            kubernetes_validate.validate(its, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_object_is_there_once(overlay):
    names = [(its["kind"], its["metadata"]["name"]) for its in render(overlay)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", SETTINGS)
def test_environment_holds_settings_of_the_service(overlay, name):
    prefix, cls = SETTINGS[name]
    environment = {its["name"]: its["value"] for its in containers(render(overlay))[name]["env"]}
    settings = load_settings(cls, prefix, environment)
    assert settings.device == ("cuda:0" if overlay in ("gpu", "example") else "cpu")


@pytest.mark.parametrize("name", SETTINGS)
def test_ports_are_those_the_service_listens_on(name):
    container = containers(render("base"))[name]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": default_port(name), "metrics": default_metrics_port(name)}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[kind]["grpc"]["port"] == ports["grpc"]
    service = of_kind(render("base"), "Service")[name]
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (ports["grpc"], "grpc")
    assert service["spec"]["clusterIP"] == "None"  # each pod has an address of its own


def test_the_edge_is_probed_and_reached_where_it_listens():
    objects = render("edge")
    container = containers(objects)["edge"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": default_port("edge"), "metrics": default_metrics_port("edge")}
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")}
    assert probes == {
        "readiness": {"path": "/readyz", "port": "http"},
        "liveness": {"path": "/healthz", "port": "http"},  # the generator's absence kills no edge
    }
    assert {probe["path"] for probe in probes.values()} <= set(ROUTES)
    (port,) = of_kind(objects, "Service")["edge"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (ports["http"], "http")


def test_the_edge_finds_the_generator_and_may_call_it():
    objects = render("edge")
    environment = {its["name"]: its["value"] for its in containers(objects)["edge"]["env"]}
    settings = load_settings(EdgeSettings, "EDGE_", environment)
    assert settings.generator == (f"generator:{default_port('generator')}",)
    policies = of_kind(objects, "NetworkPolicy")
    (rule,) = [
        its
        for its in policies["generator"]["spec"]["ingress"]
        if {"port": default_port("generator")} in its["ports"]
    ]
    (peer,) = rule["from"]
    assert chosen(objects, peer["podSelector"]["matchLabels"]) == {"edge"}


def test_the_edge_is_scaled_by_what_it_asks_for():
    objects = render("edge")
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    deployment = of_kind(objects, target["kind"])[target["name"]]
    assert "replicas" not in deployment["spec"]  # each apply would undo what the scaler did
    assert scaler["spec"]["minReplicas"] >= 2
    (metric,) = scaler["spec"]["metrics"]
    assert metric["resource"]["name"] in containers(objects)["edge"]["resources"]["requests"]


def test_the_generator_finds_rewards_and_store():
    objects = render("base")
    environment = {its["name"]: its["value"] for its in containers(objects)["generator"]["env"]}
    services = of_kind(objects, "Service")
    for setting in ("GENERATOR_REWARD_TARGETS", "GENERATOR_REDIS_URL"):
        host, port = re.search(r"(\w+):(\d+)", environment[setting].partition("//")[2]
                               or environment[setting]).groups()  # fmt: skip
        assert [p["port"] for p in services[host]["spec"]["ports"]] == [int(port)]


@pytest.mark.parametrize("overlay", ["base", "edge"])
def test_selectors_find_the_pods_they_are_named_after(overlay):
    objects = render(overlay)
    for name, its in of_kind(objects, "Service").items():
        assert chosen(objects, its["spec"]["selector"]) == {name}
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        for name, its in of_kind(objects, kind).items():
            assert chosen(objects, its["spec"]["selector"]["matchLabels"]) == {name}


@pytest.mark.parametrize("overlay", ["base", "edge"])
def test_network_policies_name_pods_and_ports_that_are_there(overlay):
    objects = render(overlay)
    policies = of_kind(objects, "NetworkPolicy")
    everything = policies.pop("nothing-by-default")["spec"]["podSelector"]["matchLabels"]
    assert chosen(objects, everything) == set(pods(objects))
    ports = {
        name: {port["containerPort"] for port in container["ports"]}
        for name, container in containers(objects).items()
    }
    for name, policy in policies.items():
        assert chosen(objects, policy["spec"]["podSelector"]["matchLabels"]) == {name}
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= ports[name]
        for rule in policy["spec"].get("egress", []):
            (peer,) = rule["to"]
            (target,) = chosen(objects, peer["podSelector"]["matchLabels"])
            assert {port["port"] for port in rule["ports"]} <= ports[target]


def test_only_the_generator_reaches_rewards_and_store():
    policies = of_kind(render("base"), "NetworkPolicy")
    for name, port in (("reward", default_port("reward")), ("redis", 6379)):
        (rule,) = [
            its for its in policies[name]["spec"]["ingress"] if {"port": port} in its["ports"]
        ]
        (peer,) = rule["from"]
        assert peer == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "generator"}}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_are_hardened(overlay):
    for name, pod in pods(render(overlay)).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert "memory" in container["resources"]["limits"], name
        assert container["image"].rpartition(":")[2] not in ("", "latest"), name


@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_drain_ends_before_the_pod_is_killed(name):
    spec = pods(render("edge"))[name]["spec"]
    (container,) = spec["containers"]
    wait_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = ALL_SETTINGS[name][1].drain_s
    assert spec["terminationGracePeriodSeconds"] >= wait_s + drain_s + 10
    assert container["image"] == f"pad-serving/{name}:{version('pad-serving')}"


def test_claims_are_there():
    objects = render("base")
    for pod in pods(objects).values():
        for volume in pod["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in of_kind(objects, "PersistentVolumeClaim")


def test_autoscalers_act_on_figures_and_deployments_that_exist():
    objects = render("autoscaling")
    scaled = of_kind(objects, "ScaledObject")
    assert set(scaled) == set(SETTINGS)
    known = metric_labels()
    for its in scaled.values():
        assert its["spec"]["scaleTargetRef"]["name"] in of_kind(objects, "Deployment")
        for trigger in its["spec"]["triggers"]:
            used = selectors(trigger["metadata"]["query"])
            assert {name for name, _ in used} <= set(known)
    (trigger,) = scaled["reward"]["spec"]["triggers"]
    num_rows = int(trigger["metadata"]["query"].split()[0])
    assert num_rows == SETTINGS["reward"][1].num_slots


def test_monitors_read_the_pods_under_the_jobs_that_rules_ask_for():
    objects = render("example")
    monitors = of_kind(objects, "PodMonitor")
    assert set(monitors) == set(ALL_SETTINGS)
    for name, its in monitors.items():
        assert chosen(objects, its["spec"]["selector"]["matchLabels"]) == {name}
        assert pods(objects)[name]["metadata"]["labels"][its["spec"]["jobLabel"]] == name
        assert [end["port"] for end in its["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_the_operators_rules_are_those_of_compose():
    assert make_rules.PATH.read_text() == make_rules.text(), (
        "run python deploy/kubernetes/make_rules.py"
    )


def test_the_example_names_each_component_and_each_image():
    text = yaml.safe_load((FOLDER / "example/kustomization.yaml").read_text())
    assert {Path(each).name for each in text["components"]} == set(COMPONENTS)
    assert {each["name"] for each in text["images"]} == {
        f"pad-serving/{its}" for its in ALL_SETTINGS
    }
