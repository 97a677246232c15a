"""The two services over gRPC write the tokens of the written-out method."""

import json
from pathlib import Path

import pytest

from pad_client import GeneratorClient, Message
from tests.e2e.naive_pad import Chat, NaivePad

K = 10
NUM_TOKENS = 20
BETAS = (0.0, 0.5, 0.8, 1.0, 1.5)
PREFERENCES = (
    "Be brief.",
    "Be friendly and chat with me a little.",
    "Sound excited!",
    "Be formal and polite.",
)
PROMPTS: list[Chat] = json.loads((Path(__file__).parent / "parity_prompts.json").read_text())


@pytest.fixture(scope="module")
def naive(models_dir: Path) -> NaivePad:
    return NaivePad(models_dir / "demo-base", models_dir / "demo-persrm")


def served(client: GeneratorClient, chat: Chat, **options: object) -> list[int]:
    messages = [Message(turn["role"], turn["content"]) for turn in chat]
    answer = client.complete(
        messages=messages, top_k=K, max_tokens=NUM_TOKENS, temperature=0.0, **options
    )
    return [token.token_id for token in answer.tokens]


@pytest.mark.slow
@pytest.mark.parametrize("preference", PREFERENCES)
def test_served_tokens_equal_the_written_out_method(
    client: GeneratorClient, naive: NaivePad, preference: str
) -> None:
    assert len(PROMPTS) == 20
    num_changed = 0
    for chat in PROMPTS:
        base = served(client, chat, strategy="base")
        for rule in ("pad", "pad-released"):
            for beta in BETAS:
                tokens, gap = naive.generate(rule, chat, preference, beta, K, NUM_TOKENS)
                assert gap > 1e-5, "a tie: choose another prompt, rounding decides this one"
                answer = served(client, chat, strategy=rule, preferences=[preference], beta=beta)
                assert answer == tokens, (rule, beta, chat)
                if beta == 0:
                    assert answer == base
                num_changed += answer != base
    assert num_changed > len(PROMPTS)  # the profile does something
