"""Both models in one process: rewards from the base model's own weights, in the same forward."""

import svc_common  # noqa: F401 - before gRPC: see there
