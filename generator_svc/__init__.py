"""The generator service: writes text with a base model, each token guided by the reward service."""

import svc_common  # noqa: F401 - before gRPC: see there
