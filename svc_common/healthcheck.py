"""Ask a gRPC server whether it is SERVING: `python -m svc_common.healthcheck host:port`."""

import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0  # less than the probes' own, so that the reason is printed


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0 if the server is SERVING, 1 if not, 2 without an address."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m svc_common.healthcheck host:port\n")
        return 2
    (address,) = arguments
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            sys.stderr.write(f"{address}: {error.code().name}: {error.details()}\n")
            return 1
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return 0
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stderr.write(f"{address}: {status}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
