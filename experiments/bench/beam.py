"""PRM-guided beam search against best-of-N with the same verifier, and against beam search as it is usually done.

Usually: one problem at a time, in lockstep, the whole prefix scored again at each step (search-and-learn works so);
here that is a setting of the session and of the verifier, fair in all else: same engine, prefix cache on, same batch
of children. Figures are seconds per useful token: tokens thrown away count as time, not as output.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from experiments.bench.core import Measured, interleave, ratio_of, spread
from experiments.bench.subject import Subject
from orchestrator.cluster import connected
from orchestrator.core.config import RayConfig
from orchestrator.core.errors import UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Problem, StateHandle
from orchestrator.core.protocols import Policy, ScoreRequest, Strategy, Verdict, Verifier
from orchestrator.pools.open import open_pools
from orchestrator.pools.record import ray_of
from orchestrator.search import for_each
from orchestrator.verifier.resolve import resolve
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.early_stop import EarlyStop

BEAM, BEST_OF_N = BeamSearch(n=16, beam_width=4), BestOfN(n=16)
STEPWISE = EarlyStop(n=16)
STEPWISE_IN_FLIGHT = (1, 8)  # every survivor has one child, which is its own continuation
DEPTH = 4


class WholePrefix:
    """Implements `Verifier` without carried states: every reading reads the whole trajectory again."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.flops_per_token = verifier.flops_per_token
        self.scores_steps, self.reads_text = verifier.scores_steps, verifier.reads_text
        self.reads_tokens = verifier.reads_tokens
        self.state_bytes = 0

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        whole = [replace(r, handle=None) for r in readings]
        verdicts = await self._verifier.score([r for r in whole if r.boundaries])
        self._verifier.release([v.handle for v in verdicts if v.handle is not None])
        given = iter(verdicts)
        unread = Verdict(scores=(), handle=None, verifier_tokens=0)
        return [replace(next(given), handle=None) if r.boundaries else unread for r in whole]

    def release(self, handles: Sequence[StateHandle]) -> None:
        assert not handles


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run a search over many problems."""

    strategy: Strategy
    in_flight: int
    speculation: int = 0
    carried: bool = True


def variants(subject: Subject) -> dict[str, Variant]:
    made = {}
    for in_flight in subject.num_problems:
        made[f"best_of_n at {in_flight}"] = Variant(strategy=BEST_OF_N, in_flight=in_flight)
        made[f"beam at {in_flight}"] = Variant(strategy=BEAM, in_flight=in_flight)
        if subject.shares:
            made[f"beam, speculating, at {in_flight}"] = Variant(strategy=BEAM, in_flight=in_flight, speculation=DEPTH)
            made[f"beam, whole prefix, at {in_flight}"] = Variant(strategy=BEAM, in_flight=in_flight, carried=False)
    for in_flight in STEPWISE_IN_FLIGHT if subject.shares else ():
        made[f"stepwise at {in_flight}"] = Variant(strategy=STEPWISE, in_flight=in_flight)
        made[f"stepwise, speculating, at {in_flight}"] = Variant(
            strategy=STEPWISE, in_flight=in_flight, speculation=DEPTH
        )
    return made


async def measure(
    subject: Subject, *, repeats: int, on_repeat: Callable[[str], None], pool: str | None = None
) -> Measured:
    """`pool`: a named one that keeps the subject's models; None: replicas that are started for this."""
    if subject.verifier is None:
        raise UserError("bench: beam: verifier is missing, wanted the folder of a streaming PRM or a word")
    with connected(ray_of(pool, RayConfig()), replicas=2):
        async with AsyncExitStack() as stack:
            policy, verifier = await open_pools(
                stack, policy=subject.policy, steps=subject.steps, verifier=resolve(subject.verifier), pool=pool
            )
            replicas = policy.num_ready
            assert verifier is not None
            ledgers: dict[str, Ledger] = {}

            def runner(name: str, variant: Variant) -> Callable[[int], Any]:
                async def run(repeat: int) -> float:
                    count = subject.num_problems[variant.in_flight]
                    asked = subject.problems(count, repeat % 5 * count)
                    seconds, ledger = await _run(subject, policy, verifier, variant, asked, repeat)
                    ledgers[name] = ledgers.get(name, Ledger()) + ledger
                    return seconds / (ledger.generated_tokens - ledger.discarded_tokens)

                return run

            for strategy in (BEST_OF_N, BEAM):  # both pools warm, the tiny ones at their most
                warming = Variant(strategy=strategy, in_flight=subject.most_in_flight)
                await _run(subject, policy, verifier, warming, subject.problems(subject.num_warm, 0), 1000)
            runs = {name: runner(name, variant) for name, variant in variants(subject).items()}
            costs = await interleave(repeats, runs, on_repeat)
            preemptions = sum(stats["preemptions"] for stats in await policy.stats())
    most = subject.most_in_flight
    return Measured(
        **ratio_of(costs[f"beam at {most}"], costs[f"best_of_n at {most}"]),
        baseline=f"best_of_n n=16 with the same verifier at {most} problems in flight; seconds per useful token",
        goal=subject.goals["beam"],
        settings={
            "policy": subject.name,
            "pool": pool,
            "policy_replicas": replicas,
            "n": BEAM.n,
            "beam_width": BEAM.beam_width,
            "problems_by_in_flight": dict(subject.num_problems),
            "max_tokens": subject.sampling.max_tokens,
            "step_delimiters": subject.steps.delimiters,
            "speculation": DEPTH if subject.shares else 0,
            "spare_seqs": subject.policy.spare_seqs,
            "repeats": repeats,
        },
        details={
            "seconds_per_1000_useful_tokens": {
                name: spread([1000 * value for value in values]) for name, values in costs.items()
            },
            "beam_over_best_of_n": {
                f: ratio_of(costs[f"beam at {f}"], costs[f"best_of_n at {f}"]) for f in subject.num_problems
            },
            **(_shares(subject, costs) if subject.shares else {}),
            "tokens": {name: _tokens(ledger) for name, ledger in ledgers.items()},
            "preemptions": preemptions,
        },
    )


def _shares(subject: Subject, costs: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What each part of beam search is worth: the ratio without it."""
    levels = subject.num_problems
    lockstep = costs["beam, whole prefix, at 1"]
    return {
        "lockstep_over_beam": {f: ratio_of(lockstep, costs[f"beam at {f}"]) for f in levels},
        "share_of_speculation": {
            f: ratio_of(costs[f"beam at {f}"], costs[f"beam, speculating, at {f}"]) for f in levels
        },
        "share_of_speculation_in_early_stop": {
            f: ratio_of(costs[f"stepwise at {f}"], costs[f"stepwise, speculating, at {f}"]) for f in STEPWISE_IN_FLIGHT
        },
        "share_of_carried_state": {
            f: ratio_of(costs[f"beam, whole prefix, at {f}"], costs[f"beam at {f}"]) for f in levels
        },
        "share_of_cross_problem_batching": {
            f: ratio_of(costs["beam at 1"], costs[f"beam at {f}"]) for f in levels if f > 1
        },
    }


def _tokens(ledger: Ledger) -> dict[str, int]:
    return {
        "generated": ledger.generated_tokens,
        "discarded": ledger.discarded_tokens,
        "speculative": ledger.speculative_tokens,
        "verifier": ledger.verifier_tokens,
    }


async def _run(
    subject: Subject, policy: Policy, verifier: Verifier, variant: Variant, asked: Sequence[Problem], seed: int
) -> tuple[float, Ledger]:
    """Seconds and costs of searching the problems."""
    judge = verifier if variant.carried else WholePrefix(verifier)
    searches = subject.runtime(policy, judge, speculation=variant.speculation)
    total = Ledger()

    async def work(problem: Problem) -> None:
        nonlocal total
        async with searches.session(seed) as session:
            await variant.strategy.search(problem, session)
        total += session.ledger

    began = time.monotonic()
    await for_each(asked, work, in_flight=variant.in_flight)
    return time.monotonic() - began, total
