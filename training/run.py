"""A whole training run: inputs, reading, stage 1, the heads of stage 2, figures, export."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from accelerate.utils import set_seed

from svc_common.lm.loading import ModelFolderError
from training.card import write_card
from training.context import RunContext
from training.dpo import PairCollator, PairTask, reply_log_probs
from training.export import check_export, export_model, exported_heads, target_folder
from training.heads import Head
from training.inputs import InputReader, PairSet, shuffled_preferences
from training.measure import RunInputs, measure
from training.pair_file import read_pair_files
from training.plots import plot_losses
from training.reading import (
    ReadingCollator,
    ReadingTask,
    check_probe_layer,
    check_probe_start,
    label_numbers,
)
from training.recipe import Recipe
from training.run_folder import METRICS_FILE, run_lock
from training.stage2 import preference_encoder, train_heads


def run_recipe(recipe: Recipe) -> Path:
    """Do everything of `recipe` that is not done yet, and return the reward model's folder.

    Raises:
        RecipeError: a setting is wrong, the run's folder was begun with another one, or another
            run writes it.
        PairFileError: a pair file is wrong.
        ModelFolderError: the base model cannot be trained, or the encoder's folder holds none.
        DivergedError: a loss, gradient or weight is not finite.
    """
    check_export(recipe)
    with run_lock(recipe):
        context = RunContext(recipe)
        check_probe_layer(recipe.reading, int(context.backbone.model.config.num_hidden_layers))
        check_encoder(context)
        inputs = read_inputs(context)
        train_reading(context, inputs.train)
        train_stage1(context, inputs)
        heads = train_heads(context, inputs)
        return finish(context, heads)


def check_encoder(context: RunContext) -> None:
    """Load the encoder's folder once, before hours of training.

    Raises:
        ModelFolderError: it holds no encoder.
    """
    settings = context.recipe.stage2
    if settings.encoder and settings.num_steps and set(settings.heads) - {"value"}:
        try:
            preference_encoder(context)
        except ModelFolderError as error:
            raise ModelFolderError(f"stage2.encoder: {error}") from error


def read_inputs(context: RunContext) -> RunInputs:
    """Read, encode and score all pairs."""
    data = context.recipe.data
    dev = read_pair_files([Path(path) for path in data.dev]) if data.dev else []
    reader = InputReader(
        context.recipe, context.encoder, context.folder.phase("inputs"), context.state
    )
    pairs = reader.training_pairs()
    train = reader.pair_set("train", pairs, context.backbone)
    num_left_out = len(pairs) - len(train.pairs)
    context.say(
        f"{len(train.pairs):,} training pairs; {num_left_out:,} left out as longer than"
        f" {data.max_tokens} tokens"
    )
    figures = {
        "num_parameters": context.backbone.num_parameters,
        "num_training_pairs": len(train.pairs),
        "num_pairs_left_out": num_left_out,
    }
    context.folder.update_metrics(figures)
    if not dev:
        return RunInputs(train, None, None)
    return RunInputs(
        train,
        reader.pair_set("dev", dev, context.backbone),
        reader.pair_set("control", shuffled_preferences(dev), context.backbone),
    )


def train_reading(context: RunContext, train: PairSet) -> None:
    """Train the model to know the stated preference, if the recipe and the labels say so."""
    schedule = context.recipe.reading
    labels, names = label_numbers(train.pairs)
    labelled = [number for number, own in enumerate(labels) if own]
    if not schedule.num_steps or not labelled:
        return
    set_seed(context.recipe.seed + 1)  # the probe
    task = ReadingTask(context.backbone, len(names), schedule)
    collate = ReadingCollator(
        [train.table[number] for number in labelled],
        [labels[number] for number in labelled],
        len(names),
        context.encoder.pad_id,
    )
    check_probe_start(schedule, collate.num_tokens())
    context.train_phase("reading", schedule, task, collate.num_tokens(), collate)


def train_stage1(context: RunContext, inputs: RunInputs) -> None:
    """Train the model on pairs by DPO against the untrained model, then freeze it."""
    schedule, train, backbone = context.recipe.stage1, inputs.train, context.backbone
    if schedule.num_steps:
        task = PairTask(backbone, schedule)
        collate = PairCollator(train.table, train.reference, context.encoder.pad_id)
        context.train_phase("stage1", schedule, task, train.table.row_lengths(True), collate)
    backbone.freeze()
    measure(
        context,
        inputs,
        "stage1",
        lambda _: lambda batch, numbers: reply_log_probs(backbone, batch),
        guided=True,
    )


def finish(context: RunContext, heads: Mapping[str, Head]) -> Path:
    """Write loss curves, reward model and model card, by the first process."""
    recipe, run_path = context.recipe, context.folder.path
    target = target_folder(recipe)
    if context.state.is_main_process:
        plot_losses(run_path, ("reading", "stage1", *heads))
        export_model(recipe, context.backbone, heads, target)
        shutil.copyfile(run_path / METRICS_FILE, target / METRICS_FILE)
        write_card(recipe, context.folder.update_metrics({}), exported_heads(recipe), target)
        context.say(f"reward model: {target}")
    context.state.wait_for_everyone()
    return target
