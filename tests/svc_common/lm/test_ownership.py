"""What an erased user alone used is found; what others use stays theirs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from svc_common.lm.forgotten import BARRED_S, MAX_BARRED
from svc_common.lm.ownership import MAX_OWNERS, Ownership
from svc_common.lm.prefix_cache import BLOCK, PrefixCache
from svc_common.lm.prefix_tree import PrefixTree, TokenIds
from svc_common.lm.runner import SlotRunner
from tests.svc_common.lm.test_prefix_cache import contents_of, new_runner, prompt
from tests.tiny_model import tiny_model

ANN, BOB = b"ann", b"bob"


def test_an_item_goes_with_its_last_owner() -> None:
    ownership: Ownership[str] = Ownership()
    ownership.claim("hers", ANN)
    ownership.claim("theirs", ANN)
    ownership.claim("theirs", BOB)
    ownership.copy("theirs", "part of theirs")
    assert ownership.forget(ANN) == ["hers"]
    assert sorted(ownership.forget(BOB)) == ["part of theirs", "theirs"]
    assert ownership.forget(ANN) == ownership.forget(BOB) == []


def test_what_anybody_or_many_use_is_nobodys_to_erase() -> None:
    ownership: Ownership[str] = Ownership()
    ownership.claim("anybody's", ANN)
    ownership.claim("anybody's", b"")
    for number in range(MAX_OWNERS + 1):
        ownership.claim("many's", b"%d" % number)
    owners = [ANN, b"", *(b"%d" % number for number in range(MAX_OWNERS + 1))]
    assert [ownership.forget(owner) for owner in owners] == [[]] * len(owners)
    ownership.discard("many's")
    ownership.claim("many's", BOB)  # another one of that name
    assert ownership.forget(BOB) == ["many's"]


Kept = list[tuple[TokenIds, bytes]]
KEYS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(KEYS, st.sampled_from([ANN, BOB, b"eve", b""])), max_size=25))
def test_after_an_erasure_nothing_longer_is_found_than_others_kept(kept: Kept) -> None:
    tree = PrefixTree()
    for key, owner in kept:
        num_known = sum(piece.length for piece in tree.find(0, key))
        if num_known < len(key):
            tree.add(0, key, contents_of(key[num_known:]))
        tree.claim(0, key, owner)
    others = [key for key, owner in kept if owner != ANN]
    tree.forget(ANN)
    for key, _ in kept:
        pieces = tree.find(0, key)
        length = sum(piece.length for piece in pieces)
        assert any(other[:length] == key[:length] for other in others) or length == 0
    for other in others:  # theirs is all there
        assert sum(piece.length for piece in tree.find(0, other)) == len(other)
    for owner in (BOB, b"eve"):
        tree.forget(owner)
    if all(owner for _, owner in kept):
        assert tree.num_tokens == tree.num_bytes == 0


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=25), st.integers(0, 10))
def test_after_a_sweep_only_beginnings_of_what_is_younger_are_found(
    kept: list[tuple[TokenIds, int]], limit: int
) -> None:
    tree = PrefixTree()
    young: list[TokenIds] = []
    for key, made_at in sorted(kept, key=lambda pair: pair[1]):
        num_known = sum(piece.length for piece in tree.find(0, key))
        if num_known < len(key):
            tree.add(0, key, contents_of(key[num_known:]), made_at)
            if made_at >= limit:
                young.append(key)
    tree.drop_made_before(limit)
    assert tree.num_tokens == len({key[: i + 1] for key in young for i in range(len(key))})
    tree.clear()
    assert tree.num_tokens == tree.num_bytes == 0


def read(runner: SlotRunner, cache: PrefixCache, token_ids: TokenIds, owner: bytes) -> int:
    """Read a prompt for a user; return how many of its tokens were copied."""
    row = runner.open()
    num_copied = cache.fill(runner, row, token_ids[:-1])
    runner.append(row, token_ids[num_copied:])
    cache.keep(runner, row, token_ids, owner=owner)
    runner.close(row)
    return num_copied


def test_a_request_under_way_keeps_nothing_for_a_user_who_was_erased_meanwhile() -> None:
    now = [0.0]
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(1 << 20, max_age_s=3600.0, clock=lambda: now[0])
    hers, his = prompt(1), prompt(2)
    assert read(runner, cache, hers, ANN) == 0
    assert read(runner, cache, hers, ANN) == len(hers) - 1
    read(runner, cache, his, BOB)
    cache.forget([ANN])
    assert read(runner, cache, hers, ANN) == 0  # began before, ends after
    assert read(runner, cache, hers, ANN) == 0
    assert read(runner, cache, his, BOB) == len(his) - 1
    now[0] = BARRED_S + 1
    cache.drop_old()
    assert read(runner, cache, hers, ANN) == 0
    assert read(runner, cache, hers, ANN) == len(hers) - 1


def test_a_flood_of_erasures_takes_little_memory_and_nothing_is_kept_for_any_user_meanwhile() -> (
    None
):
    """Each erased user was remembered for ten minutes, however many there were."""
    now = [0.0]
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(1 << 20, max_age_s=3600.0, clock=lambda: now[0])
    mine, hers = prompt(1), prompt(2)
    cache.forget([ANN])
    cache.forget(b"%d" % number for number in range(MAX_BARRED + 1))
    assert len(cache._forgotten) <= MAX_BARRED
    for _ in range(2):
        assert read(runner, cache, hers, ANN) == 0
        read(runner, cache, mine, b"")  # what is nobody's is kept
    assert read(runner, cache, mine, b"") == len(mine) - 1
    now[0] = BARRED_S + 1
    read(runner, cache, hers, ANN)
    assert read(runner, cache, hers, ANN) == len(hers) - 1


def test_what_nobody_was_told_to_forget_goes_by_age() -> None:
    now = [0.0]
    runner = new_runner("lean", tiny_model())
    cache = PrefixCache(1 << 20, max_age_s=10.0, clock=lambda: now[0])
    first = prompt(1)
    second = (*first[: 2 * BLOCK], *prompt(2, BLOCK))
    read(runner, cache, first, ANN)
    now[0] = 8.0
    read(runner, cache, second, BOB)
    now[0] = 11.0
    cache.drop_old()
    assert cache.count(0, first) == 2 * BLOCK  # the beginning of what is younger
    now[0] = 19.0
    cache.drop_old()
    assert cache.num_tokens == 0
