"""Finds users and texts by the node of the tests' cluster that has them."""

from itertools import count

from generator_svc.profile_format import encoding_key, profile_key, user_tag


def users_on(cluster, server, number):
    """Return ids of users of tenant `t` whose profiles lie on `server`."""
    names = (f"user-{its}" for its in count())
    found = (its for its in names if cluster.owner(profile_key(user_tag("t", its))) is server)
    return [next(found) for _ in range(number)]


def text_on(cluster, server):
    """Return a text of tenant `t` whose encodings lie on `server`."""
    texts = (f"Wish {its}." for its in count())
    return next(its for its in texts if cluster.owner(encoding_key("t", its)) is server)


def tenant_on(cluster, server):
    """Return a tenant whose limits and index lie on `server`."""
    names = (f"tenant-{its}" for its in count())
    return next(its for its in names if cluster.owner(f"{{{its}}}") is server)
