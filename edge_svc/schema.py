"""The bodies that callers send: fields of the OpenAI API that can be honoured, and `pad`."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from edge_svc.errors import ApiError, invalid, unsupported
from edge_svc.unsupported import NEUTRAL, is_neutral

MAX_STOPS = 8
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5
MAX_PARTS = 1024
MAX_MESSAGES = 4096
# All that is wrong with a body is collected, at about 3 us and 1 KB an error, before one of them is
# told. So lists end with their first wrong item, and objects have fewer fields than this.
MAX_FIELDS = 64
_LENGTHS = ("too_short", "too_long")
_RULES = {
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "extra_forbidden": "must be absent: there is no such field",
    "missing": "must be given",
}
_MAX_NAME = 80  # characters of a field's name that are told

# 64 bits, as the generator takes them; negative ones stand for the upper half.
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
Whole = Annotated[int, Field(ge=1, lt=1 << 32)]
Stop = str | Annotated[list[str], Field(max_length=MAX_STOPS, fail_fast=True)]


class Body(BaseModel):
    """Strict: "1" is no number, and a field we do not know is never dropped."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class TextPart(Body):
    """One part of a message; other kinds than text are refused."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn; `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    )

    @property
    def text(self) -> str:
        """What is said; parts stand on lines of their own."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class Wish(Body):
    """A preference for this request alone."""

    text: str
    weight: float = 1.0


class PadOptions(Body):
    """What the OpenAI API has no field for; ranges as in generator.proto."""

    preferences: Annotated[list[str | Wish], Field(fail_fast=True)] = []
    beta: float | None = None
    strategy: Literal["base", "prompt", "pad", "pad-released", "best-of-n"] | None = None
    top_k: Whole | None = None
    reference: Literal["backbone", "base"] | None = None
    fallback: Literal["fail", "unguided"] | None = None
    num_samples: Whole | None = None
    preference_in_base_prompt: bool = False
    ignore_end_of_turn: bool = False
    details: bool = False
    explain: bool = False
    if_no_profile: Literal["error", "base"] | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = None


class StreamOptions(Body):
    """What a stream tells beside the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class GenerationBody(Body):
    """What both kinds of completion share."""

    model: str
    max_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    n: Whole | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    pad: PadOptions = PadOptions()

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def check(self) -> None:
        """Refuse fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "must be given with stream=true alone")


class ChatBody(GenerationBody):
    """The body of /v1/chat/completions."""

    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def check(self) -> None:
        super().check()
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise invalid("max_tokens", "must not be given with max_completion_tokens")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "must be given with logprobs=true alone")


class CompletionBody(GenerationBody):
    """The body of /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None


BodyT = TypeVar("BodyT", bound=GenerationBody)


def parse_body(kind: type[BodyT], value: Any) -> BodyT:
    """Return the checked body.

    Raises:
        ApiError: A field is missing, of the wrong type, or cannot be honoured; texts are not told.
    """
    if not isinstance(value, dict):
        raise ApiError(400, "body: must be a JSON object", code="invalid_json")
    fields = {name: each for name, each in value.items() if not is_neutral(name, each)}
    for name in fields:
        if name in NEUTRAL and name not in kind.model_fields:
            raise unsupported(name, NEUTRAL[name].reason)
    check_width(fields)
    if "messages" in fields:
        fields["messages"] = _without_empty(fields["messages"])
    try:
        body = kind.model_validate(fields)
    except ValidationError as error:
        raise _first_error(error) from None  # the cause would hold the texts
    body.check()
    return body


def check_width(value: Any) -> None:
    """Refuse objects with more fields than any of ours.

    Raises:
        ApiError: There is one.
    """
    if isinstance(value, dict):
        if len(value) > MAX_FIELDS:
            message = f"body: objects must have at most {MAX_FIELDS} fields, got {len(value)}"
            raise ApiError(400, message, code="invalid_json")
        value = value.values()
    for each in value:
        if isinstance(each, dict | list):
            check_width(each)


def _without_empty(messages: Any) -> Any:
    """Drop null and empty fields of turns: an answer that is sent back is full of them."""
    if not isinstance(messages, list):
        return messages
    return [
        {k: v for k, v in each.items() if k == "content" or v not in (None, [])}
        if isinstance(each, dict)
        else each
        for each in messages
    ]


def _first_error(error: ValidationError) -> ApiError:
    """Return the refusal of the field whose error lies deepest, which is the most precise."""
    details = error.errors(include_url=False, include_input=False)
    # A list of a wrong length says more than that it is no string, which stands there as well.
    detail = max(details, key=lambda each: (len(_path(each["loc"])), each["type"] in _LENGTHS))
    loc, kind = detail["loc"], detail["type"]
    param = _param(_path(loc))
    if kind == "missing":
        return invalid(param, "must be given", code="missing_required_parameter")
    if kind == "extra_forbidden":
        if loc[0] == "messages":
            return unsupported(param, "must be absent: a turn has role and content alone")
        return invalid(param, "is no field of this API", code="unknown_parameter")
    if kind == "literal_error" and param.endswith("].type"):
        return unsupported(param, "must be 'text': other kinds of content cannot be read")
    if kind == "literal_error" and param.endswith("].role"):
        return unsupported(param, "must be system, developer, user or assistant")
    if kind == "string_type" and loc[-1] == "str":
        other = "an object" if loc[-2:-1] and isinstance(loc[-2], int) else "a list"
        return invalid(param, f"must be a string or {other}")
    return invalid(param, rule_of(detail))


def rule_of(detail: ErrorDetails) -> str:
    """Return the rule that a value breaks, in the words of our other errors; never the value."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _LENGTHS:
        bound, most = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        number, found = context[most], context.get("actual_length")
        entries = "entry" if number == 1 else "entries"
        got = "" if found is None else f", got {found}"  # pydantic does not always count on
        return f"must have at {bound} {number} {entries}{got}"
    return _RULES.get(kind) or detail["msg"].removeprefix("Input ").replace("should", "must")


def _path(loc: tuple[int | str, ...]) -> list[int | str]:
    """Return where a value stands, without the alternatives of a union that were tried there."""
    return [
        part
        for part in loc
        if isinstance(part, int) or not (part in ("str", Wish.__name__) or part.startswith("list["))
    ]


def _param(path: list[int | str]) -> str:
    text = ""
    for part in path:
        name = part if isinstance(part, int) else part[:_MAX_NAME]
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text or "body"
