"""What the tab key offers beside commands, options and fixed values: users, revisions, levels."""

import os
import re
import time
from collections.abc import Iterator

import typer

from pad_client import presets
from pad_client.cli.access_options import read_access
from pad_client.cli.bash_words import HEAD
from pad_client.cli.console import DEFAULT_SERVER
from pad_client.client import GeneratorClient
from pad_client.errors import PadError

_MAX_WAIT_S = 0.5  # somebody waits with a finger on the key
_MAX_OFFERED = 50
# A shell puts what is offered into the command line, or evaluates it there and then, and user ids
# are chosen by users: what a shell might read as more than a word, or `pad` as an option, is not
# offered.
_PLAIN_WORD = re.compile(r"[\w./][\w.@%+,/-]*", re.ASCII)


def complete_user(context: typer.Context, incomplete: str) -> list[str]:
    """Return ids of users with a profile that begin so; none if no server answers in time."""
    if os.environ.get(HEAD):
        return []  # an id at which bash breaks words: none of those is offered
    try:
        with _client(context) as client:
            return list(_users(client, incomplete))
    except PadError:
        return []  # an error in the middle of a command line helps nobody


def complete_revision(context: typer.Context) -> list[str]:
    """Return the earlier revisions of a user that are kept, newest first."""
    # Behind an option that waits for its value, words before it are not yet told apart.
    user = context.params.get("user") or next(iter(context.args), "")
    try:
        with _client(context) as client:
            found = client.profile_history(user)
    except PadError:
        return []
    numbers = [each.revision for each in found.revisions if each.revision != found.current_revision]
    return [str(each) for each in numbers]  # typer leaves those that begin so


def complete_level(context: typer.Context, incomplete: str) -> list[str]:
    """Return `DIMENSION=LEVEL` of the presets, of dimensions that are not yet set."""
    path = context.params.get("presets_file") or os.environ.get("PAD_PRESETS") or None
    try:
        known = presets.load(path).dimensions.values()
    except PadError:
        return []
    is_set = {choice.partition("=")[0] for choice in context.params.get("chosen") or ()}
    choices = [f"{each.name}={level}" for each in known for level in each.levels]
    head = os.environ.get(HEAD, "")
    return [
        choice.removeprefix(head)
        for choice in choices
        if choice.startswith(head + incomplete) and choice.partition("=")[0] not in is_set
    ]


def _client(context: typer.Context) -> GeneratorClient:
    server = context.params.get("server") or os.environ.get("PAD_SERVER") or DEFAULT_SERVER
    return GeneratorClient(server, timeout_s=_MAX_WAIT_S, **read_access(context.find_root().params))


def _users(client: GeneratorClient, beginning: str) -> Iterator[str]:
    give_up_at = time.monotonic() + _MAX_WAIT_S
    num_offered = 0
    for profile in client.list_profiles(page_size=1000):  # in the order of the ids
        user_id = profile.user_id
        if user_id.startswith(beginning) and _PLAIN_WORD.fullmatch(user_id):
            yield user_id
            num_offered += 1
        if num_offered == _MAX_OFFERED or time.monotonic() > give_up_at:
            return
        if user_id[: len(beginning)] > beginning:
            return
