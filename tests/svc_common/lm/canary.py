"""Pickles that leave a sign when they are loaded, whatever is done with them afterwards."""

import pickle
from pathlib import Path

import torch


class Canary:
    """Unpickled, it writes a file: as an attacker's would run whatever it likes."""

    def __init__(self, sign: Path) -> None:
        self._sign = sign

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self._sign, "a pickle was run")


def write_pickles(path: Path, sign: Path, kind: str) -> None:
    """Write a pickle of a kind: as torch writes them today, in its old format, or plain."""
    canary = {"v_head.summary.weight": Canary(sign)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(canary, protocol=2))
    else:
        torch.save(canary, path, _use_new_zipfile_serialization=kind == "zip")
