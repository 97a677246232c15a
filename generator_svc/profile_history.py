"""Earlier revisions of a profile: how they stand in Redis, beside the profile in its own hash."""

from collections.abc import Iterator
from dataclasses import dataclass

from generator_svc.profile_format import Profile, from_stored
from svc_common.errors import InvalidRequestError, ProfileDamagedError, ProfileNotFoundError


@dataclass(frozen=True)
class Earlier:
    """An earlier revision, and the line of the history that holds it."""

    profile: Profile
    line: bytes


@dataclass(frozen=True)
class History:
    """What is kept of a profile.

    Attributes:
        current: What is stored now; None if it is damaged.
        earlier: What was stored before, newest first.
        num_damaged: Lines of the history that cannot be read.
    """

    current: Profile | None
    earlier: tuple[Earlier, ...]
    num_damaged: int

    @property
    def texts(self) -> set[str]:
        """All texts of all earlier revisions."""
        return {its.text for one in self.earlier for its in one.profile.preferences}

    def find(self, revision: int) -> Earlier:
        """Return an earlier revision.

        Raises:
            InvalidRequestError: It is the current one.
            ProfileNotFoundError: It is not kept.
        """
        if self.current is not None and revision == self.current.revision:
            rule = f"must be an earlier one than the stored {revision}"
            raise InvalidRequestError(f"revision: {rule}, got {revision}")
        for one in self.earlier:
            if one.profile.revision == revision:
                return one
        kept = ", ".join(str(one.profile.revision) for one in self.earlier) or "none"
        raise ProfileNotFoundError(f"revision: must be one that is kept ({kept}), got {revision}")


def parse_history(user_id: str, current: Profile | None, stored: bytes, most: int) -> History:
    """Return the history of which PUT wrote the lines.

    Args:
        user_id: The user.
        current: The profile that is stored now.
        stored: The hash field; anything if somebody else wrote it.
        most: Revisions that are shown.
    """
    found = list(_lines(user_id, stored))[:most]
    earlier = tuple(one for one in found if one is not None)
    return History(current, earlier, len(found) - len(earlier))


def _lines(user_id: str, stored: bytes) -> Iterator[Earlier | None]:
    """Yield the revisions, newest first; None for one that cannot be read."""
    for line in stored.splitlines(keepends=True):
        try:
            schema, revision, updated_at, beta, preferences = line.rstrip(b"\n").split(b"\t")
            fields = (b"hash", schema, preferences, beta, revision, updated_at)
            yield Earlier(from_stored(user_id, fields), line)
        except (ValueError, ProfileDamagedError):
            yield None
