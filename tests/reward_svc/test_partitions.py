"""A replica keeps prompts and vectors of each tenant apart, and tells none by its times."""

from dataclasses import replace

from pad.v1 import reward_pb2
from reward_svc.encoder import PreferenceEncoder
from reward_svc.model import PersRM
from reward_svc.preference_vectors import PreferenceVectors
from reward_svc.prompts import Term, WeightedPreference
from tests.reward_svc.oracle import random_preference_head
from tests.reward_svc.replica import BRIEF, running_replica
from tests.reward_svc.service import context_message, pack, running_service
from tests.reward_svc.test_given_vectors import CountingEncoder

ACME, OTHER = b"a" * 32, b"b" * 32
ACME_TOO = b"a" * 16 + b"z" * 16  # another user


async def test_a_session_finds_what_its_own_tenant_left(model: PersRM) -> None:
    async with running_replica(model) as replica:
        generator = replica.generator()
        opened = [
            await generator.open(number, replace(BRIEF, subject=subject))
            for number, subject in enumerate((ACME, OTHER, b"", ACME_TOO))
        ]
        assert [its.num_cached_tokens > 0 for its in opened] == [False, False, False, True]


async def test_an_encoded_preference_is_warm_for_its_own_tenant(model: PersRM) -> None:
    async with running_replica(model) as replica:
        await PreferenceEncoder(replica.cache, replica.batcher).encode("Be brief.", ACME)
        generator = replica.generator()
        other = await generator.open(1, replace(BRIEF, subject=OTHER))
        mine = await generator.open(2, replace(BRIEF, subject=ACME_TOO))
        assert other.num_cached_tokens == 0
        assert mine.num_cached_tokens > 0


async def test_the_names_arrive_over_grpc(model: PersRM) -> None:
    async with running_service(model) as service:
        cached = []
        for number, subject in enumerate((ACME, OTHER, ACME_TOO)):
            context = context_message(BRIEF)
            context.subject = subject
            opening = reward_pb2.SessionOpen(
                session=number, context=context, tokenizer_fingerprint=service.fingerprint
            )
            opening.token_ids = pack(())
            call = service.stub.Score()
            await call.write(reward_pb2.ScoreRequest(opens=[opening]))
            (opened,) = (await call.read()).opened
            cached.append(opened.num_cached_tokens)
            call.cancel()
        assert cached[:2] == [0, 0]
        assert cached[2] > 0


def test_a_vector_is_computed_once_for_each_tenant() -> None:
    encoder = CountingEncoder()
    vectors = PreferenceVectors(encoder, random_preference_head(8), "v")
    terms = [Term(0, 1.0, WeightedPreference("Be brief.", 1.0))]
    for subject, num_asked in ((ACME, 1), (ACME_TOO, 1), (OTHER, 2), (b"", 3), (OTHER, 3)):
        list(vectors.of_terms(terms, subject))
        assert len(encoder.texts) == num_asked
    vectors.forget([OTHER])
    for subject, num_asked in ((ACME, 3), (OTHER, 4)):
        list(vectors.of_terms(terms, subject))
        assert len(encoder.texts) == num_asked
