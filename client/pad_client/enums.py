"""String enums for callers against numbers on the wire; their names differ by a prefix only."""

from enum import StrEnum
from typing import TypeVar

from google.protobuf.descriptor import EnumDescriptor

from pad_client.errors import InvalidRequestError

_EnumT = TypeVar("_EnumT", bound=StrEnum)


def enum_number(field: str, enum: type[StrEnum], value: str, descriptor: EnumDescriptor) -> int:
    """Return the wire's number for a value of the enum.

    Raises:
        InvalidRequestError: `value` is none of the enum's.
    """
    try:
        member = enum(value)
    except ValueError as error:
        names = ", ".join(enum)
        raise InvalidRequestError(f"{field}: must be one of {names}, got {value!r}") from error
    return descriptor.values_by_name[_prefix(descriptor) + member.name].number


def enum_member(enum: type[_EnumT], descriptor: EnumDescriptor, number: int) -> _EnumT | None:
    """Return the value for a number of the wire; None for one this client does not know."""
    value = descriptor.values_by_number.get(number)
    if value is None:
        return None
    return enum.__members__.get(value.name.removeprefix(_prefix(descriptor)))


def _prefix(descriptor: EnumDescriptor) -> str:
    """Return what all names of the enum start with: its zero's name without UNSPECIFIED."""
    return descriptor.values[0].name.removesuffix("UNSPECIFIED")
