"""What the tab key offers beside the names of commands, options and their values: user ids."""

import os
import re
import time
from collections.abc import Iterator

import typer

from pad_client.cli.access_options import read_access
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
    server = context.params.get("server") or os.environ.get("PAD_SERVER") or DEFAULT_SERVER
    try:
        access = read_access(context.find_root().params)
        with GeneratorClient(server, timeout_s=_MAX_WAIT_S, **access) as client:
            return list(_users(client, incomplete))
    except PadError:
        return []  # an error in the middle of a command line helps nobody


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
