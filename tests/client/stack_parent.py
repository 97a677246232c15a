"""Starts an embedded stack of fakes, says what it started, and waits to be killed."""

import json
import sys
import time
from pathlib import Path

from pad_client.embedded import EmbeddedStack
from tests.client.stack_options import fake_options

if __name__ == "__main__":
    with EmbeddedStack(fake_options(Path(sys.argv[1]))) as stack:
        assert stack._guard is not None
        pids = {**stack.pids, "guard": stack._guard._process.pid}
        addresses = [address for name, address in stack.addresses.items() if name != "redis"]
        started = {"pids": pids, "directory": str(stack.directory), "addresses": addresses}
        sys.stdout.write(json.dumps(started) + "\n")
        sys.stdout.flush()
        while True:
            time.sleep(0.01)  # a signal just before a longer wait would wait with it
