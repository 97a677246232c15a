"""A process of its own for what may end it, and for what only the services' code can tell.

A package that is broken may end the process that imports it, and the client knows no service code:
so a child imports packages and services, and tells what it found. The variables go to it by
standard input, as there may be secrets in them.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pad_client.doctor.findings import Finding, Level, fail
from pad_client.doctor.imports import try_import
from pad_client.doctor.settings import check_settings
from pad_client.doctor.store import check_store

_MAX_WAIT_S = 120.0  # torch, on a busy machine


@dataclass(frozen=True, slots=True)
class Told:
    """What a child found.

    Attributes:
        broken: modules that cannot be imported, and why.
        findings: of the services' variables.
        failure: why the child came to no end; None where it did.
    """

    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    findings: Sequence[Finding] = ()
    failure: Finding | None = None


def ask_child(modules: Sequence[str], variables: Mapping[str, str]) -> Told:
    """Have modules imported, and services' variables examined."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            input=json.dumps({"modules": modules, "variables": variables}),
            capture_output=True,
            text=True,
            timeout=_MAX_WAIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"not done after {_MAX_WAIT_S:.0f} s"
        return Told(failure=fail("packages.imports", found, "look at disk and load"))
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        wanted = ", ".join(modules)
        found = f"Python ended with {done.returncode} at importing {wanted}: {last[0]}"
        advice = "install again: rm -r .venv && make setup"
        return Told(failure=fail("packages.imports", found, advice))
    told = json.loads(done.stdout.splitlines()[-1])
    findings = [Finding(**{**each, "level": Level(each["level"])}) for each in told["findings"]]
    return Told(told["broken"], findings)


def main() -> None:
    """Answer on standard output what is asked on standard input, in its last line."""
    asked = json.load(sys.stdin)
    reasons = {name: try_import(name)[1] for name in asked["modules"]}
    broken = {name: reason for name, reason in reasons.items() if reason}
    findings = [*check_settings(asked["variables"]), *check_store(asked["variables"])]
    told = {"broken": broken, "findings": [dataclasses.asdict(each) for each in findings]}
    sys.stdout.write(f"\n{json.dumps(told)}\n")
