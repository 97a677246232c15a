"""What the generator measures; implements the observers of engine, prompts and pool."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from generator_svc.engine.scheduler import Scheduler
from generator_svc.engine.sequence import ChosenToken, Sequence
from generator_svc.engine.waiting_room import RefusalReason
from svc_common.metrics import (
    BATCH_BUCKETS,
    FIRST_TOKEN_BUCKETS_S,
    STEP_BUCKETS_S,
    TOKEN_BUCKETS_S,
)


class GeneratorMetrics:
    """All metrics of the generator service, in one registry.

    What is told amid a step, which waits meanwhile, is counted by `settle`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._told: list[Callable[[], None]] = []  # and not yet counted
        self._step = Histogram(
            "pad_step_duration_seconds",
            "One phase of a decode step.",
            ["phase"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self._rows = Histogram(
            "pad_step_batch_rows",
            "Answers that one forward advanced.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._first_token = Histogram(
            "pad_time_to_first_token_seconds",
            "From the arrival of a request until its first token.",
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._inter_token = Histogram(
            "pad_inter_token_latency_seconds",
            "Between two tokens of one answer.",
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._queue = Histogram(
            "pad_queue_time_seconds",
            "From the arrival of a request until it has a slot, by priority.",
            ["priority"],
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._tokens = Counter(
            "pad_tokens_total",
            "Tokens chosen, by how: guided, fallback (no rewards came) or plain.",
            ["kind"],
            registry=registry,
        )
        self._changed = Counter(
            "pad_tokens_changed_total",
            "Guided tokens that differ from the base model's choice.",
            registry=registry,
        )
        self._ahead = Counter(
            "pad_run_ahead_tokens_total",
            "Forwards of guessed tokens, by whether the rewards then kept the guess.",
            ["outcome"],
            registry=registry,
        )
        self._sessions = Gauge(
            "pad_sessions", "Answers in the engine.", ["state"], registry=registry
        )
        self._free = Gauge("pad_free_slots", "Free rows of the KV cache.", registry=registry)
        self._failovers = Counter(
            "pad_reward_failover_total",
            "Sessions that moved because their replica was lost.",
            registry=registry,
        )
        self._circuit = Counter(
            "pad_reward_circuit_total",
            "Times a replica was left alone after several failures (open), or was well again.",
            ["state"],
            registry=registry,
        )
        self._model_changes = Counter(
            "pad_reward_model_changes_total",
            "Answers that went on with another version of the reward model.",
            registry=registry,
        )
        self._finished = Counter(
            "pad_answers_total", "Answers that ended, by reason.", ["reason"], registry=registry
        )
        self._passed = Gauge(
            "pad_start_passed",
            "1 once a request has passed through a part since the start: base, store, rewards.",
            ["part"],
            registry=registry,
        )
        self._left = Histogram(
            "pad_cancelled_steps",
            "Steps that an answer whose caller left still took part in, by what it waited for:"
            " slot, prompt, rewards or tokens.",
            ["phase"],
            buckets=(0, 1, 2, 5),
            registry=registry,
        )
        self._add_prefix_cache(registry)
        # A series that is not there until something happens first can be in no ratio and no rate.
        for kind in ("guided", "fallback", "plain"):
            self._tokens.labels(kind)
        for outcome in ("kept", "redone"):
            self._ahead.labels(outcome)
        self._add_admission(registry)

    def _add_admission(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "pad_refused_total",
            "Requests refused before any work, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in RefusalReason:
            self._refused.labels(reason.value)  # a rate needs the zero before the first
        self._fallbacks = Counter(
            "pad_limiter_fallback_total",
            "Requests whose tenant's limits this process checked alone, as Redis was away or slow.",
            registry=registry,
        )
        self._depth = Gauge(
            "pad_queue_depth",
            "What waits for a slot or is prepared for it, in requests and in claimed tokens.",
            ["unit"],
            registry=registry,
        )

    def _add_prefix_cache(self, registry: CollectorRegistry) -> None:
        self._prompt_tokens = Counter(
            "pad_prompt_tokens_total",
            "Prompt tokens, by where their keys and values came from: the prefix cache, the row of"
            " an answer under way, or a forward.",
            ["source"],
            registry=registry,
        )
        self._prefix_tokens = Gauge(
            "pad_prefix_cache_tokens", "Tokens in the prefix cache.", registry=registry
        )
        self._prefix_bytes = Gauge(
            "pad_prefix_cache_bytes",
            "Keys and values in the prefix cache.",
            registry=registry,
        )

    def phase(self, name: str, seconds: float) -> None:
        self._told.append(partial(self._count_phase, name, seconds))

    def _count_phase(self, name: str, seconds: float) -> None:
        self._step.labels(name).observe(seconds)

    def settle(self) -> None:
        told, self._told = self._told, []
        for count in told:
            count()

    def batch(self, num_rows: int) -> None:
        self._told.append(partial(self._rows.observe, num_rows))

    def ran_ahead(self, *, num_kept: int, num_redone: int) -> None:
        self._ahead.labels("kept").inc(num_kept)
        self._ahead.labels("redone").inc(num_redone)

    def load(self, *, num_active: int, num_waiting: int, num_free_slots: int) -> None:
        self._sessions.labels("active").set(num_active)
        self._sessions.labels("waiting").set(num_waiting)
        self._free.set(num_free_slots)

    def start_passed(self, part: str, has_passed: bool) -> None:
        self._passed.labels(part).set(has_passed)

    def started(self, sequence: Sequence) -> None:
        self._queue.labels(sequence.priority.value).observe(sequence.timings.queue_s)

    def refused(self, reason: RefusalReason) -> None:
        self._refused.labels(reason.value).inc()

    def limiter_fell_back(self) -> None:
        self._fallbacks.inc()

    def watch_queue(self, scheduler: Scheduler) -> None:
        """Tell the depth of the queue whenever somebody asks."""
        self._depth.labels("requests").set_function(lambda: scheduler.num_held)
        self._depth.labels("tokens").set_function(lambda: scheduler.num_held_tokens)

    def left(self, phase: str, num_steps: int) -> None:
        self._left.labels(phase).observe(num_steps)

    def token(self, token: ChosenToken, sequence: Sequence, since_last_s: float | None) -> None:
        if since_last_s is None:
            self._first_token.observe(sequence.timings.time_to_first_token_s)
        else:
            self._inter_token.observe(since_last_s)
        is_fallback = sequence.params.is_guided and not token.is_guided
        kind = "guided" if token.is_guided else "fallback" if is_fallback else "plain"
        self._tokens.labels(kind).inc()
        if token.is_guided and token.is_changed:
            self._changed.inc()
        if token.finish_reason is not None:
            self._finished.labels(token.finish_reason.value).inc()

    def prompt_tokens(self, source: str, num_tokens: int) -> None:
        self._prompt_tokens.labels(source).inc(num_tokens)

    def prefix_cache(self, num_tokens: int, num_bytes: int) -> None:
        self._prefix_tokens.set(num_tokens)
        self._prefix_bytes.set(num_bytes)

    def failover(self) -> None:
        self._failovers.inc()

    def circuit_changed(self, state: str) -> None:
        self._circuit.labels(state).inc()

    def reward_model_changed(self) -> None:
        self._model_changes.inc()

    def replica_batch(self, queue_s: float, forward_s: float, select_s: float) -> None:
        self.phase("reward_queue", queue_s)
        self.phase("reward_forward", forward_s)
        self.phase("reward_select", select_s)
