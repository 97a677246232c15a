"""From dialogues and candidate replies to the conversations the base model reads."""

from collections.abc import Sequence
from random import Random

from svc_common.preference_prompt import ChatMessage
from training.data import CandidatePrompt, Turn


def with_additions(turn: Turn, share: float, rng: Random) -> ChatMessage:
    """Return the turn's message, in `share` of the cases with a friendly sentence or two.

    Args:
        share: probability in 0..1 for a turn that has additions; the others stay as they are.
    """
    sides = [side for side in ("before", "after") if getattr(turn, side)]
    if not sides or rng.random() >= share:
        return turn.message
    used = sides if rng.random() < 0.3 else [rng.choice(sides)]
    first = [rng.choice(turn.before)] if "before" in used else []
    last = [rng.choice(turn.after)] if "after" in used else []
    return ChatMessage(turn.message.role, " ".join([*first, turn.message.content, *last]))


def dialogue_windows(
    dialogue: Sequence[Turn], addition_share: float, max_turns: int, rng: Random
) -> list[list[ChatMessage]]:
    """Cut one dialogue into consecutive windows that begin with a user turn.

    Window lengths are drawn anew on each call, so that every turn comes to stand behind short and
    long contexts. Every assistant turn is in exactly one window.
    """
    windows = []
    start = 0
    while start < len(dialogue):
        num_turns = 2 * rng.randint(1, max_turns // 2)
        turns = dialogue[start : start + num_turns]
        windows.append([with_additions(turn, addition_share, rng) for turn in turns])
        start += num_turns
    return windows


def candidate_windows(
    prompts: Sequence[CandidatePrompt], num_replies: int, rng: Random
) -> list[list[ChatMessage]]:
    """Return each prompt with up to `num_replies` different replies drawn at random."""
    return [
        [*prompt.context, ChatMessage("assistant", reply)]
        for prompt in prompts
        for reply in rng.sample(prompt.replies, min(num_replies, len(prompt.replies)))
    ]


def base_windows(
    dialogues: Sequence[Sequence[Turn]],
    prompts: Sequence[CandidatePrompt],
    addition_share: float,
    num_replies: int,
    max_turns: int,
    rng: Random,
) -> list[list[ChatMessage]]:
    """Return one epoch of base-model conversations, unshuffled."""
    windows = candidate_windows(prompts, num_replies, rng)
    for dialogue in dialogues:
        windows.extend(dialogue_windows(dialogue, addition_share, max_turns, rng))
    return windows
