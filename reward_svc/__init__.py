"""The reward service: says how well each candidate token suits a user's stated preferences."""

import svc_common  # noqa: F401 - before gRPC: see there
