"""The paced generator for several tenants, whom it believes: `python -m benchmarks.paced.tenants`.

Only who calls is found out in another way than in production, where a token says it.
"""

from typing import Any

import grpc

from benchmarks.open_load import TENANT_KEY
from benchmarks.paced import generator
from generator_svc import serving
from generator_svc.settings import GeneratorSettings
from svc_common.callers import Caller, Identify


def _by_header(context: "grpc.aio.ServicerContext[Any, Any]", _method: str) -> Caller:
    found = dict(context.invocation_metadata() or ())
    return Caller(str(found.get(TENANT_KEY, "default")))


def _believe(_settings: GeneratorSettings) -> Identify:
    return _by_header


if __name__ == "__main__":
    serving.identify = _believe  # type: ignore[attr-defined]
    generator.main()
