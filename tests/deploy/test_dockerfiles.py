import re

import pytest

from tests.deploy.stack import (
    FRONTS,
    MAIN,
    ROOT,
    SETTINGS,
    default_metrics_port,
    default_port,
    exec_form,
    instructions,
    load_compose,
    stages,
)


@pytest.fixture(params=[*SETTINGS, *FRONTS])
def service(request):
    return request.param


@pytest.fixture
def build(service):
    return load_compose(MAIN)["services"][service]["build"]


@pytest.fixture
def dockerfile(build):
    assert build["context"] == "."
    return ROOT / build["dockerfile"]


@pytest.fixture
def image(dockerfile):
    """The instructions of the last stage by name; COPY is left to its own tests."""
    last = stages(dockerfile)[-1]
    names = [name for name, _ in last if name != "COPY"]
    assert len(names) == len(set(names))
    return {name: arguments for name, arguments in last if name != "COPY"}


def copied(dockerfile):
    """Return what is copied from the build context."""
    copies = [words.split() for name, words in instructions(dockerfile) if name == "COPY"]
    return [source for words in copies if "--from" not in words[0] for source in words[:-1]]


def test_entry_point_is_the_service_and_gets_signals_itself(service, dockerfile, image):
    words = exec_form(image["ENTRYPOINT"])
    assert words == ["python", "-m", f"{service}_svc"]
    assert (ROOT / words[-1] / "__main__.py").is_file()
    assert words[-1] in copied(dockerfile)


def test_image_runs_without_root_under_a_fixed_number(image):
    user, _, group = image["USER"].partition(":")
    assert int(user) > 999
    assert int(group) > 999


def test_no_secret_is_baked_into_an_image(dockerfile):
    for name, words in instructions(dockerfile):
        if name in ("ENV", "ARG"):
            assert not re.search("(?i)password|secret|token|credential|_key", words), words
        assert name != "ADD"  # it fetches and unpacks; COPY does not
    assert not [source for source in copied(dockerfile) if source in (".", "./")]


def test_images_are_pinned_to_a_version(dockerfile):
    """By version: a digest would need the registry at hand when a version is raised."""
    (image,) = {
        words.partition("=")[2]
        for name, words in instructions(dockerfile)
        if words.startswith("PYTHON_IMAGE=")
    }
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim-\w+", image)
    froms = [words.split()[0] for name, words in instructions(dockerfile) if name == "FROM"]
    assert set(froms) == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("service", SETTINGS, indirect=True)
def test_ports_are_those_of_the_settings(service, image):
    ports = [default_port(service), default_metrics_port(service)]
    assert [int(port) for port in image["EXPOSE"].split()] == ports


def test_health_check_is_the_one_of_compose(service, image):
    options, _, command = image["HEALTHCHECK"].partition("CMD ")
    check = load_compose(MAIN)["services"][service]["healthcheck"]
    assert exec_form(command) == check["test"][1:]
    given = dict(re.findall(r"--([\w-]+)=(\S+)", options))
    assert given == {
        "interval": check["interval"],
        "timeout": check["timeout"],
        "retries": str(check["retries"]),
        "start-period": check["start_period"],
    }


def test_what_is_copied_exists_and_is_sent_to_the_builder(dockerfile):
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent
    for source in copied(dockerfile):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in sent, source


def test_copies_from_stages_name_an_earlier_one(dockerfile):
    named = set()
    for stage in stages(dockerfile):
        for name, words in stage:
            if name == "COPY" and words.startswith("--from="):
                assert words.split()[0].removeprefix("--from=") in named
        _, _, alias = stage[0][1].partition(" AS ")
        named.add(alias)


def test_arguments_that_compose_gives_are_declared(dockerfile, build):
    declared = {words.split("=")[0] for name, words in instructions(dockerfile) if name == "ARG"}
    assert set(build.get("args", {})) <= declared


@pytest.mark.parametrize("service", SETTINGS, indirect=True)
def test_dependencies_are_the_server_extra_at_the_constrained_versions(dockerfile):
    installs = [words for name, words in instructions(dockerfile) if "pip install" in words]
    assert len(installs) == 2
    assert all("-c constraints.txt" in words for words in installs)
    # The client from here too: a name that no index has might one day be somebody else's there.
    assert installs[-1].endswith('./client ".[server,tracing]"')


@pytest.mark.parametrize("service", FRONTS, indirect=True)
def test_images_of_the_fronts_have_no_torch(service, dockerfile):
    (install,) = [words for name, words in instructions(dockerfile) if "pip install" in words]
    extras = {"edge": "edge,tracing"}.get(service, service)
    assert install.endswith(f'-c constraints.txt ./client ".[{extras}]"')


def test_images_share_their_build_stage_and_differ_by_service_and_ports():
    texts = {name: (ROOT / f"deploy/Dockerfile.{name}").read_text() for name in SETTINGS}
    builds = {name: stages(ROOT / f"deploy/Dockerfile.{name}")[:-1] for name in SETTINGS}
    assert builds["generator"] == builds["reward"]
    for name, text in texts.items():
        for port in (default_port(name), default_metrics_port(name)):
            text = re.sub(rf"\b{port}\b", "PORT", text)
        texts[name] = re.sub(rf"\b{name}(?=\b|_svc)", "SERVICE", text)
    assert texts["generator"] == texts["reward"]


def test_builder_is_sent_nothing_that_no_image_needs():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    names = (*SETTINGS, *FRONTS)
    needed = {source for name in names for source in copied(ROOT / f"deploy/Dockerfile.{name}")}
    assert sent == needed
