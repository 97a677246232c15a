"""The model in training: loaded for it, with or without LoRA, its output layer apart."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from svc_common.lm.loading import DTYPES, ModelFolderError, sliding_window
from training.pairs import PairBatch, scored_states
from training.recipe import ModelSettings


class Backbone:
    """A causal LM whose last hidden states and output layer are used apart.

    Args:
        model: with the LoRA layers in it, if there are any.
        adapter: what switches them off; None with full tuning.
    """

    def __init__(self, model: PreTrainedModel, adapter: PeftModel | None = None) -> None:
        self.model = model
        self.adapter = adapter

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_output_embeddings().weight.device
        return device

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def num_parameters(self) -> int:
        """Parameters of the base model, LoRA left out."""
        parameters = self.model.named_parameters()
        return sum(value.numel() for name, value in parameters if "lora_" not in name)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Be the base model, with LoRA; full tuning has no way back."""
        with self.adapter.disable_adapter() if self.adapter else nullcontext():
            yield

    def hidden(self, batch: PairBatch) -> Tensor:
        """Return the last hidden states at the scored positions, `[N, D]`."""
        return scored_states(self.model, batch)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states: `[N, D]` -> `[N, V]` float32."""
        return output_logits(self.model, hidden)

    def freeze(self) -> None:
        """Stop training the weights."""
        self.model.requires_grad_(False)
        self.model.eval()


def output_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits of last hidden states, `[..., D]` -> `[..., V]` float32."""
    config = model.config
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    logits = logits * float(getattr(config, "logit_scale", None) or 1.0)
    logits = logits / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def load_backbone(settings: ModelSettings, device: torch.device, max_tokens: int) -> Backbone:
    """Load the base model for training; LoRA starts as no change.

    Args:
        max_tokens: longest row that it must be able to read.

    Raises:
        ModelFolderError: the folder holds no such model, or it cannot read rows of that length.
    """
    folder = Path(settings.base)
    where = f"model.base={folder}"
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{where}: must be a model folder, has no config.json")
    disable_progress_bar()
    dtype = torch.float32 if settings.tuning == "full" else DTYPES[settings.dtype]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(f"{where}: cannot be loaded: {error}") from error
    check_row_length(model, max_tokens, where)
    model.to(device)
    if settings.gradient_checkpointing:
        with warnings.catch_warnings():  # the name that all versions of transformers 5 know
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.tuning == "full":
        return Backbone(model)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft asks transformers by a name that is deprecated there
        warnings.simplefilter("ignore", FutureWarning)
        adapter = get_peft_model(model, lora)
    return Backbone(adapter.get_base_model(), adapter)


def check_row_length(model: PreTrainedModel, max_tokens: int, where: str) -> None:
    """Refuse rows longer than the model reads in full.

    Both replies share a row, and its mask replaces the model's own: a sliding window shorter than
    the row would be lost.

    Raises:
        ModelFolderError: they are longer.
    """
    config = model.config
    limits = {
        "sliding attention window": sliding_window(config),
        "context length": getattr(config, "max_position_embeddings", None),
    }
    for name, limit in limits.items():
        if limit is not None and max_tokens > limit:
            rule = f"must be at most the {name} {limit} of {where}"
            raise ModelFolderError(f"data.max_tokens: {rule}, got {max_tokens}")


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name; tied ones once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}
