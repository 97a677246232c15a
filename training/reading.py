"""Teach the model to read the stated preference before replies are compared.

Preference pairs alone teach a small model nothing for a long time: their gradient is small until
some hidden state knows the preference (measured: no progress in 4,000 pairs). So a linear probe in
the middle of the model first learns to name the preference's directions at every token after it,
which takes a few dozen steps, while the chosen replies keep the model a writer. The probe is
dropped afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from svc_common.preference_prompt import add_preference
from training.data import PreferencePair
from training.encoding import ChatEncoder, Example, pad_batch


@dataclass(frozen=True)
class ReadingExample:
    """A chosen reply behind its preference, and the directions that the preference states."""

    example: Example
    directions: tuple[int, ...]  # one, or two for a persona

    def num_tokens(self) -> int:
        """Return the length of the conversation."""
        return len(self.example.token_ids)


class PreferenceReader(nn.Module):
    """The model with a probe that names the preference's directions after layer `layer`."""

    def __init__(self, model: LlamaForCausalLM, num_directions: int, layer: int) -> None:
        super().__init__()
        self.model = model
        self.probe = nn.Linear(model.config.hidden_size, num_directions)
        self._layer = layer

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probe's logits `[B, T, D]` and the last hidden states `[B, T, H]`."""
        output = self.model.model(input_ids=token_ids, use_cache=False, output_hidden_states=True)
        middle = output.hidden_states[self._layer]  # [B, T, H]
        normed = functional.rms_norm(middle, middle.shape[-1:])
        return self.probe(normed), output.last_hidden_state


def reading_example(
    encoder: ChatEncoder, pair: PreferencePair, directions: Sequence[str]
) -> ReadingExample:
    """Return the guided conversation with the chosen reply; only the reply has weights."""
    prompt = encoder.prompt_ids(add_preference(pair.context, pair.preference))
    reply = encoder.reply_ids(pair.chosen)
    example = Example([*prompt, *reply], [0.0] * len(prompt) + [1.0] * len(reply))
    return ReadingExample(example, tuple(directions.index(name) for name in pair.directions))


def reading_loss(
    reader: PreferenceReader, items: Sequence[ReadingExample], pad_id: int, first_token: int
) -> Tensor:
    """Return the probe's loss plus the replies' loss, each a mean over its tokens.

    Args:
        first_token: position from which on the probe is judged; the preference has begun there.
    """
    batch = pad_batch([item.example for item in items], pad_id)
    probe_logits, hidden = reader(batch.token_ids)
    wanted = torch.zeros((len(items), probe_logits.shape[-1]))  # [B, D]
    for row, item in enumerate(items):
        wanted[row, list(item.directions)] = 1.0 / len(item.directions)
    judged = batch.token_ids != pad_id  # [B, T]
    judged[:, :first_token] = False
    targets = wanted.unsqueeze(1).expand_as(probe_logits)[judged]  # [N, D]
    probe_loss = functional.cross_entropy(probe_logits[judged].float(), targets)
    scored = batch.weights[:, 1:] > 0  # [B, T-1]
    logits = reader.model.lm_head(hidden[:, :-1][scored])  # [M, V]
    return probe_loss + functional.cross_entropy(logits.float(), batch.token_ids[:, 1:][scored])
