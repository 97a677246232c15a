"""Every number that the demo base models depend on, and which recipe makes the demo PersRM."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from training.build_pairs import BuildConfig

BASE, SMALL_BASE, PERSRM = "demo-base", "demo-base-small", "demo-persrm"  # model folders


@dataclass(frozen=True)
class TokenizerConfig:
    """Byte-level BPE tokenizer."""

    vocab_size: int = 4096  # tokens, special tokens and the 256 bytes included
    min_frequency: int = 2  # occurrences a merge needs


@dataclass(frozen=True)
class ModelConfig:
    """Llama architecture of demo base and PersRM."""

    hidden_size: int = 256
    num_layers: int = 5
    num_heads: int = 4
    intermediate_size: int = 688
    max_positions: int = 1024  # tokens


@dataclass(frozen=True)
class LoopConfig:
    """What one training run of the shared loop needs."""

    num_steps: int  # optimizer steps
    tokens_per_batch: int  # padded tokens per worker and step
    learning_rate: float  # peak, AdamW
    final_lr_share: float  # learning rate of the last step as a share of the peak
    warmup_steps: int  # optimizer steps of linear warm-up
    weight_decay: float  # on matrices only
    max_grad_norm: float = 1.0
    num_workers: int = 2  # data-parallel processes, one torch thread each
    seed: int = 1


@dataclass(frozen=True)
class BaseConfig:
    """Base language model: what it reads and how long."""

    loop: LoopConfig = LoopConfig(
        num_steps=3000,
        tokens_per_batch=2048,
        learning_rate=2.5e-3,
        final_lr_share=0.05,
        warmup_steps=100,
        weight_decay=0.1,
    )
    user_weight: float = 0.3  # loss weight of a user's token; an assistant's counts 1
    addition_share: float = 0.5  # share of replies with friendly additions that get some
    candidates_per_prompt: int = 2  # replies drawn per candidate prompt and epoch
    max_turns: int = 8  # longest window cut from a dialogue
    max_tokens: int = 384  # longer windows are left out
    num_dev_windows: int = 2000  # validation windows


def _small_base() -> BaseConfig:
    """Return the settings of the second base model: half as many steps, another seed."""
    base = BaseConfig()
    return replace(base, loop=replace(base.loop, num_steps=1500, seed=7))


@dataclass(frozen=True)
class PersRMConfig:
    """Personalised reward model: its recipe has the numbers."""

    pairs: BuildConfig = field(default_factory=BuildConfig)
    recipe: Path = Path(__file__).with_name("recipes") / "demo.toml"
    overrides: tuple[str, ...] = ()  # section.name=value, on top of the recipe
    run_folder: Path = Path("runs/demo-persrm")  # checkpoints and loss curves
    num_processes: int = 2  # one torch thread each


@dataclass(frozen=True)
class DemoConfig:
    """All settings of `make_demo_models`."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    small_model: ModelConfig = ModelConfig(
        hidden_size=192, num_layers=4, num_heads=4, intermediate_size=512
    )
    small_base: BaseConfig = field(default_factory=_small_base)
    persrm: PersRMConfig = field(default_factory=PersRMConfig)
