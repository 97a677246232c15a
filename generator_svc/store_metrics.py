"""What the generator measures of the profile store and of erasures."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from generator_svc.encoding_round import Outcome
from generator_svc.redis_calls import FailureKind
from generator_svc.store_ports import LookupSource


class StoreMetrics:
    """Implements `store_ports.StoreObserver` and `encoding_round.AheadObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lookups = Counter(
            "pad_profile_lookups_total",
            "Profiles looked up, by where they were found; damaged: what is stored is no profile.",
            ["source"],
            registry=registry,
        )
        self._failures = Counter(
            "pad_profile_store_failures_total",
            "Calls of Redis that came to nothing: it was silent, unreachable, loading, read_only,"
            " full, refused for another reason, or not asked as it was down or suspected to be.",
            ["kind"],
            registry=registry,
        )
        self._is_up = Gauge(
            "pad_profile_store_up",
            "1 while Redis answers, 0 while it, or a node of a Redis Cluster, is down.",
            registry=registry,
        )
        self._gaps = Counter(
            "pad_profile_changes_missed_total",
            "Times that listening for changes began (again) and all local copies were dropped.",
            registry=registry,
        )
        self._erasures = Counter(
            "pad_erasures_total",
            "Users whose caches were cleared here, by whether all reward replicas in reach"
            " confirmed it: complete or partial.",
            ["outcome"],
            registry=registry,
        )

        self._ahead = Counter(
            "pad_encodings_ahead_total",
            "Stored preferences that were looked at for a new reward model, by what became of them:"
            " computed, kept (an encoding was there), gone (erased or replaced meanwhile), refused"
            " by the model, or failed (they are tried again).",
            ["outcome"],
            registry=registry,
        )
        self._versions = Gauge(
            "pad_encodings_ahead_versions",
            "Versions of vector reward models in reach: complete, with the encodings of all stored"
            " preferences, or missing some.",
            ["state"],
            registry=registry,
        )

    def encoded_ahead(self, outcome: Outcome) -> None:
        self._ahead.labels(outcome).inc()

    def versions_ahead(self, num_complete: int, num_missing: int) -> None:
        self._versions.labels("complete").set(num_complete)
        self._versions.labels("missing").set(num_missing)

    def profile_lookup(self, source: LookupSource) -> None:
        self._lookups.labels(source).inc()

    def store_failure(self, kind: FailureKind) -> None:
        self._failures.labels(kind).inc()

    def store_is_up(self, is_up: bool) -> None:
        self._is_up.set(is_up)

    def changes_missed(self) -> None:
        self._gaps.inc()

    def erased(self, num_users: int, *, is_complete: bool) -> None:
        self._erasures.labels("complete" if is_complete else "partial").inc(num_users)
