from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from svc_common.preference_prompt import ChatMessage
from training.config import TokenizerConfig
from training.data import CandidatePrompt, Turn
from training.encoding import ChatEncoder, group_by_length, pad_batch
from training.tokenizer import corpus, train_tokenizer
from training.windows import candidate_windows, dialogue_windows, with_additions

USER = ChatMessage("user", "Find a hotel.")
ASSISTANT = ChatMessage("assistant", "Oslo Inn.")
ADDED = Turn(ASSISTANT, before=("Sure!",), after=("Enjoy it!",))


@pytest.fixture(scope="module")
def tokenizer(data: Path) -> Tokenizer:
    return train_tokenizer(corpus(data), TokenizerConfig(vocab_size=400))


def test_additions_stand_around_the_reply() -> None:
    replies = {with_additions(ADDED, 1.0, Random(seed)).content for seed in range(50)}
    assert replies == {"Sure! Oslo Inn.", "Oslo Inn. Enjoy it!", "Sure! Oslo Inn. Enjoy it!"}


def test_about_the_stated_share_of_replies_gets_additions() -> None:
    rng = Random(0)
    plain = [with_additions(ADDED, 0.5, rng) == ASSISTANT for _ in range(1000)]
    assert 430 < sum(plain) < 570


def test_windows_cover_each_turn_once_and_begin_with_the_user() -> None:
    dialogue = [Turn(ChatMessage(("user", "assistant")[i % 2], str(i))) for i in range(13)]
    for seed in range(20):
        windows = dialogue_windows(dialogue, 0.5, 8, Random(seed))
        assert [m.content for window in windows for m in window] == [str(i) for i in range(13)]
        assert all(window[0].role == "user" for window in windows)
        assert all(len(window) <= 8 for window in windows)


def test_candidate_replies_differ() -> None:
    windows = candidate_windows([CandidatePrompt((USER,), ("a", "b", "c"))], 2, Random(0))
    replies = [window[-1].content for window in windows]
    assert len(set(replies)) == 2
    assert all(window[:-1] == [USER] for window in windows)


def test_weights_count_replies_with_their_end_mark(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer)
    user, reply = encoder.encode_text(USER.content), encoder.reply_ids(ASSISTANT.content)
    (example,) = encoder.encode_all([[USER, ASSISTANT]], user_weight=0.25)
    assert example.token_ids == [*encoder.prompt_ids([USER]), *reply]
    assert example.weights == [0.0, 0.0, *[0.25] * (len(user) + 1), 0.0, *[1.0] * len(reply)]


def test_padding_is_right_and_weightless(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer)
    examples = encoder.encode_all([[USER, ASSISTANT], [USER]], user_weight=1.0)
    batch = pad_batch(examples, encoder.pad_id)
    short = len(examples[1].token_ids)
    assert batch.token_ids.shape == batch.weights.shape == (2, len(examples[0].token_ids))
    assert batch.token_ids[1, :short].tolist() == examples[1].token_ids
    assert set(batch.token_ids[1, short:].tolist()) == {encoder.pad_id}
    assert batch.weights[1, short:].sum() == 0


def test_groups_hold_every_item_within_the_budget() -> None:
    lengths = [Random(i).randint(1, 40) for i in range(500)]
    groups = group_by_length(lengths, lambda item: item, 100, Random(0))
    assert sorted(item for group in groups for item in group) == sorted(lengths)
    assert all(max(group) * len(group) <= 100 for group in groups)
