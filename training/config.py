"""Every number that the demo models depend on, in one place."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TokenizerConfig:
    """Byte-level BPE tokenizer."""

    vocab_size: int = 4096  # tokens, special tokens and the 256 bytes included
    min_frequency: int = 2  # occurrences a merge needs


@dataclass(frozen=True)
class ModelConfig:
    """Llama architecture of both demo models."""

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


@dataclass(frozen=True)
class PersRMConfig:
    """Personalised reward model, stage 1: first read the preference, then compare replies."""

    reading: LoopConfig = LoopConfig(
        num_steps=260,
        tokens_per_batch=4096,
        learning_rate=1.5e-3,
        final_lr_share=0.15,
        warmup_steps=20,
        weight_decay=0.01,
        seed=2,
    )
    probe_layer: int = 3  # layer whose output the reading probe sees, 1..num_layers
    probe_start: int = 24  # tokens; every preference has begun there, some have ended
    loop: LoopConfig = LoopConfig(
        num_steps=900,
        tokens_per_batch=2048,
        learning_rate=3e-4,
        final_lr_share=0.05,
        warmup_steps=30,
        weight_decay=0.01,
        seed=2,
    )
    num_pairs: int = 32_000  # of the training pairs; each needs two reference scores
    dpo_beta: float = 0.1  # KL strength of the DPO loss
    nll_weight: float = 0.5  # weight of the chosen replies' loss per token
    max_tokens: int = 384  # longer pairs (prompt and both replies) are left out


@dataclass(frozen=True)
class DemoConfig:
    """All settings of `make_demo_models`."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    persrm: PersRMConfig = field(default_factory=PersRMConfig)
