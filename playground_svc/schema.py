"""The bodies that the page sends; what the generator checks itself is left to it."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_svc.schema import Body, Whole, check_width, rule_of
from pad_client import GenerateOptions, Preference
from playground_svc.errors import PageError

MAX_TURNS = 64
MAX_WISHES = 64  # the generator takes fewer, and says so itself


class PageBody(Body):
    """Numbers are finite: others could not be copied into a request."""

    model_config = ConfigDict(allow_inf_nan=False)


class Wish(PageBody):
    """A preference."""

    text: str
    weight: float = 1.0


Wishes = Annotated[list[Wish], Field(max_length=MAX_WISHES, fail_fast=True)]


class Turn(PageBody):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class GenerationBody(PageBody):
    """One answer: for nobody, for a stored user, or by wishes of this request."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_TURNS, fail_fast=True)]
    user_id: str | None = None
    preferences: Wishes | None = None
    strategy: Literal["base", "prompt", "pad", "pad-released"] | None = None
    beta: float | None = None
    top_k: Whole | None = None
    temperature: float | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] | None = None
    max_tokens: Whole | None = None

    def options(self) -> GenerateOptions:
        """Return the request as the client takes it; what was left out stays out."""
        given: dict[str, Any] = self.model_dump(exclude_none=True)
        if self.preferences is not None:
            given["preferences"] = wishes(self.preferences)
        options: GenerateOptions = {}
        options.update(given)  # type: ignore[typeddict-item]
        return options


class UserBody(PageBody):
    """Names a user."""

    user_id: str


class ProfileBody(PageBody):
    """A profile to store in place of a revision; 0 says that there is none yet."""

    user_id: str
    preferences: Wishes
    beta: float | None = None
    expected_revision: Annotated[int, Field(ge=0, lt=1 << 64)]


def wishes(given: list[Wish]) -> list[Preference]:
    """Return preferences as the client takes them."""
    return [Preference(each.text, each.weight) for each in given]


BodyT = TypeVar("BodyT", bound=BaseModel)


def parse(kind: type[BodyT], value: Any) -> BodyT:
    """Return the checked body.

    Raises:
        ApiError: An object has more fields than any of ours.
        PageError: A field is missing, unknown or of the wrong type; texts are not told.
    """
    check_width([value])  # each wrong field would cost its error
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "body"
        title = "The playground cannot read this"
        raise PageError(400, "invalid", title, f"{name[:80]}: {rule_of(first)}") from None
