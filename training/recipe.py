"""A training run's settings: one TOML file, every number of the run in it.

Relative paths are seen from the working directory. `training/recipes/` has two examples with every
setting explained.
"""

from dataclasses import dataclass, field
from typing import Any

HEADS = ("value", "vector", "both")
CONDITIONINGS = ("prompt", "vector", "both")


def number(default: Any, low: float, high: float = float("inf")) -> Any:
    """Return a dataclass field that must lie in `low..high`."""
    return field(default=default, metadata={"low": low, "high": high})


def choice(default: str, *choices: str) -> Any:
    """Return a dataclass field with a fixed set of values."""
    return field(default=default, metadata={"choices": choices})


def choices(default: tuple[str, ...], *allowed: str) -> Any:
    """Return a dataclass field that lists some of a fixed set of values."""
    return field(default=default, metadata={"each": allowed})


@dataclass(frozen=True)
class DataSettings:
    """Which pairs are read; see `training/pair_file.py` for the format."""

    train: tuple[str, ...] = ()  # pair files, required
    dev: tuple[str, ...] = ()  # pair files to measure on; none: nothing is measured
    max_pairs: int = number(0, 0)  # training pairs drawn at random; 0: all
    max_tokens: int = number(2048, 16)  # longer rows (prompt and both replies) are left out


@dataclass(frozen=True)
class ModelSettings:
    """What is trained and how."""

    base: str = ""  # model folder, required; also the frozen reference
    tuning: str = choice("lora", "lora", "full")
    dtype: str = choice("float32", "float32", "bfloat16")  # of frozen weights in memory
    lora_rank: int = number(8, 1)
    lora_alpha: float = number(16.0, 0.0)
    lora_dropout: float = number(0.0, 0.0, 0.99)
    gradient_checkpointing: bool = False  # less memory, a third more time


@dataclass(frozen=True)
class ComputeSettings:
    """Where and how precisely it is computed."""

    device: str = choice("auto", "auto", "cpu")  # auto: GPUs if there are any
    autocast: str = choice("bfloat16", "bfloat16", "none")  # precision of matrix products
    threads: int = number(0, 0)  # CPU threads a process; 0: torch's own choice
    checkpoint_steps: int = number(100, 1)  # optimizer steps between checkpoints
    keep_checkpoints: int = number(1, 1)  # the newest ones


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one phase learns.

    A group is what one process computes at a time; a step takes `groups_per_step` of them, shared
    out over the processes, so that the number of processes changes the time and not the result.
    """

    num_steps: int = number(0, 0)  # optimizer steps; 0: the phase is left out
    tokens_per_group: int = number(4096, 16)  # padded
    pairs_per_group: int = number(0, 0)  # at most; 0: no limit
    groups_per_step: int = number(8, 1)  # a multiple of the number of processes
    learning_rate: float = number(5e-6, 0.0)  # peak
    final_lr_share: float = number(0.1, 0.0, 1.0)  # last step's rate, as a share of the peak
    warmup_steps: int = number(20, 0)  # linear
    weight_decay: float = number(0.0, 0.0)  # AdamW, on matrices only
    max_grad_norm: float = number(1.0, 0.0)


@dataclass(frozen=True)
class ReadingSettings(Schedule):
    """The phase before stage 1 in which the model learns to read the preference."""

    probe_layer: int = number(0, 0)  # layer whose output the probe sees, from 1; 0: the middle
    probe_start: int = number(24, 0)  # token from which on every preference has begun


@dataclass(frozen=True)
class PairSettings(Schedule):
    """A phase that compares the two replies of a pair."""

    dpo_beta: float = number(0.1, 0.0)  # KL strength of the loss, not that of decoding
    nll_weight: float = number(0.0, 0.0)  # weight of the chosen replies' loss per token


@dataclass(frozen=True)
class HeadSettings(PairSettings):
    """Stage 2: the heads, each trained on the same frozen backbone."""

    heads: tuple[str, ...] = choices((), *HEADS)  # none: the run ends with stage 1
    width: int = number(256, 1)  # middle layer of the preference heads
    encoder: str = ""  # sentence-embedding folder of the preference heads; "": the backbone itself
    cache_hidden: bool = False  # keep all hidden states in the run folder: fast, but large


@dataclass(frozen=True)
class ExportSettings:
    """The reward model folder that the run writes."""

    dir: str = ""  # "": model/ of the run folder
    weights: str = choice("merged", "merged", "adapter")  # adapter: alone, merged on loading
    dtype: str = choice("bfloat16", "bfloat16", "float32", "float16")
    conditioning: str = choice("prompt", *CONDITIONINGS)  # the folder's default
    heads: tuple[str, ...] = choices(HEADS, *HEADS)  # of those trained
    use_value_head: bool = True  # conditioning prompt: by default with the value head


@dataclass(frozen=True)
class Recipe:
    """One run."""

    out: str = ""  # run folder, required
    seed: int = number(1, 0)
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    reading: ReadingSettings = field(default_factory=ReadingSettings)
    stage1: PairSettings = field(default_factory=PairSettings)
    stage2: HeadSettings = field(default_factory=HeadSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
