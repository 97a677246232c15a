"""One phase of training: `transformers.Trainer` on groups fixed beforehand, resumable.

What is trained, in which order, is decided before the first step: step s takes groups
`s * groups_per_step` and on, of which every process computes its share. So the number of processes
changes no batch, and a run that was killed goes on where its last checkpoint stands, bit by bit the
same in one process on one machine.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainingArguments

from training.backbone import trainable
from training.parallel import write_tensors
from training.plan import Group, Groups, rate_share
from training.recipe import ComputeSettings, Recipe, Schedule

Collate = Callable[[Sequence[int]], dict[str, Tensor]]
WEIGHTS_FILE = "weights.safetensors"  # of a phase's folder: the phase is finished
LOSS_FILE = "loss.jsonl"
_SHOWN_LOSSES = 50  # steps whose mean loss the progress bar shows


class DivergedError(Exception):
    """A loss, gradient or weight is not finite; the text names phase, step and learning rate."""


def train_phase(
    name: str,
    task: nn.Module,
    groups: Sequence[Group],
    collate: Collate,
    folder: Path,
    schedule: Schedule,
    recipe: Recipe,
    state: PartialState,
) -> None:
    """Train `task` in place; a phase that is finished only loads its weights.

    Args:
        task: returns the loss of a group's tensors; what requires gradients is trained.
        groups: see `plan_groups`.
        collate: makes a group's tensors.
        folder: of this phase, in the run folder; exists.

    Raises:
        DivergedError: a loss, gradient or weight is not finite. The last checkpoint is from before.
    """
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        arguments = _arguments(folder, schedule, recipe, state)
        trainer = _PhaseTrainer(name, task, arguments, groups, collate, schedule, recipe.compute)
        trainer.run()
        if state.is_main_process:
            write_tensors({k: v.detach() for k, v in trainable(task).items()}, weights)
            for checkpoint in _checkpoints(folder):
                shutil.rmtree(checkpoint)
        state.wait_for_everyone()
    load_trained(task, weights)


def load_trained(task: nn.Module, path: Path) -> None:
    """Load the trained parameters of `task`."""
    parameters, tensors = trainable(task), load_file(path)
    assert parameters.keys() == tensors.keys(), path
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def read_losses(folder: Path) -> list[dict[str, float]]:
    """Return the log of a phase: `step`, `seconds`, `loss`, `learning_rate`, `grad_norm` a step."""
    path = folder / LOSS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _arguments(
    folder: Path, schedule: Schedule, recipe: Recipe, state: PartialState
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.num_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.groups_per_step // state.num_processes,
        max_grad_norm=schedule.max_grad_norm,
        bf16=recipe.compute.autocast == "bfloat16",
        use_cpu=state.device.type == "cpu",
        seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.compute.checkpoint_steps,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs have a process each
    return arguments


def _checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints of a phase, the oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


class _PhaseTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Trainer with this module's optimizer, schedule, log and checkpoints."""

    def __init__(
        self,
        name: str,
        task: nn.Module,
        arguments: TrainingArguments,
        groups: Sequence[Group],
        collate: Collate,
        schedule: Schedule,
        compute: ComputeSettings,
    ) -> None:
        super().__init__(
            model=task,
            args=arguments,
            train_dataset=Groups(groups),
            data_collator=lambda batch: collate(batch[0]),
        )
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = False
        self._name = name
        self._folder = Path(arguments.output_dir)
        self._schedule = schedule
        self._setting = name if name in ("reading", "stage1") else "stage2"
        self._keep = compute.keep_checkpoints
        self._recent: list[float] = []

    def run(self) -> None:
        """Train from the last checkpoint, or from the beginning."""
        found = _checkpoints(self._folder)
        first = int(found[-1].name.partition("-")[2]) if found else 0
        is_shown = self.is_world_process_zero()
        if is_shown:
            shutil.rmtree(self._folder / "unfinished", ignore_errors=True)
            kept = read_losses(self._folder)[:first]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            (self._folder / LOSS_FILE).write_text(text, encoding="utf-8")
        total = self._schedule.num_steps
        self._bar = tqdm(
            total=total, initial=first, desc=self._name, disable=not is_shown, mininterval=5.0
        )
        self._last = time.monotonic()
        with (self._folder / LOSS_FILE).open("a", encoding="utf-8", buffering=1) as self._log:
            self.train(resume_from_checkpoint=str(found[-1]) if found else None)
        self._check_weights()
        self._bar.close()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return AdamW with weight decay on matrices only."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        decay = self._schedule.weight_decay
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
                {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=self._schedule.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Return warm-up and cosine."""
        self.lr_scheduler = LambdaLR(self.optimizer, lambda step: rate_share(step, self._schedule))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the task's loss of a group."""
        loss: Tensor = model(**inputs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line a step, and move the progress bar."""
        if "loss" not in logs or not self.is_world_process_zero():
            return
        for kind in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(kind, 0.0)):
                raise self._diverged(f"{kind} must be finite, got {logs[kind]}")
        now = time.monotonic()
        line = {"step": self.state.global_step, "seconds": round(now - self._last, 4), **logs}
        line.pop("epoch", None)
        self._last = now
        self._log.write(json.dumps(line) + "\n")
        self._recent = [*self._recent, logs["loss"]][-_SHOWN_LOSSES:]
        mean = sum(self._recent) / len(self._recent)
        self._bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
        self._bar.update()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint that is there whole or not at all, and drop older ones."""
        unfinished = self._folder / "unfinished"
        self._save(str(unfinished))
        self.accelerator.wait_for_everyone()
        self._save_optimizer_and_scheduler(str(unfinished))
        self._save_rng_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            self.state.save_to_json(str(unfinished / "trainer_state.json"))
            unfinished.replace(self._folder / f"checkpoint-{self.state.global_step}")
            for old in _checkpoints(self._folder)[: -self._keep]:
                shutil.rmtree(old)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write what is trained."""
        if self.args.should_save:
            assert output_dir is not None
            Path(output_dir).mkdir(exist_ok=True)
            tensors = {name: value.detach() for name, value in trainable(self.model).items()}
            self._check_weights()
            write_tensors(tensors, Path(output_dir) / WEIGHTS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read what is trained."""
        load_trained(self.model, Path(resume_from_checkpoint) / WEIGHTS_FILE)

    def _check_weights(self) -> None:
        for name, value in trainable(self.model).items():
            if not value.isfinite().all():
                raise self._diverged(f"{name} must be finite")

    def _diverged(self, what: str) -> DivergedError:
        step, rate = self.state.global_step, self._schedule.learning_rate
        hint = f"lower {self._setting}.learning_rate, which is {rate:g}"
        return DivergedError(f"{self._name}, step {step}: {what}; {hint}")
