"""Make the call of one case again: `python -m tests.fuzz 'SEED:METHOD:INDEX'`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.fuzz.cases import Case, make_case
from tests.fuzz.methods import all_methods
from tests.fuzz.probes import fingerprint
from tests.fuzz.runner import run_cases
from tests.fuzz.tiny_stack import complaints, tiny_stack


def case_of(key: str, tokenizer_fingerprint: str) -> Case:
    """Return the case that a finding names."""
    seed, name, index = key.split(":")
    (method,) = [method for method in all_methods() if method.name == name]
    return make_case(method, int(seed), int(index), tokenizer_fingerprint)


def main(key: str) -> None:
    """Start a stack, make the call, and print how it ended."""
    with tempfile.TemporaryDirectory() as folder, tiny_stack(Path(folder)) as stack:
        case = case_of(key, fingerprint(stack))
        for data in case.messages:
            try:
                print(case.method.request.FromString(data))  # noqa: T201
            except Exception:
                print(data[:2000])  # noqa: T201
        print(case.ending, case.timeout_s, case.metadata)  # noqa: T201
        report = asyncio.run(run_cases([case], stack.addresses))
        print(report)  # noqa: T201
        print("\n".join(complaints(stack)))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
