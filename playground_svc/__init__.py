"""A web page to try profiles on: a client of the generator, for people who would rather look."""

import svc_common  # noqa: F401 - before gRPC: see there
