"""The reward service's own metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from svc_common.metrics import BATCH_BUCKETS, STEP_BUCKETS_S


class PrefixMetrics:
    """What is read of reward prompts, and what the prefix cache spares."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.prefix_hits = Counter(
            "pad_reward_prefix_cache_hits_total",
            "Prompts whose instruction-independent beginning was in the prefix cache.",
            registry=registry,
        )
        self.prefix_misses = Counter(
            "pad_reward_prefix_cache_misses_total",
            "Prompts of which at least a part of that beginning was run.",
            registry=registry,
        )
        self.prefix_tokens = Gauge(
            "pad_reward_prefix_cache_tokens", "Tokens in the prefix cache.", registry=registry
        )
        self.prefix_bytes = Gauge(
            "pad_reward_prefix_cache_bytes",
            "Keys and values in the prefix cache.",
            registry=registry,
        )
        self.forgotten_tokens = Counter(
            "pad_reward_prefix_cache_forgotten_tokens_total",
            "Tokens dropped from the prefix cache because their users were erased.",
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "pad_reward_prompt_tokens_total",
            "Tokens of reward prompts, by where their keys and values came from.",
            ["source"],
            registry=registry,
        )


class RewardMetrics(PrefixMetrics):
    """What an operator needs to see of a replica's steps, rows and prefixes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        duration = Histogram(
            "pad_step_duration_seconds",
            "Phases of a decode step.",
            ["phase"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self.queue_s = duration.labels("reward_queue")
        self.forward_s = duration.labels("reward_forward")
        self.prefill_s = duration.labels("reward_prefill")
        self.select_s = duration.labels("reward_select")
        self.batch_rows = Histogram(
            "pad_step_batch_rows",
            "Rows of the KV cache in one forward that commits tokens.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.sessions = Gauge("pad_reward_sessions", "Open sessions.", registry=registry)
        self.free_slots = Gauge(
            "pad_reward_free_slots", "Free rows of the KV cache.", registry=registry
        )
        self.row_errors = Counter(
            "pad_reward_row_errors_total",
            "Rows that failed and sessions that were not opened.",
            ["reason"],
            registry=registry,
        )
