"""What Prometheus reads at `/metrics`: counts of one process of the endpoint, and what the pools report when asked.

A metric that is added here gets its line in docs/serving.md.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from orchestrator.core.ledger import Ledger

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStats:
    """What the replicas of both pools report, each as its pool's `stats` has it."""

    policy: Sequence[Mapping[str, int]] = field(default=())
    verifier: Sequence[Mapping[str, int]] = field(default=())


AskReplicas = Callable[[], Awaitable[ReplicaStats]]
"""Raises ReplicaError."""


class Metrics:
    """Owner of the counts. Every sample says which process it is of, so that the replicas of an endpoint behind one
    address can be told apart."""

    def __init__(self, endpoint: str | None = None) -> None:
        """`endpoint` is the name of this process."""
        self._endpoint = endpoint or f"{socket.gethostname()}-{os.getpid()}"
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        how = ["strategy"]
        self._requests = Counter(
            "headrace_requests", "Requests for a search that have ended.", ["strategy", "status"], registry=registry
        )
        self._request_s = Histogram(
            "headrace_request_seconds",
            "From a request to the end of its answer.",
            how,
            registry=registry,
            buckets=_SECONDS,
        )
        self._first_event_s = Histogram(
            "headrace_first_event_seconds",
            "From a request for a stream to its first event.",
            how,
            registry=registry,
            buckets=_SECONDS,
        )
        self._policy_tokens = Counter(
            "headrace_policy_tokens",
            "Tokens that the policy sampled, by whether a candidate kept them.",
            [*how, "kind"],
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "headrace_prompt_tokens",
            "Tokens of prefixes sent to the policy, by whether its cache had them.",
            [*how, "kind"],
            registry=registry,
        )
        self._verifier_tokens = Counter(
            "headrace_verifier_tokens",
            "Tokens that the verifier read, by whether it had read them before and lost the state.",
            [*how, "kind"],
            registry=registry,
        )
        self._in_flight = Gauge("headrace_searches_in_flight", "Searches that run.", registry=registry)
        self._queued = Gauge("headrace_requests_queued", "Requests that wait for a place.", registry=registry)
        of_pool = ["pool"]
        self._replicas = Gauge("headrace_replicas", "Replicas that serve.", of_pool, registry=registry)
        self._restarts = Gauge(
            "headrace_replica_restarts",
            "Replicas that had the places of the serving ones before them.",
            of_pool,
            registry=registry,
        )
        self._running = Gauge("headrace_policy_running", "Sequences in the policy's engines.", registry=registry)
        self._waiting = Gauge("headrace_policy_waiting", "Sequences that wait for room there.", registry=registry)
        self._preemptions = Gauge(
            "headrace_policy_preemptions", "Sequences that the serving engines preempted.", registry=registry
        )
        self._states = Gauge("headrace_verifier_states", "States of trajectories that are held.", registry=registry)
        self._slots = Gauge("headrace_verifier_slots", "States that the replicas have slots for.", registry=registry)

    @property
    def names(self) -> list[str]:
        """Of all metrics of ours, as queries have them."""
        families = [family for family in self._registry.collect() if family.name.startswith("headrace_")]
        return [f"{family.name}_total" if family.type == "counter" else family.name for family in families]

    def answered(self, strategy: str, status: int, seconds: float) -> None:
        self._requests.labels(strategy, status).inc()
        self._request_s.labels(strategy).observe(seconds)

    def began_to_stream(self, strategy: str, seconds: float) -> None:
        self._first_event_s.labels(strategy).observe(seconds)

    def searched(self, strategy: str, cost: Ledger) -> None:
        """A search has ended, however it did."""
        for counter, kind, tokens in (
            (self._policy_tokens, "kept", cost.generated_tokens - cost.discarded_tokens),
            (self._policy_tokens, "discarded", cost.discarded_tokens),
            (self._prompt_tokens, "computed", cost.prompt_tokens - cost.cached_tokens),
            (self._prompt_tokens, "cached", cost.cached_tokens),
            (self._verifier_tokens, "new", cost.verifier_tokens - cost.reingested_tokens),
            (self._verifier_tokens, "again", cost.reingested_tokens),
        ):
            counter.labels(strategy, kind).inc(max(tokens, 0))

    def exposed(self, *, in_flight: int, queued: int, replicas: ReplicaStats) -> bytes:
        """In the text format."""
        self._in_flight.set(in_flight)
        self._queued.set(queued)
        for pool, stats in (("policy", replicas.policy), ("verifier", replicas.verifier)):
            self._replicas.labels(pool).set(len(stats))
            self._restarts.labels(pool).set(_sum(stats, "epoch"))
        self._running.set(_sum(replicas.policy, "running"))
        self._waiting.set(_sum(replicas.policy, "waiting"))
        self._preemptions.set(_sum(replicas.policy, "preemptions"))
        self._states.set(_sum(replicas.verifier, "states"))
        self._slots.set(_sum(replicas.verifier, "slots"))
        text: bytes = generate_latest(_Labelled(self._registry, {"endpoint": self._endpoint}))
        return text


class _Labelled:
    """A registry whose samples have labels more."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            labelled: list[Any] = [
                sample._replace(labels={**sample.labels, **self._labels}) for sample in family.samples
            ]
            family.samples = labelled
            yield family


def _sum(stats: Sequence[Mapping[str, int]], name: str) -> int:
    return sum(of_replica.get(name, 0) for of_replica in stats)
