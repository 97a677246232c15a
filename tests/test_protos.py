import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTOS = Path(__file__).parents[1] / "protos"
NAMES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("pad/v1/*.proto"))
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
# Numbers of the fields of descriptor.proto: a comment's place is a path of them.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
VALUES = METHODS = 2


def generated(folder):
    paths = [path for pattern in GENERATED for path in folder.glob(f"pad/v1/{pattern}")]
    return {path.name: path.read_bytes() for path in paths}


def test_generated_code_is_that_of_the_contract(tmp_path):
    command = [sys.executable, PROTOS / "generate.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fresh, committed = generated(tmp_path), generated(PROTOS)
    assert len(fresh) == len(GENERATED) * len(NAMES)
    stale = [name for name in fresh | committed if fresh.get(name) != committed.get(name)]
    assert not stale, f"run python protos/generate.py: {', '.join(stale)}"


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    """The files of the contract as protoc reads them, comments included."""
    path = tmp_path_factory.mktemp("protos") / "contract.binpb"
    includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
    options = ["--include_source_info", f"--descriptor_set_out={path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *options, *NAMES]
    done = subprocess.run(command, cwd=PROTOS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return FileDescriptorSet.FromString(path.read_bytes()).file


def messages(file):
    """Yield each message, nested ones too, with its place."""
    waiting = [((MESSAGES, index), message) for index, message in enumerate(file.message_type)]
    while waiting:
        place, message = waiting.pop()
        yield place, message
        waiting += [
            ((*place, NESTED, index), nested) for index, nested in enumerate(message.nested_type)
        ]


def enums(file):
    yield from (((ENUMS, index), enum) for index, enum in enumerate(file.enum_type))
    for place, message in messages(file):
        for index, enum in enumerate(message.enum_type):
            yield (*place, NESTED_ENUMS, index), enum


def parts(file):
    """Yield the place and the name of everything that has to say what it is for."""
    for place, message in messages(file):
        yield place, message.name
        for index, field in enumerate(message.field):
            yield (*place, FIELDS, index), f"{message.name}.{field.name}"
        optional = {field.oneof_index for field in message.field if field.proto3_optional}
        for index, oneof in enumerate(message.oneof_decl):
            if index not in optional:
                yield (*place, ONEOFS, index), f"{message.name}.{oneof.name}"
    for place, enum in enums(file):
        yield place, enum.name
        for index, value in enumerate(enum.value):
            yield (*place, VALUES, index), value.name
    for number, service in enumerate(file.service):
        yield (SERVICES, number), service.name
        for index, method in enumerate(service.method):
            yield (SERVICES, number, METHODS, index), f"{service.name}.{method.name}"


def test_everything_has_a_comment(contract):
    silent = []
    for file in contract:
        told = {
            tuple(location.path)
            for location in file.source_code_info.location
            if location.leading_comments.strip()
        }
        silent += [f"{file.name}: {name}" for place, name in parts(file) if place not in told]
    assert len(contract) == len(NAMES) > 0
    assert not silent


def test_packages_carry_a_version_and_match_their_folder(contract):
    for file in contract:
        assert file.package.endswith(".v1")
        assert str(Path(file.name).parent) == file.package.replace(".", "/")


def test_enum_values_carry_the_name_of_their_enum_and_start_unspecified(contract):
    for file in contract:
        for _, enum in enums(file):
            prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name)
            prefix = prefix.lstrip("_").upper() + "_"
            assert (enum.value[0].number, enum.value[0].name) == (0, f"{prefix}UNSPECIFIED")
            assert all(value.name.startswith(prefix) for value in enum.value), enum.name


def test_numbers_no_longer_used_are_reserved(contract):
    """Protoc refuses a reserved number; this finds removed ones that were not reserved."""
    for file in contract:
        for _, message in messages(file):
            used = {field.number for field in message.field}
            reserved = {
                number
                for span in message.reserved_range
                for number in range(span.start, min(span.end, 1000))  # excludes the end
            }
            assert used | reserved >= set(range(1, max(used, default=0) + 1)), message.name
            assert not used & reserved, message.name
        for _, enum in enums(file):
            used = {value.number for value in enum.value}
            reserved = {
                number
                for span in enum.reserved_range
                for number in range(span.start, min(span.end, 1000) + 1)  # includes the end
            }
            assert used | reserved >= set(range(max(used) + 1)), enum.name
            assert not used & reserved, enum.name


def test_each_rpc_has_messages_of_its_own(contract):
    methods = [method for file in contract for service in file.service for method in service.method]
    types = [name for method in methods for name in (method.input_type, method.output_type)]
    assert len(types) == len(set(types))
    for method in methods:
        assert method.input_type.endswith(f"{method.name}Request"), method.name
        assert method.output_type.endswith(f"{method.name}Response"), method.name
