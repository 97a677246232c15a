"""The costly upper bound: weights of their own for each user, trained on that user's pairs alone.

The loss is that of the reward model's first stage, so the two differ in what is trained and kept:
an adapter a user, which writes the replies itself, or one model that is told who the user is.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from evaluation.models import LanguageModel, weights_hash
from svc_common.lm.head import Head
from training.backbone import Backbone
from training.dpo import dpo_loss, dpo_margins, reply_log_probs
from training.encoding import group_by_length
from training.pair_encoding import PairEncoder
from training.pair_file import Pair
from training.pairs import EncodedPair, PairBatch, make_pair_batch

ADAPTERS = "adapters"
FIGURES = "figures.json"


@dataclass(frozen=True)
class UserLoraConfig:
    """How an adapter is trained."""

    num_pairs: int = 1000  # of the user's training pairs
    num_held_out: int = 100  # more of them, for the loss before and after
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 3e-3  # peak, AdamW, falls linearly to 0
    dpo_beta: float = 0.1  # KL strength of the DPO loss
    nll_weight: float = 0.5  # weight of the chosen replies' loss per token
    tokens_per_batch: int = 2048  # padded
    max_tokens: int = 256  # longer pairs (prompt and both replies) are left out
    seed: int = 7


def adapter_folder(work: Path, user: str, base: LanguageModel, config: UserLoraConfig) -> Path:
    """Return where a user's adapter is kept; another base or config has another folder."""
    parts = json.dumps([base.weights, asdict(config)])
    digest = hashlib.sha256(parts.encode()).hexdigest()[:10]
    return work / ADAPTERS / f"{user.replace(':', '-')}-{digest}"


def user_model(
    base_folder: Path,
    base: LanguageModel,
    pairs: Sequence[Pair],
    folder: Path,
    config: UserLoraConfig,
) -> LanguageModel:
    """Return the base model with a user's adapter merged in, trained unless `folder` holds it.

    Args:
        pairs: the user's, more than `config.num_held_out` of them.
    """
    if not folder.is_dir():
        _train(base_folder, pairs, folder, config)
    adapted = PeftModel.from_pretrained(_load(base_folder), folder)
    model = adapted.merge_and_unload().eval().requires_grad_(False)
    return LanguageModel(
        model, Head(model), base.tokenizer, base.context_length, weights_hash(model)
    )


def read_figures(folder: Path) -> dict[str, Any]:
    """Return what training an adapter cost, and its loss and accuracy on held-out pairs."""
    figures: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    return figures


class _Training:
    """A base model with a fresh adapter, and the user's pairs."""

    def __init__(self, base_folder: Path, pairs: Sequence[Pair], config: UserLoraConfig) -> None:
        self._config = config
        encoder = PairEncoder(base_folder)
        self._pad_id = encoder.pad_id
        drawn = Random(config.seed).sample(list(pairs), len(pairs))
        drawn = drawn[: config.num_pairs + config.num_held_out]
        encoded = [encoder.encode(pair) for pair in drawn]
        encoded = [pair for pair in encoded if _num_tokens(pair) <= config.max_tokens]
        self._held_out = encoded[: config.num_held_out]
        self._train = encoded[config.num_held_out :]
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            lora = LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
            self.adapter = get_peft_model(_load(base_folder), lora)
        self._backbone = Backbone(self.adapter.get_base_model(), self.adapter)

    def run(self) -> dict[str, float]:
        """Train; return the figures."""
        before, _ = self._measure()
        config, rng = self._config, Random(self._config.seed)
        groups = group_by_length(self._train, _num_tokens, config.tokens_per_batch, rng)
        parameters = [value for value in self.adapter.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
        for number, group in enumerate(groups):
            for settings in optimizer.param_groups:
                settings["lr"] = config.learning_rate * (1 - number / len(groups))
            optimizer.zero_grad()
            loss, _ = self._loss(group)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        after, accuracy = self._measure()
        return {
            "num_parameters": sum(value.numel() for value in parameters),
            "num_pairs": len(self._train),
            "training_tokens": sum(map(_num_tokens, self._train)),
            "loss_before": round(before, 4),
            "loss_after": round(after, 4),
            "accuracy": round(accuracy, 4),
        }

    def _loss(self, group: Sequence[EncodedPair]) -> tuple[Tensor, Tensor]:
        """Return the loss of some pairs and their margins `[B]`."""
        batch: PairBatch = make_pair_batch(group, self._pad_id, False)
        with torch.no_grad(), self._backbone.untrained():
            reference = reply_log_probs(self._backbone, batch)  # [B, 2]
        theta = reply_log_probs(self._backbone, batch)  # [B, 2]
        config = self._config
        loss = dpo_loss(theta, reference, batch.lengths[:, 0], config.dpo_beta, config.nll_weight)
        return loss, dpo_margins(theta, reference)

    @torch.no_grad()
    def _measure(self) -> tuple[float, float]:
        """Return loss and share of right order on the held-out pairs."""
        parts = [self._loss([pair]) for pair in self._held_out]
        losses = torch.stack([loss for loss, _ in parts])
        margins = torch.cat([margin for _, margin in parts])
        return float(losses.mean()), float((margins > 0).float().mean())


def _train(base_folder: Path, pairs: Sequence[Pair], folder: Path, config: UserLoraConfig) -> None:
    """Write the adapter and its figures; the folder is there whole or not at all."""
    started = time.process_time()
    training = _Training(base_folder, pairs, config)
    figures = training.run()
    figures["seconds"] = round(time.process_time() - started, 1)
    unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}")
    training.adapter.save_pretrained(str(unfinished))
    (unfinished / FIGURES).write_text(json.dumps(figures) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _num_tokens(pair: EncodedPair) -> int:
    return len(pair.plain_prompt) + len(pair.chosen) + len(pair.rejected)


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation="sdpa"
    ).eval()
