"""What both services use, nothing else."""

import os

# gRPC's native part writes plain lines to stderr, for example of each stranger's failed handshake,
# between our JSON lines; what it has to say reaches callers as a status. It reads this when it is
# imported, so that it is the one thing that cannot be done in `logs.py`.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
