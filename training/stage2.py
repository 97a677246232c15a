"""Stage 2 of a run: each head of the recipe, trained on the frozen backbone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor

from reward_svc.preference_encoders import BackboneEncoder, FolderEncoder, TextEncoder
from svc_common.errors import InvalidRequestError
from training.context import RunContext
from training.heads import Head, HeadCollator, HeadTask, new_head, reads_preference
from training.hidden import kept_hidden
from training.inputs import PairSet
from training.measure import RunInputs, measure
from training.pair_file import PairFileError
from training.pairs import PairBatch
from training.parallel import in_parts
from training.recipe import HeadSettings
from training.runner import WEIGHTS_FILE


class Embeddings:
    """The embedding of each preference of a run.

    Args:
        texts: the distinct preferences.
        rows: `[P, E]` float32, in their order.
    """

    def __init__(self, texts: list[str], rows: Tensor) -> None:
        self._numbers = {text: number for number, text in enumerate(texts)}
        self.rows = rows

    def numbers(self, pairs: PairSet) -> list[int]:
        """Return the number of each pair's preference."""
        return [self._numbers[pair.preference] for pair in pairs.pairs]


def train_heads(context: RunContext, inputs: RunInputs) -> dict[str, Head]:
    """Train the heads that the recipe names, in order, and measure each of them."""
    settings = context.recipe.stage2
    if not settings.num_steps or not settings.heads:
        return {}
    heads: dict[str, Head] = {}
    embeddings = embed_preferences(context, inputs)
    for number, name in enumerate(settings.heads):
        set_seed(context.recipe.seed + 2 + number)  # the first layer of a preference head
        head = new_head(
            name, context.backbone.hidden_size, embeddings.rows.shape[1], settings.width
        ).to(context.state.device)
        heads[name] = head
        task = HeadTask(head, context.backbone, settings)
        guided = reads_preference(name)
        collate = _collator(context, inputs.train, embeddings, name, settings)
        context.train_phase(name, settings, task, inputs.train.table.row_lengths(guided), collate)
        head.requires_grad_(False)
        measure(context, inputs, name, _scorer(task, embeddings, context), guided)
    if context.state.is_main_process:
        shutil.rmtree(context.folder.path / "hidden", ignore_errors=True)
    return heads


def embed_preferences(context: RunContext, inputs: RunInputs) -> Embeddings:
    """Return the embeddings of all preferences, computed once by the recipe's encoder."""
    sets = [each for each in (inputs.train, inputs.dev, inputs.control) if each is not None]
    texts = sorted({pair.preference for each in sets for pair in each.pairs})
    if set(context.recipe.stage2.heads) == {"value"}:
        return Embeddings(texts, torch.zeros((len(texts), 1)))  # which that head does not read
    encoder = preference_encoder(context)
    folder = context.folder.phase(context.recipe.stage2.heads[0])
    try:
        tensors = in_parts(
            context.state,
            folder / "embeddings.safetensors",
            len(texts),
            lambda own: {"rows": encoder.encode([texts[i] for i in own]).cpu()},
        )
    except InvalidRequestError as error:
        raise PairFileError(f"stage2.encoder: {error}") from error
    return Embeddings(texts, tensors["rows"])


def preference_encoder(context: RunContext) -> TextEncoder:
    """Return the encoder that serving will use as well: the backbone, or a folder's model."""
    folder = context.recipe.stage2.encoder
    if folder:
        return FolderEncoder(Path(folder), str(context.state.device))
    return BackboneEncoder(context.backbone.model.base_model, context.encoder.tokenizer)


def _collator(
    context: RunContext,
    pairs: PairSet,
    embeddings: Embeddings,
    name: str,
    settings: HeadSettings,
) -> HeadCollator:
    guided, pad_id = reads_preference(name), context.encoder.pad_id
    hidden = None
    is_finished = (context.folder.path / name / WEIGHTS_FILE).is_file()
    if settings.cache_hidden and not is_finished:
        path = context.folder.phase("hidden") / ("guided.bin" if guided else "plain.bin")
        compute, state = context.recipe.compute, context.state
        hidden = kept_hidden(context.backbone, pairs.table, pad_id, guided, compute, path, state)
    numbers = embeddings.numbers(pairs)
    return HeadCollator(
        pairs.table, pairs.reference, embeddings.rows, numbers, pad_id, guided, hidden
    )


def _scorer(
    task: HeadTask, embeddings: Embeddings, context: RunContext
) -> Callable[[PairSet], Callable[[PairBatch, list[int]], Tensor]]:
    """Return what makes, for a pair set, the function that scores a batch of it."""
    rows = embeddings.rows.to(context.state.device)

    def scorer(pairs: PairSet) -> Callable[[PairBatch, list[int]], Tensor]:
        numbers = torch.tensor(embeddings.numbers(pairs))
        return lambda batch, items: task.log_probs(batch, rows[numbers[items]])

    return scorer
