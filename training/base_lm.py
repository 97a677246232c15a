"""Train the demo base models: small Llamas that answer like a booking assistant."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from training.cli import add_folders, run_command
from training.config import BASE, SMALL_BASE, BaseConfig, DemoConfig, ModelConfig
from training.data import read_candidates, read_dialogues, require_data
from training.encoding import (
    Batch,
    ChatEncoder,
    Example,
    endless_groups,
    group_by_length,
    pad_batch,
)
from training.loop import run_in_scratch, train_loop
from training.saving import save_model, update_metrics
from training.tokenizer import BOS, END, PAD, load_tokenizer
from training.windows import base_windows


def new_model(config: ModelConfig, encoder: ChatEncoder, vocab_size: int) -> LlamaForCausalLM:
    """Return a randomly initialised model; the torch seed decides the weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            bos_token_id=encoder.token_id(BOS),
            eos_token_id=encoder.token_id(END),
            pad_token_id=encoder.token_id(PAD),
        )
    )


def token_losses(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return loss and weight of every token after the first, both [B * (T - 1)] float32.

    Rows are right-padded and attention is causal, so no attention mask is needed.
    """
    logits = model(input_ids=batch.token_ids, use_cache=False).logits[:, :-1]  # [B, T-1, V]
    targets = batch.token_ids[:, 1:].reshape(-1)
    losses = functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
    return losses, batch.weights[:, 1:].reshape(-1)


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the weighted mean loss of a batch."""
    losses, weights = token_losses(model, batch)
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def validation_loss(model: LlamaForCausalLM, batches: list[Batch]) -> float:
    """Return the mean loss in nats per weighted token, in float32."""
    total = weight = 0.0
    for batch in batches:
        losses, weights = token_losses(model, batch)
        total += float((losses * weights).sum())
        weight += float(weights.sum())
    return total / weight


def length(example: Example) -> int:
    """Return the number of tokens of `example`."""
    return len(example.token_ids)


def training_examples(
    data: Path, encoder: ChatEncoder, config: BaseConfig
) -> Iterator[list[Example]]:
    """Yield batches of training conversations, epoch after epoch."""
    dialogues = read_dialogues(data / "lm/dialogues_train.jsonl.gz")
    prompts = read_candidates(data / "preferences/candidates_train.jsonl.gz")

    def epoch_examples(epoch: int) -> list[Example]:
        windows = base_windows(
            dialogues,
            prompts,
            config.addition_share,
            config.candidates_per_prompt,
            config.max_turns,
            Random(config.loop.seed * 1000 + epoch),
        )
        examples = encoder.encode_all(windows, config.user_weight)
        return [example for example in examples if length(example) <= config.max_tokens]

    return endless_groups(
        epoch_examples, length, config.loop.tokens_per_batch, Random(config.loop.seed)
    )


def validation_batches(data: Path, encoder: ChatEncoder, config: BaseConfig) -> list[Batch]:
    """Return held-out conversations; only the assistant's tokens count."""
    dialogues = read_dialogues(data / "lm/dialogues_dev.jsonl.gz")
    windows = base_windows(dialogues, [], config.addition_share, 0, config.max_turns, Random(0))
    chosen = Random(0).sample(windows, min(config.num_dev_windows, len(windows)))
    examples = encoder.encode_all(chosen, user_weight=0.0)
    groups = group_by_length(examples, length, 4096, Random(0))
    return [pad_batch(group, encoder.pad_id) for group in groups]


@dataclass(frozen=True)
class BaseWorker:
    """What each training process of the base model does."""

    data: Path
    out: Path
    base: BaseConfig
    model: ModelConfig

    def __call__(self, rank: int, scratch: Path) -> None:
        """Train; worker 0 validates and saves."""
        tokenizer = load_tokenizer(self.out)
        encoder = ChatEncoder(tokenizer)
        model = new_model(self.model, encoder, tokenizer.get_vocab_size())
        loop = self.base.loop
        groups = training_examples(self.data, encoder, self.base)
        own = (group for number, group in enumerate(groups) if number % loop.num_workers == rank)
        batches = (pad_batch(group, encoder.pad_id) for group in own)
        started = time.monotonic()
        losses = train_loop(
            model, batches, lambda batch: weighted_loss(model, batch), loop, rank, "base"
        )
        if rank != 0:
            return
        minutes = (time.monotonic() - started) / 60
        save_model(model, self.out)
        dev_loss = validation_loss(model, validation_batches(self.data, encoder, self.base))
        update_metrics(
            self.out,
            {
                "num_parameters": model.num_parameters(),
                "num_steps": loop.num_steps,
                "tokens_per_step": loop.tokens_per_batch * loop.num_workers,
                "train_minutes": round(minutes, 1),
                "train_loss_last_100_steps": round(fmean(losses[-100:]), 4),
                "dev_loss_assistant_tokens": round(dev_loss, 4),
            },
        )


def train_base(data: Path, out: Path, base: BaseConfig, model: ModelConfig) -> None:
    """Train a base model on `data` into the folder `out`, which holds the tokenizer."""
    require_data(data)
    worker = BaseWorker(data, out, base, model)
    run_in_scratch(worker, base.loop.num_workers, base.loop.seed)


def train_bases(data: Path, out: Path, config: DemoConfig) -> None:
    """Train the demo base model, then the small one, into their folders in `out`."""
    train_base(data, out / BASE, config.base, config.model)
    train_base(data, out / SMALL_BASE, config.small_base, config.small_model)


def main() -> None:
    """Run this step alone."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    args = parser.parse_args()
    run_command(lambda: train_bases(args.data, args.out, DemoConfig()))


if __name__ == "__main__":
    main()
