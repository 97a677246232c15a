"""A prompt that is being written from is copied for its own tenant's requests alone."""

from svc_common.lm.partitions import partition_of
from tests.generator_svc.test_engine import BASE, ids, running_engine

TEXT = "Tell me of the sea, and of the ships that sail on it in winter."
ACME, OTHER = b"a" * 32, b"b" * 32


async def test_rows_of_another_tenant_are_no_source_of_copies() -> None:
    counts: dict[str, int] = {}
    async with running_engine() as harness:
        reader = harness.engine._model._prompts

        class Counting:
            def prompt_tokens(self, source: str, num_tokens: int) -> None:
                counts[source] = counts.get(source, 0) + num_tokens

            def prefix_cache(self, num_tokens: int, num_bytes: int) -> None: ...

        reader._observer = Counting()
        answers = []
        for subject in (ACME, OTHER, ACME):
            before = dict(counts)
            sequence = harness.sequence(TEXT, BASE)
            sequence.subject = subject
            harness.engine.submit(sequence)
            tokens = sequence.tokens()
            first = await anext(tokens)  # its row now holds the prompt, and stays open
            answers.append((tokens, [first]))
            copied = sum(counts.get(s, 0) - before.get(s, 0) for s in ("row", "cache"))
            known = len(answers) == 3  # the second ACME request
            assert (copied == len(sequence.prompt_ids) - 1) == known
            assert (copied == 0) != known
        texts = []
        for tokens, found in answers:
            texts.append(ids(found + [token async for token in tokens]))
        assert texts[0] == texts[1] == texts[2]
    assert partition_of(ACME) != partition_of(OTHER)
