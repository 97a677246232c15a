"""The OpenAI-compatible HTTP edge: a translator in front of the generator, no more."""

import svc_common  # noqa: F401 - before gRPC: see there
