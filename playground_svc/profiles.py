"""Stored profiles: the first of them, one of them, and a write that never overwrites unseen."""

from dataclasses import asdict
from typing import Any

from pad_client import AsyncGeneratorClient, DamagedProfileError, Profile
from playground_svc.schema import ProfileBody, wishes

MAX_LISTED = 200  # to choose from; any other is loaded by its name
TIMEOUT_S = 10.0


async def some(client: AsyncGeneratorClient) -> dict[str, Any]:
    """Return the first profiles in the order of their users, and whether these are all."""
    listed: list[dict[str, Any]] = []
    damaged = ""
    try:
        async for profile in client.list_profiles(page_size=MAX_LISTED, timeout_s=TIMEOUT_S):
            if len(listed) == MAX_LISTED:
                return {"profiles": listed, "is_complete": False, "damaged": damaged}
            listed.append(told(profile))
    except DamagedProfileError as error:  # comes after all others
        damaged = error.message
    return {"profiles": listed, "is_complete": True, "damaged": damaged}


async def one(client: AsyncGeneratorClient, user_id: str) -> dict[str, Any]:
    """Return a user's profile."""
    return told(await client.get_profile(user_id, timeout_s=TIMEOUT_S))


async def put(client: AsyncGeneratorClient, body: ProfileBody) -> dict[str, Any]:
    """Store a profile in place of the revision that the page has seen.

    Raises:
        ConflictError: Another revision is stored.
    """
    stored = await client.put_profile(
        body.user_id,
        wishes(body.preferences),
        beta=body.beta,
        expected_revision=body.expected_revision,
        timeout_s=TIMEOUT_S,
    )
    return told(stored)


def told(profile: Profile) -> dict[str, Any]:
    """Return a profile as the page reads it."""
    written = profile.updated_at
    return {**asdict(profile), "updated_at": written.isoformat() if written else None}
