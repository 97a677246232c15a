"""A service process for the embedded stack: knows the settings and the health protocol, no model.

Run as `fake_service.py generator|reward`; FAKE_MODE is "die", "hang" (never ready) or
"stubborn" (deaf to SIGTERM).
"""

import asyncio
import json
import os
import signal
import sys

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.client.fake_server import FakeServer, add_to_server


async def main(kind: str) -> None:
    prefix = f"{kind.upper()}_"
    sys.stdout.write(json.dumps({k: v for k, v in os.environ.items() if k.startswith(prefix)}))
    sys.stdout.write(f"\nthreads {os.environ['OMP_NUM_THREADS']}\n")
    mode = os.environ.get("FAKE_MODE")
    if mode == "die":
        chatter = json.dumps({"level": "info", "event": "rpc ended"})
        sys.stdout.write(f"{chatter}\n" * 2000)
        sys.exit("cannot read the model")
    server = grpc.aio.server()
    targets = os.environ.get("GENERATOR_REWARD_TARGETS", "").split(",")
    add_to_server(FakeServer(replica_addresses=tuple(targets)), server)
    servicer = health.aio.HealthServicer()
    if mode == "hang":
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ[f"{prefix}LISTEN"])
    await server.start()
    stopped = asyncio.Event()
    on_signal = stopped.clear if mode == "stubborn" else stopped.set
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_signal)
    await stopped.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
