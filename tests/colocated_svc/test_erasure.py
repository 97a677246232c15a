"""Both models keep prefixes in one cache: erasing a user clears it once, for both."""

from dataclasses import replace

import pytest

from generator_svc.engine.sequence import GenerationParams
from tests.colocated_svc.pair import RunningPair, colocated, guided, ids

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
TEXT, WISH = "Tell me of the sea.", "Sing of canaries that nobody has heard of."


def owned(subject: bytes) -> GenerationParams:
    params = guided(TEXT, WISH)
    assert params.reward_context is not None
    return replace(params, reward_context=replace(params.reward_context, subject=subject))


async def write(pair: RunningPair, subject: bytes) -> list[int]:
    answer = pair.answer(TEXT, owned(subject))
    answer.subject = subject
    pair.engine.submit(answer)
    return ids([token async for token in answer.tokens()])


async def test_erased_users_prefixes_go_and_answers_stay_the_same(
    variables: dict[str, str],
) -> None:
    async with colocated(variables, GENERATOR_MAX_PREFIX_CACHE_BYTES=1 << 22) as pair:
        prefixes, thread = pair.pair.cache.prefixes, pair.pair.scorer._thread
        first = await write(pair, b"ann")
        num_of_ann = prefixes.num_tokens
        assert num_of_ann > 0
        assert await write(pair, b"bob") == first  # from the cache, which is bob's now too
        await thread.run(prefixes.forget, [b"ann"])
        assert await pair.queries.forget([b"ann"], 1.0)
        assert prefixes.num_tokens == num_of_ann
        await thread.run(prefixes.forget, [b"bob"])
        assert prefixes.num_tokens == 0
        assert await write(pair, b"ann") == first
        assert prefixes.num_tokens == 0  # an answer of hers may have been under way
