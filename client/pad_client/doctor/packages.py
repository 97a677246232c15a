"""Whether Python and the packages are those that the project asks for, and can be imported."""

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pad_client.doctor.child import Told
from pad_client.doctor.findings import Finding, fail, ok, warn

CLIENT, SERVING = "pad-client", "pad-serving"
_MAX_NAMED = 5
# By which an extra is known to be wanted; what others need as well says nothing.
_MARKS = {
    "server": ("torch", "transformers"),
    "edge": ("fastapi", "uvicorn"),
    "tracing": ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"),
    "train": ("accelerate", "peft"),
}
_MODULES = {
    "server": ("numpy", "torch", "transformers", "safetensors", "redis", "prometheus_client"),
    "edge": ("fastapi", "uvicorn"),
    "tracing": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"),
    "train": ("accelerate", "peft", "matplotlib"),
}


@dataclass(frozen=True, slots=True)
class _Needed:
    requirement: Requirement
    installed: str | None

    @property
    def is_met(self) -> bool:
        return self.installed is not None and self.requirement.specifier.contains(
            self.installed, prereleases=True
        )

    @property
    def problem(self) -> str:
        wanted = f"{self.requirement.name}{self.requirement.specifier}"
        return f"{wanted} (is {self.installed})" if self.installed else f"{wanted} (missing)"


def serves() -> bool:
    """Return whether this installation is to serve, not only to call a server."""
    return _version(SERVING) is not None


def client_version() -> str | None:
    """Return the client's version; None where it is no installed package, only on a path."""
    return _version(CLIENT)


def check_python() -> Iterator[Finding]:
    """Look at the interpreter's version."""
    found = f"{platform.python_version()} ({sys.executable})"
    try:
        wanted = Requirement(f"python{metadata(CLIENT)['Requires-Python']}").specifier
    except PackageNotFoundError:
        yield fail(
            "packages.client",
            "pad-client is not installed as a package",
            "pip install './client[cli]' in a checkout, or `make setup`",
        )
        return
    if wanted.contains(platform.python_version(), prereleases=True):
        yield ok("python", found)
    else:
        yield fail("python", found, f"make the virtual environment with Python {wanted}")


def check_packages() -> Iterator[Finding]:
    """Compare what is installed with what the packages ask for."""
    if client_version() is None:
        return  # as `check_python` said
    yield from _check_extra(CLIENT, "cli", "pip install './client[cli]' in a checkout", needed=True)
    if not serves():
        return
    yield _check_versions()
    for extra in _MARKS:
        advice = f"pip install ./client '.[{extra}]' in a checkout"
        yield from _check_extra(SERVING, extra, advice, needed=False)
    yield from _check_pins()


def modules() -> list[str]:
    """Return the modules of what is installed to serve: they may be broken all the same."""
    if not serves():
        return []
    return [
        name
        for extra, marks in _MARKS.items()
        if all(map(_version, marks))
        for name in _MODULES[extra]
    ]


def check_imports(wanted: Sequence[str], told: Told) -> Iterator[Finding]:
    """Say which of the modules a child could not import."""
    if told.failure is not None:
        yield told.failure
    elif told.broken:
        found = "; ".join(f"{name}: {error}" for name, error in told.broken.items())
        advice = f"pip install --force-reinstall --no-deps {' '.join(told.broken)}"
        yield fail("packages.imports", found, advice)
    elif wanted:
        yield ok("packages.imports", f"{', '.join(wanted)} can be imported")


def _check_versions() -> Finding:
    client, serving = _version(CLIENT), _version(SERVING)
    if client == serving:
        return ok("packages.versions", f"{CLIENT} and {SERVING} {client}")
    return fail(
        "packages.versions",
        f"{CLIENT} {client}, {SERVING} {serving}",
        "install both from one checkout: pip install ./client '.[server]'",
    )


def _check_extra(package: str, extra: str, advice: str, *, needed: bool) -> Iterator[Finding]:
    check = f"packages.{extra}"
    packages = _needed(package, extra)
    marks = _MARKS.get(extra, ())
    if not needed and not any(map(_version, marks)):
        found = f"extra not installed ({', '.join(marks)})"
        # Whoever has the services' package wants to serve, most likely; the rest is optional.
        yield warn(check, found, advice) if extra == "server" else ok(check, found)
        return
    problems = [each.problem for each in packages if not each.is_met]
    if problems:
        yield fail(check, "; ".join(problems), advice)
    else:
        yield ok(check, f"{len(packages)} packages as asked for")


def _needed(package: str, extra: str) -> list[_Needed]:
    """Return what a package asks for with an extra, by way of its own other extras too."""
    found: dict[str, _Needed] = {}
    waiting, seen = [(package, extra)], set[tuple[str, str]]()
    while waiting:
        owner, wanted = waiting.pop()
        seen.add((owner, wanted))
        for line in requires(owner) or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            name = canonicalize_name(requirement.name)
            if name in (CLIENT, SERVING):
                further = {(name, each) for each in requirement.extras or {""}}
                waiting += [each for each in further if each not in seen]
            else:
                found[name] = _Needed(requirement, _version(name))
    return list(found.values())


def _check_pins() -> Iterator[Finding]:
    """Compare with the exact versions that everything was tested with, where they are at hand."""
    path = Path(__file__).resolve().parents[3] / "constraints.txt"
    if not path.is_file():
        return
    lines = (line.partition("==") for line in path.read_text(encoding="utf-8").splitlines())
    differing = [
        f"{name} {installed} (tested: {pinned})"
        for name, _, pinned in lines
        if pinned and (installed := _version(name)) is not None
        if installed.partition("+")[0] != pinned
    ]
    if differing:
        yield warn(
            "packages.constraints",
            f"{len(differing)} packages are not as tested: {_shown(differing)}",
            "pip install -c constraints.txt -e ./client -e '.[dev]'",
        )
    else:
        yield ok("packages.constraints", "all versions as tested")


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
