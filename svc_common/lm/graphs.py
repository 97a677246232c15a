"""Record what a GPU does for one shape, and start it again at once as a CUDA graph."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch

from svc_common.lm.transfers import wait_for_stream

_NUM_WARM_UPS = 2  # runs before recording: libraries choose kernels and take memory in the first
# torch records one graph at a time in a process; two models of one process may want to.
_recording = threading.Lock()


class Graphs:
    """Recorded steps, by shape; past `max_graphs` the one used longest ago makes room.

    They lend their temporary memory from one pool. No result stays in it, so the order in which
    graphs are replayed is free; but all must be replayed on one stream, one after the other.
    """

    def __init__(self, device: torch.device, max_graphs: int) -> None:
        self._device = device
        self._max = max_graphs
        self._kept: OrderedDict[Hashable, torch.cuda.CUDAGraph] = OrderedDict()  # oldest use first
        # A stream of our own, as cuBLAS keeps a workspace a stream: graphs of two models that
        # were recorded on one stream would share it, and may run at the same time.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, key: Hashable, compute: Callable[[], None]) -> None:
        """Replay what was recorded under `key`; first record `compute`, if nothing was.

        `compute` must read its inputs from, and leave its results in, memory that stays where it
        is; to run it several times must be the same as to run it once.
        """
        graph = self._kept.get(key)
        if graph is None:
            graph = self._record(key, compute)
            self._kept[key] = graph
        self._kept.move_to_end(key)
        graph.replay()

    def _record(self, key: Hashable, compute: Callable[[], None]) -> torch.cuda.CUDAGraph:
        if len(self._kept) >= self._max:
            wait_for_stream(self._device)  # it may be running
            self._kept.popitem(last=False)
        graph = torch.cuda.CUDAGraph()
        with _recording, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                for _ in range(_NUM_WARM_UPS):  # they store the keys and values that replay stores
                    compute()
            caller.wait_stream(self._stream)
            try:
                # thread_local: what another model's thread does meanwhile is no part of this
                # graph, and must not spoil it.
                with torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ):
                    compute()
            finally:
                # Where recording fails, for want of memory for example, torch does not go back.
                torch.cuda.set_stream(caller)
        return graph
