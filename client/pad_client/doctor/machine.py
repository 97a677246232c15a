"""Whether this machine has what a server needs: a store, ports, memory, disk, the right time."""

import http.client
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pad_client.doctor.findings import Finding, fail, ok, warn
from pad_client.embedded import StackError, find_redis_server
from pad_client.embedded.ports import HOST
from pad_client.embedded.probes import answers_http, answers_tls, is_serving

# Where each service listens if nothing else is said, and what says so.
_PORTS = {
    50051: "`pad up --port N`, or GENERATOR_LISTEN",
    50052: "REWARD_LISTEN",
    9101: "`pad up --metrics-port N`, or GENERATOR_METRICS_PORT",
    9102: "REWARD_METRICS_PORT",
    8000: "`pad up --edge-port N`, or EDGE_LISTEN",
    8080: "`pad playground --port N`, or PLAYGROUND_LISTEN",
}
_GRPC_PORTS, _METRICS_PORTS, EDGE_PORT = (50051, 50052), (9101, 9102), 8000
_OPTIONAL_PORTS = (EDGE_PORT, 8080)  # of services that only some want
_MIN_DISK_BYTES = 256 * 10**6  # logs, and what libraries unpack
# A service without its model: Python, torch, gRPC. The lean forward keeps packed weights beside
# the model's own: twice its float32, and files are bfloat16 as often as not.
_SERVICE_BYTES = 500 * 10**6
_BYTES_PER_FILE_BYTE = 4
_MAX_CLOCK_LAG_S = 24 * 3600.0
_CGROUPS = (  # of version 2, then 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def check_redis() -> Iterator[Finding]:
    """Look for a server that speaks the Redis protocol, and run it."""
    try:
        binary = find_redis_server()
    except StackError as error:
        yield fail("machine.redis", str(error), error.hint)
        return
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield fail("machine.redis", f"{binary} cannot be run: {error}", "install Redis or Valkey")
        return
    yield ok("machine.redis", f"{binary}: {done.stdout.strip().partition(' sha=')[0]}")


def check_ports(known: Collection[int] = ()) -> Iterator[Finding]:
    """See which of the services' ports are free, or taken by a server of ours.

    Args:
        known: ports at which a server of ours was found by other means, as TLS asks for.
    """
    for port, setting in _PORTS.items():
        check = f"machine.port_{port}"
        if _is_free(port):
            yield ok(check, "free")
        elif port in known or _is_ours(port):
            yield ok(check, "a PAD server answers here")
        elif port in _GRPC_PORTS and answers_tls(f"{HOST}:{port}"):
            advice = "for a generator: `pad --ca-file FILE --token-file FILE doctor`; else choose"
            found = "in use; answers only with TLS: a PAD server with keys?"
            yield warn(check, found, f"{advice} another port: {setting}")
        else:
            found = "in use by something that does not answer as a PAD server"
            advice = f"stop it, or choose another port: {setting}"
            yield (warn if port in _OPTIONAL_PORTS else fail)(check, found, advice)


def check_room(weight_bytes: int) -> Iterator[Finding]:
    """Compare disk and memory with what models of that size need."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free < _MIN_DISK_BYTES:
        yield fail("machine.disk", found, "free some, or set TMPDIR to a folder with more")
    else:
        yield ok("machine.disk", found)
    available = available_memory()
    if available is None:
        return
    needed = 2 * _SERVICE_BYTES + _BYTES_PER_FILE_BYTE * weight_bytes
    found = (
        f"{available / 1e9:.1f} GB available, about {needed / 1e9:.1f} GB needed for one of each"
    )
    if available < needed:
        advice = "stop other programs, set GENERATOR_DTYPE and REWARD_DTYPE to bfloat16, or use"
        yield warn("machine.memory", found, f"{advice} smaller models")
    else:
        yield ok("machine.memory", found)


def check_clock() -> Iterator[Finding]:
    """See that the clock is not behind: certificates and tokens would not be valid yet."""
    now = time.time()
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    found = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < newest - _MAX_CLOCK_LAG_S:
        found += f", which is before this program was written here ({newest - now:.0f} s)"
        yield fail("machine.clock", found, "set the clock, best by NTP: timedatectl set-ntp true")
    else:
        yield ok("machine.clock", found)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that may still be used, the container's limit kept; None if not told."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = root / "sys/fs/cgroup"
    for limit, used in _CGROUPS:
        try:
            found.append(int((group / limit).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found, default=None)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _is_ours(port: int) -> bool:
    address = f"{HOST}:{port}"
    if port in _GRPC_PORTS:
        return is_serving(address)
    if port in _METRICS_PORTS:
        return _has_our_metrics(address)
    return answers_http(address, "/readyz" if port == EDGE_PORT else "/healthz")


def _has_our_metrics(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        connection.request("GET", "/metrics")
        return b"\npad_" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
