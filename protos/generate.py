"""Generate the Python code of the contract: `python protos/generate.py [FOLDER]`."""

import os
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(folder: Path) -> None:
    """Write code and type stubs of every .proto to `folder`, in folders as their packages.

    Raises:
        RuntimeError: protoc refused a file; its reasons are on stderr.
    """
    # The plugins lie beside the interpreter, which need not be on PATH.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--mypy_out=quiet:{folder}",
        f"--mypy_grpc_out=quiet:{folder}",
        *(str(path) for path in sorted(PROTOS.glob("pad/*/*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS)
