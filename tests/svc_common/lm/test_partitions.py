"""What is kept of one tenant's prompts is found for no other tenant's."""

import itertools

import pytest
import torch

from generator_svc.profile_format import subject_of, subject_of_tenant, user_tag
from svc_common.lm.partitions import owner_of, partition_of
from svc_common.lm.prefix_cache import BLOCK, PrefixCache
from svc_common.lm.runner import SlotRunner
from svc_common.lm.transformers_forward import TransformersForward
from tests.tiny_model import tiny_model

ANN, BOB = (subject_of(user_tag("acme", user)) for user in ("ann", "bob"))
NOBODY = subject_of_tenant("acme")
OTHERS = [subject_of(user_tag("other", "ann")), subject_of_tenant("other"), b"", b"short"]
PROMPT = tuple(range(20, 20 + 3 * BLOCK))


def keep(runner: SlotRunner, cache: PrefixCache, owner: bytes) -> int:
    """Read a prompt as the services do, and return how much of it was copied."""
    row = runner.open()
    num_copied = cache.fill(runner, row, PROMPT[:-1], owner)
    runner.append(row, PROMPT[num_copied:])
    cache.keep(runner, row, PROMPT, is_shared=True, owner=owner)
    runner.close(row)
    return num_copied


@pytest.mark.parametrize("first", [ANN, NOBODY], ids=["user", "nobody"])
def test_a_prompt_is_copied_for_its_tenant_alone(first: bytes) -> None:
    torch.set_num_threads(1)
    runner = SlotRunner(
        TransformersForward(tiny_model().base_model), num_slots=2, context_length=128
    )
    cache = PrefixCache(1 << 20)
    assert keep(runner, cache, first) == 0
    for stranger in (OTHERS[0], b""):
        assert cache.count(0, PROMPT, stranger) == 0
        assert keep(runner, cache, stranger) == 0  # and then has its own
    for friend in (ANN, BOB, NOBODY):
        assert keep(runner, cache, friend) == len(PROMPT) - 1
    cache.forget([ANN])
    assert cache.count(0, PROMPT, OTHERS[0]) == len(PROMPT)  # another ann


def test_a_tenants_requests_without_a_user_belong_to_nobody() -> None:
    assert owner_of(NOBODY) == b""
    assert [owner_of(user) for user in (ANN, BOB, b"short", b"")] == [ANN, BOB, b"short", b""]
    assert partition_of(ANN) == partition_of(BOB) == partition_of(NOBODY) != b""
    assert len({partition_of(one) for one in (ANN, *OTHERS)}) == 3  # acme, other, none


def test_names_say_nothing_and_differ() -> None:
    tenants = ("a", "b", "a.b")
    users = ("", "a", "b", "a:b", "b:a")
    names = {
        subject_of(user_tag(tenant, user)) if user else subject_of_tenant(tenant)
        for tenant, user in itertools.product(tenants, users)
    }
    assert len(names) == len(tenants) * len(users)
    assert {len(name) for name in names} == {32}
