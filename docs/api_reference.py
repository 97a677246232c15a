"""The reference of docs/api.md, from the comments in the protos.

The generated Python code does not keep comments, so protoc is asked for the descriptors again, with
them. Everything must have one: a part of the contract that says nothing stops the page.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parents[1] / "protos"
_PACKAGE = ".pad.v1."
# Numbers of the parts of a descriptor in the paths of `SourceCodeInfo` (descriptor.proto).
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _VALUE, _METHOD = 2, 2, 2
_ONEOF = 8
_Path = tuple[int, ...]


def api_reference(protos: Path = PROTOS) -> str:
    """Return every service, message and enum, a section a file.

    Raises:
        RuntimeError: protoc refused a file; its reasons are on stderr.
        ValueError: a part has no comment.
    """
    return "\n".join(_File(file).section() for file in _read(protos))


def _read(protos: Path) -> Iterable[FileDescriptorProto]:
    paths = sorted(protos.glob("pad/*/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "protos"
        arguments = [
            "protoc",
            f"-I{protos}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={output}",
            *(str(path) for path in paths),
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc failed")
        return FileDescriptorSet.FromString(output.read_bytes()).file


class _File:
    """One proto with its comments by their paths."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(place.path): " ".join(place.leading_comments.split())
            for place in file.source_code_info.location
            if place.leading_comments
        }
        self._head = next(  # the file's own comment stands before `syntax`, whose path is (12,)
            place.leading_comments for place in file.source_code_info.location if place.path == [12]
        )

    def section(self) -> str:
        parts = [f"## {self._file.name.rpartition('/')[2]}", " ".join(self._head.split())]
        for i, service in enumerate(self._file.service):
            parts += self._service(service, (_SERVICE, i))
        for i, message in enumerate(self._file.message_type):
            parts += self._message(message, (_MESSAGE, i))
        for i, enum in enumerate(self._file.enum_type):
            parts += self._enum(enum, (_ENUM, i))
        return "\n\n".join(parts) + "\n"

    def _service(self, service: ServiceDescriptorProto, path: _Path) -> Iterator[str]:
        yield f"### {service.name}"
        yield self._comment(path, service.name)
        rows = []
        for i, method in enumerate(service.method):
            asks = _typed(method.input_type, is_stream=method.client_streaming)
            answers = _typed(method.output_type, is_stream=method.server_streaming)
            comment = self._comment((*path, _METHOD, i), f"{service.name}.{method.name}")
            rows.append((f"`{method.name}`", asks, answers, comment))
        yield _table(("RPC", "request", "response", "what it does"), rows)

    def _message(self, message: DescriptorProto, path: _Path) -> Iterator[str]:
        yield f"### {message.name}"
        yield self._comment(path, message.name)
        if message.nested_type or message.enum_type:
            raise ValueError(f"{message.name}: nested types have no place on the page")
        rows = []
        for i, field in enumerate(message.field):
            comment = self._comment((*path, _FIELD, i), f"{message.name}.{field.name}")
            rows.append((str(field.number), f"`{field.name}`", _field_type(field), comment))
        if rows:
            yield _table(("", "field", "type", "meaning and rule"), rows)
        for i, choice in enumerate(message.oneof_decl):
            names = [
                f"`{field.name}`"
                for field in message.field
                if field.HasField("oneof_index")
                and field.oneof_index == i
                and not field.proto3_optional
            ]
            if names:
                comment = self._comment((*path, _ONEOF, i), f"{message.name}.{choice.name}")
                yield f"One of {', '.join(names)}: {comment}"

    def _enum(self, enum: EnumDescriptorProto, path: _Path) -> Iterator[str]:
        yield f"### {enum.name}"
        yield self._comment(path, enum.name)
        rows = [
            (str(value.number), f"`{value.name}`", self._comment((*path, _VALUE, i), value.name))
            for i, value in enumerate(enum.value)
        ]
        yield _table(("", "value", "meaning"), rows)

    def _comment(self, path: _Path, name: str) -> str:
        try:
            return _escaped(self._comments[path])
        except KeyError:
            raise ValueError(f"{self._file.name}: {name} must have a comment") from None


def _field_type(field: FieldDescriptorProto) -> str:
    kind = (
        _typed(field.type_name)
        if field.type_name
        else FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _typed(name: str, *, is_stream: bool = False) -> str:
    """Return a type's name, as a link to its section where it is one of ours."""
    short = name.removeprefix(_PACKAGE)
    shown = short.lstrip(".") if short == name else f"[{short}](#{short.lower()})"
    return f"stream of {shown}" if is_stream else shown


def _escaped(comment: str) -> str:
    """Return a comment as Markdown that shows each of its characters; backticks mark code."""
    return comment.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
