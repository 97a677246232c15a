"""What all phases of a run share: settings, processes, folder, tokenizer and model."""

import json
import sys
from pathlib import Path
from statistics import fmean

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from torch import nn

from training.backbone import load_backbone
from training.pair_encoding import PairEncoder
from training.plan import plan_groups
from training.recipe import Recipe, Schedule
from training.recipe_file import check_processes
from training.run_folder import RunFolder
from training.runner import Collate, read_losses, train_phase

FIGURE_STEPS = 50  # steps whose mean loss is noted


class RunContext:
    """One run of a recipe in this process, which may be one of several.

    Args:
        recipe: the settings.

    Raises:
        RecipeError: the run's folder was begun with other settings.
        ModelFolderError: the base model cannot be trained.
    """

    def __init__(self, recipe: Recipe) -> None:
        use_cpu = recipe.compute.device == "cpu" or not torch.cuda.is_available()
        self.state = PartialState(cpu=use_cpu)
        check_processes(recipe, self.state.num_processes)
        if recipe.compute.threads:
            torch.set_num_threads(recipe.compute.threads)
        self.recipe = recipe
        self.folder = RunFolder(recipe, self.state)
        self.folder.check()
        self.encoder = PairEncoder(Path(recipe.model.base))
        set_seed(recipe.seed)  # LoRA's first weights
        self.backbone = load_backbone(recipe.model, self.state.device, recipe.data.max_tokens)

    def say(self, text: str) -> None:
        """Write a line to standard error, once for all processes."""
        if self.state.is_main_process:
            sys.stderr.write(f"{text}\n")

    def train_phase(
        self, name: str, schedule: Schedule, task: nn.Module, lengths: list[int], collate: Collate
    ) -> None:
        """Train one phase and note its figures.

        Args:
            name: of the phase and its folder.
            lengths: tokens of each item.
        """
        groups = plan_groups(lengths, schedule, self.recipe.seed)
        folder = self.folder.phase(name)
        train_phase(name, task, groups, collate, folder, schedule, self.recipe, self.state)
        losses = read_losses(folder)
        seconds = sum(line["seconds"] for line in losses)
        num_tokens = sum(lengths[item] for group in groups for item in group)
        figures = {
            "num_steps": schedule.num_steps,
            "num_pairs_seen": sum(map(len, groups)),
            "minutes": round(seconds / 60, 2),
            "tokens_per_second": round(num_tokens / seconds),
            "first_loss": round(fmean(line["loss"] for line in losses[:FIGURE_STEPS]), 4),
            "last_loss": round(fmean(line["loss"] for line in losses[-FIGURE_STEPS:]), 4),
        }
        self.say(f"{name}: {json.dumps(figures)}")
        self.folder.update_metrics({name: figures})
