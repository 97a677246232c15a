"""Train the demo PersRM, stage 1: the base model, taught to follow a stated preference."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean

import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from training.cli import add_folders, run_command
from training.config import DemoConfig, PersRMConfig
from training.data import PreferencePair, read_directions, read_pairs, require_data
from training.dpo import dpo_loss, dpo_margins, reply_log_probs
from training.encoding import ChatEncoder, endless_groups
from training.loop import run_in_scratch, train_loop
from training.pairs import EncodedPair, encode_pair, make_pair_batch
from training.reading import PreferenceReader, ReadingExample, reading_example, reading_loss
from training.saving import load_model, mark_stage, save_model, update_metrics
from training.tokenizer import load_tokenizer

EVAL_TOKENS = 4096  # padded tokens per evaluation batch


def by_length(pairs: Sequence[EncodedPair]) -> list[list[int]]:
    """Return groups of indices into `pairs`, of similar length."""
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].num_tokens())
    groups: list[list[int]] = []
    for index in order:
        width = pairs[index].num_tokens()
        if not groups or width * (len(groups[-1]) + 1) > EVAL_TOKENS:
            groups.append([])
        groups[-1].append(index)
    return groups


@torch.no_grad()
def score_pairs(
    model: LlamaForCausalLM,
    pairs: Sequence[EncodedPair],
    pad_id: int,
    guided: bool,
    label: str | None = None,
) -> Tensor:
    """Return log-probabilities of all replies, `[len(pairs), 2]`, in the model's precision.

    Args:
        label: name on the progress bar; none without it.
    """
    scores = torch.zeros((len(pairs), 2))
    for group in tqdm(by_length(pairs), desc=label, disable=label is None, mininterval=5.0):
        batch = make_pair_batch([pairs[index] for index in group], pad_id, guided)
        scores[group] = reply_log_probs(model, batch)
    return scores


def add_reference(
    base: LlamaForCausalLM, pairs: Sequence[EncodedPair], pad_id: int, label: str | None
) -> list[EncodedPair]:
    """Return `pairs` with the frozen base model's log-probabilities, without the preference."""
    scores = score_pairs(base, pairs, pad_id, guided=False, label=label).tolist()
    return [
        replace(pair, reference=(chosen, rejected))
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def pair_loss(
    model: LlamaForCausalLM, pairs: Sequence[EncodedPair], pad_id: int, config: PersRMConfig
) -> Tensor:
    """Return the training loss of some pairs."""
    batch = make_pair_batch(pairs, pad_id, guided=True)
    reference = torch.tensor([pair.reference for pair in pairs])  # [B, 2]
    theta = reply_log_probs(model, batch)  # [B, 2]
    return dpo_loss(theta, reference, batch.lengths[:, 0], config.dpo_beta, config.nll_weight)


def accuracy(margins: Tensor) -> float:
    """Return the share of positive margins."""
    return round(float((margins > 0).float().mean()), 4)


def evaluate_rewards(
    theta: LlamaForCausalLM,
    base: LlamaForCausalLM,
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    seen_phrases: set[str],
) -> dict[str, object]:
    """Return how often the reward prefers the chosen reply: in all, by dimension, with controls.

    The control gives every pair the preference of another pair, drawn at random.
    """
    encoder = ChatEncoder(tokenizer)
    encoded = [encode_pair(encoder, pair) for pair in pairs]
    others = Random(0).sample(pairs, len(pairs))
    shuffled = [
        encode_pair(encoder, pair, other.preference)
        for pair, other in zip(pairs, others, strict=True)
    ]
    reference = score_pairs(base, encoded, encoder.pad_id, guided=False, label="reference")
    margins = dpo_margins(score_pairs(theta, encoded, encoder.pad_id, True, "reward"), reference)
    control = dpo_margins(score_pairs(theta, shuffled, encoder.pad_id, True, "control"), reference)

    unseen = [pair.group != "persona" and pair.preference not in seen_phrases for pair in pairs]
    dimensions = [pair.group for pair in pairs]
    return {
        "pair_accuracy": accuracy(margins),
        "pair_accuracy_unseen_phrases": accuracy(margins[torch.tensor(unseen)]),
        "pair_accuracy_shuffled_preference": accuracy(control),
        "pair_accuracy_by_dimension": {
            name: accuracy(margins[torch.tensor([name == other for other in dimensions])])
            for name in sorted(set(dimensions))
        },
    }


@dataclass(frozen=True)
class PersRMWorker:
    """What each training process of the reward model does."""

    data: Path
    out: Path
    config: PersRMConfig

    def __call__(self, rank: int, scratch: Path) -> None:
        """Train on this worker's share of the pairs; worker 0 evaluates and saves."""
        loop = self.config.loop
        tokenizer = load_tokenizer(self.out / "demo-base")
        encoder = ChatEncoder(tokenizer)
        model = load_model(self.out / "demo-base")
        all_pairs = read_pairs(self.data / "preferences/pairs_train.jsonl.gz")
        pairs = Random(loop.seed).sample(all_pairs, min(self.config.num_pairs, len(all_pairs)))
        own = pairs[rank :: loop.num_workers]
        started = time.monotonic()
        reading_losses = self._read(model, encoder, own, rank)
        losses = self._compare(model, encoder, own, rank)
        if rank == 0:
            minutes = (time.monotonic() - started) / 60
            self._finish(
                model.eval(),
                tokenizer,
                {pair.preference for pair in all_pairs},
                {
                    "num_parameters": model.num_parameters(),
                    "num_steps": loop.num_steps,
                    "reading_steps": self.config.reading.num_steps,
                    "reading_loss_last_50_steps": round(fmean(reading_losses[-50:]), 4),
                    "train_minutes": round(minutes, 1),
                    "train_loss_first_100_steps": round(fmean(losses[:100]), 4),
                    "train_loss_last_100_steps": round(fmean(losses[-100:]), 4),
                },
            )

    def _read(
        self, model: LlamaForCausalLM, encoder: ChatEncoder, pairs: list[PreferencePair], rank: int
    ) -> list[float]:
        """Train the model to know the stated preference; return the losses."""
        directions = read_directions(self.data / "preferences/preferences.json")
        items = [reading_example(encoder, pair, directions) for pair in pairs]
        reader = PreferenceReader(model, len(directions), self.config.probe_layer).train()
        settings = self.config.reading
        groups = endless_groups(
            lambda epoch: items,
            ReadingExample.num_tokens,
            settings.tokens_per_batch,
            Random(settings.seed * 100 + rank),
        )
        return train_loop(
            reader,
            groups,
            lambda group: reading_loss(reader, group, encoder.pad_id, self.config.probe_start),
            settings,
            rank,
            "reading",
        )

    def _compare(
        self, model: LlamaForCausalLM, encoder: ChatEncoder, pairs: list[PreferencePair], rank: int
    ) -> list[float]:
        """Train the model on pairs by DPO against the frozen base model; return the losses."""
        loop = self.config.loop
        encoded = [encode_pair(encoder, pair) for pair in pairs]
        encoded = [pair for pair in encoded if pair.num_tokens() <= self.config.max_tokens]
        base = load_model(self.out / "demo-base")
        label = "reference" if rank == 0 else None
        with torch.autocast("cpu", torch.bfloat16):
            encoded = add_reference(base, encoded, encoder.pad_id, label)
        groups = endless_groups(
            lambda epoch: encoded,
            EncodedPair.num_tokens,
            loop.tokens_per_batch,
            Random(loop.seed * 100 + rank),
        )
        return train_loop(
            model,
            groups,
            lambda group: pair_loss(model, group, encoder.pad_id, self.config),
            loop,
            rank,
            "persrm",
        )

    def _finish(
        self,
        model: LlamaForCausalLM,
        tokenizer: Tokenizer,
        seen_phrases: set[str],
        figures: dict[str, object],
    ) -> None:
        folder = self.out / "demo-persrm"
        save_model(model, folder)
        mark_stage(folder, stage=1)
        base = load_model(self.out / "demo-base")
        pairs = read_pairs(self.data / "preferences/pairs_dev.jsonl.gz")
        rewards = evaluate_rewards(model, base, tokenizer, pairs, seen_phrases)
        update_metrics(folder, {**figures, **rewards})


def train_persrm(data: Path, out: Path, config: DemoConfig) -> None:
    """Train the reward model from the base model in `out` into `out/demo-persrm`."""
    require_data(data)
    worker = PersRMWorker(data, out, config.persrm)
    run_in_scratch(worker, config.persrm.loop.num_workers, config.persrm.loop.seed)


def main() -> None:
    """Run this step alone."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    args = parser.parse_args()
    run_command(lambda: train_persrm(args.data, args.out, DemoConfig()))


if __name__ == "__main__":
    main()
