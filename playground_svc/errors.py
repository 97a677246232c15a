"""What can go wrong, in words for the person in front of the page."""

from dataclasses import dataclass
from typing import Any

from edge_svc.errors import ApiError
from pad_client import (
    AccessDeniedError,
    ConflictError,
    DamagedProfileError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelMismatchError,
    NotFoundError,
    OverloadedError,
    PadError,
    RequestCancelledError,
    UnavailableError,
)


@dataclass(eq=False)  # an exception must have a hash
class PageError(Exception):
    """A refusal or failure as the page shows it.

    Attributes:
        status: Of the HTTP response.
        code: What it is, for the page's own decisions.
        title: What went wrong, in a few words.
        message: The rule and the value, or what the generator says.
        hint: What the person can do.
        retry_after_s: When trying again makes sense; None if it does not say.
        request_id: Finds the call in the generator's log; empty if it never got there.
    """

    status: int
    code: str
    title: str
    message: str = ""
    hint: str = ""
    retry_after_s: float | None = None
    request_id: str = ""

    def body(self) -> dict[str, Any]:
        """Return the error as the page reads it."""
        names = ("code", "title", "message", "hint", "retry_after_s", "request_id")
        return {"error": {name: getattr(self, name) for name in names}}


# The most precise class first: status, code, title, hint.
_WORDS: tuple[tuple[type[PadError], int, str, str, str], ...] = (
    (
        MessageTooLargeError,
        413,
        "too_large",
        "That is more text than the generator reads at once",
        "Send less text.",
    ),
    (
        InvalidRequestError,
        400,
        "invalid",
        "The generator cannot accept this request",
        "Correct what the message names, then try again.",
    ),
    (
        NotFoundError,
        404,
        "not_found",
        "No profile is stored for this user",
        "Check the user's name, or save a profile under it first.",
    ),
    (
        ConflictError,
        409,
        "conflict",
        "Somebody else changed this profile after you loaded it",
        "Look at what is stored now, then decide which one to keep.",
    ),
    (
        DamagedProfileError,
        500,
        "damaged",
        "The stored profile cannot be read",
        "Save it again.",
    ),
    (
        ModelMismatchError,
        400,
        "mismatch",
        "This request does not fit the loaded models",
        "A shorter prompt, or other options, may fit.",
    ),
    (
        AccessDeniedError,
        403,
        "denied",
        "The generator does not let the playground in",
        "Start the playground with a token that may do this (--token-file).",
    ),
    (
        OverloadedError,
        429,
        "busy",
        "The generator is busy",
        "It takes more requests once others are done.",
    ),
    (
        DeadlineExceededError,
        504,
        "timeout",
        "The answer took too long",
        "Ask for fewer tokens, or try again when the generator is less busy.",
    ),
    (
        RequestCancelledError,
        503,
        "cancelled",
        "The generator ended this answer",
        "Try again.",
    ),
    (
        InternalError,
        500,
        "internal",
        "Something went wrong inside the generator",
        "Its log says more, under the number of this request.",
    ),
)
_OTHER = (500, "other", "The generator refused", "Its log says more.")


def from_pad(error: PadError, address: str) -> PageError:
    """Return what the generator, or its client, said, in the page's words.

    Args:
        error: What was said.
        address: Where the generator should be.
    """
    if isinstance(error, UnavailableError):
        return _unavailable(error, address)
    words = (row[1:] for row in _WORDS if isinstance(error, row[0]))
    status, code, title, hint = next(words, _OTHER)
    return PageError(
        status, code, title, error.message, hint, error.retry_after_s, error.request_id
    )


def from_api(error: ApiError) -> PageError:
    """Return a refusal of the HTTP layer in the page's words."""
    return PageError(error.status, error.code, "The playground cannot read this", error.message)


def _unavailable(error: UnavailableError, address: str) -> PageError:
    if error.request_id:  # it is there, and something that it needs is not
        title = "The generator cannot answer right now"
        return PageError(
            503,
            "unavailable",
            title,
            error.message,
            "Try again in a moment.",
            error.retry_after_s,
            error.request_id,
        )
    return PageError(
        503,
        "gone",
        "The generator does not answer",
        f"Nothing answers at {address}.",
        "Start it with `pad up`, or start the playground with another --server.",
    )
