import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.encoding import Example
from training.reading import PreferenceReader, ReadingExample, reading_loss

PAD, FIRST = 0, 3
ITEMS = [
    ReadingExample(Example([1, 5, 6, 7, 8, 2], [0, 0, 0, 0, 1.0, 1.0]), (0,)),
    ReadingExample(Example([1, 4, 9, 3, 2], [0, 0, 0, 1.0, 1.0]), (1, 2)),
]


@pytest.fixture
def reader() -> PreferenceReader:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.5,
    )
    return PreferenceReader(LlamaForCausalLM(config).eval(), num_directions=3, layer=1)


@torch.no_grad()
def test_loss_equals_naive_sum_without_padding(reader: PreferenceReader) -> None:
    probe, words = [], []
    for item in ITEMS:
        ids = torch.tensor([item.example.token_ids])
        logits, hidden = reader(ids)
        for position in range(FIRST, ids.shape[1]):
            row = logits[0, position].log_softmax(-1)
            probe.append(-sum(float(row[d]) for d in item.directions) / len(item.directions))
        rows = reader.model.lm_head(hidden)[0].log_softmax(-1)
        words += [
            -float(rows[position - 1, ids[0, position]])
            for position in range(1, ids.shape[1])
            if item.example.weights[position]
        ]
    expected = sum(probe) / len(probe) + sum(words) / len(words)
    assert float(reading_loss(reader, ITEMS, PAD, FIRST)) == pytest.approx(expected, abs=1e-5)


def test_probe_learns_directions(reader: PreferenceReader) -> None:
    optimizer = torch.optim.AdamW(reader.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        loss = reading_loss(reader, ITEMS, PAD, FIRST)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
