"""Whose a request is, in the opaque names that caches know, and what of them may be shared.

A full name has two halves: the first says of which tenant, the second of which user, or nobody if
it is zeros. What is kept for one tenant is found for no other: else the time that a prompt takes
would tell whoever can guess a text that another tenant used it. Shorter names have no tenant.
"""

HALF_BYTES = 16
NOBODY = bytes(HALF_BYTES)


def partition_of(subject: bytes) -> bytes:
    """Return what is the same for all requests of a tenant; empty if the name has none."""
    return subject[:HALF_BYTES] if len(subject) == 2 * HALF_BYTES else b""


def owner_of(subject: bytes) -> bytes:
    """Return the name if it is a user's, else an empty one."""
    is_nobody = len(subject) == 2 * HALF_BYTES and subject[HALF_BYTES:] == NOBODY
    return b"" if is_nobody else subject
