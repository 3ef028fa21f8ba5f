"""Facts about verifiers that write, over a scripted policy."""

import asyncio
import re
from dataclasses import replace
from math import log

import pytest

from orchestrator.core.alternatives import Alternatives
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Generation, ScoreRequest, Segment, Solution, Verifier
from orchestrator.verifier.chains import PolicyWriter
from orchestrator.verifier.generative import GenerativeVerifier
from strategies.best_of_n import BestOfN
from tests.fakes import SHAPE, ScriptedPolicy, ids, open_session, problem
from verifiers.generative import GenerativePRM
from verifiers.generative_options import GenerativeOptions, Question, averaged
from verifiers.generative_orm import GenerativeORM
from verifiers.llm_judge import LLMJudge
from verifiers.weighing import ScoreBy, Weigh, as_written

TEMPLATE = "{problem}|{solution}#"  # what a scripted policy continues
GOOD = "Step 1: The step is \\boxed{correct}\nStep 2: The step is \\boxed{correct}"
BAD = "Step 1: The step is \\boxed{correct}\nStep 2: The step is \\boxed{incorrect}"
NONSENSE = "Looks good."


def reading(*steps: str, asked: tuple[int, ...] | None = None) -> ScoreRequest:
    asked = tuple(range(len(steps))) if asked is None else asked
    ends = [len("Q:" + "".join(steps[: index + 1])) for index in range(len(steps))]
    return ScoreRequest(
        token_ids=ids("Q:" + "".join(steps)),
        boundaries=tuple(ends[index] for index in asked),
        solution=Solution(problem=Problem.from_prompt("p", "Q:"), steps=steps, asked=asked),
    )


def written(policy: ScriptedPolicy, judge: GenerativeOptions) -> GenerativeVerifier:
    return GenerativeVerifier(judge, PolicyWriter(policy))


def generative(*chains: str, context_length: int = 10_000) -> tuple[ScriptedPolicy, GenerativeVerifier]:
    """One that writes these chains to each prompt."""
    policy = ScriptedPolicy({"#": list(chains)}, context_length=context_length)
    return policy, written(policy, GenerativePRM(template=TEMPLATE, chains=len(chains), max_tokens=200))


async def test_scores_are_the_average_of_the_chains() -> None:
    _, verifier = generative(GOOD, BAD, GOOD, BAD)
    [verdict] = await verifier.score([reading("a\n\n", "b")])
    assert verdict.scores == (averaged([1.0] * 4), averaged([1.0, 0.0, 1.0, 0.0]))
    assert verdict.handle is None


async def test_chains_that_do_not_parse_abstain() -> None:
    _, verifier = generative(GOOD, NONSENSE, BAD, NONSENSE)
    [verdict] = await verifier.score([reading("a\n\n", "b")])
    assert verdict.scores == (averaged([1.0, 1.0]), averaged([1.0, 0.0]))


async def test_where_all_chains_abstain_there_is_no_score() -> None:
    policy, verifier = generative(NONSENSE, NONSENSE + " " * 300)
    [verdict] = await verifier.score([reading("a\n\n", "b")])
    assert verdict.unjudged is not None
    assert re.match(r"none of 2 .* can be read \(1 were cut off at max_tokens 200\); .* 0 of 2", verdict.unjudged)
    assert verdict.scores == ()
    assert verdict.verifier_tokens == sum(len(r.prefix_ids) for r in policy.requests) + len(NONSENSE) + 1 + 200
    assert verdict.flops > 0
    [stats] = await verifier.stats()
    assert stats["tokens_read"] == sum(len(r.prefix_ids) for r in policy.requests) + len(NONSENSE) + 1 + 200


async def test_every_token_read_and_written_is_counted_and_so_are_their_flops() -> None:
    policy, verifier = generative(GOOD, NONSENSE)
    [verdict] = await verifier.score([reading("a\n\n", "b")])
    prompt = len("Q:|Step 1: a\nStep 2: b#")
    assert [len(request.prefix_ids) for request in policy.requests] == [prompt] * 2
    assert verdict.verifier_tokens == 2 * prompt + len(GOOD) + 1 + len(NONSENSE) + 1  # ends of sequence
    assert verdict.flops == sum(
        SHAPE.flops(new_tokens=prompt + len(chain), context_tokens=0, logits=len(chain) + 1)
        for chain in (GOOD, NONSENSE)
    )


async def test_the_same_prompt_gets_the_same_seeds_and_no_two_chains_share_one() -> None:
    policy, verifier = generative(GOOD, GOOD)
    for steps in (("a\n\n", "b"), ("a\n\n", "c"), ("a\n\n", "b")):
        await verifier.score([reading(*steps)])
    seeds = [request.seed for request in policy.requests]
    assert seeds[:2] == seeds[4:]
    assert len(set(seeds)) == 4


async def test_readings_of_one_call_are_written_together_and_keep_their_order() -> None:
    policy = ScriptedPolicy({"Step 2: b#": [GOOD], "Step 2: c#": [BAD]})
    verifier = written(policy, GenerativePRM(template=TEMPLATE, chains=1))
    verdicts = await verifier.score([reading("a\n\n", "c", asked=(1,)), reading("a\n\n", "b", asked=(1,))])
    assert [verdict.scores[0].mean for verdict in verdicts] == [0.0, 1.0]


async def test_a_judge_writes_once_for_each_asked_step() -> None:
    policy = ScriptedPolicy({"Step 1: a#": ["Rating: \\boxed{9}"], "b#": ["Rating: \\boxed{2}"]})
    verifier = written(policy, LLMJudge(template=TEMPLATE))
    [verdict] = await verifier.score([reading("a\n\n", "b")])
    assert [score.mean for score in verdict.scores] == [0.9, 0.2]
    assert len(policy.requests) == 2


async def test_a_reading_that_asks_nothing_costs_nothing() -> None:
    policy, verifier = generative(GOOD)
    [verdict] = await verifier.score([ScoreRequest(token_ids=(1, 2), boundaries=())])
    assert (verdict.scores, verdict.verifier_tokens, policy.requests) == ((), 0, [])


async def test_a_solution_too_long_for_its_judge_is_not_judged_and_the_others_are() -> None:
    policy, verifier = generative(GOOD, BAD, context_length=len("Q:|Step 1: a\nStep 2: b#") + 1)
    long, short, longer = await verifier.score([reading("a\n\n", text) for text in ("bc", "b", "bcd")])
    assert long.unjudged is not None
    assert re.search(r"a prompt of 24 tokens leaves no room in the judge's context of 24", long.unjudged)
    assert (long.scores, long.verifier_tokens) == ((), 0)
    assert [score.mean for score in short.scores] == [1.0, 0.5]
    assert longer.unjudged is not None and "25 tokens" in longer.unjudged
    assert len(policy.requests) == 2


async def test_a_fault_of_the_engine_is_raised() -> None:
    policy, verifier = generative(GOOD, GOOD)
    policy.fails_after = 1
    with pytest.raises(RuntimeError, match="a scripted failure"):
        await verifier.score([reading("a\n\n", "b")])


async def test_a_caller_that_leaves_aborts_what_is_written() -> None:
    policy, verifier = generative(GOOD, GOOD)
    policy.gate = asyncio.Event()
    judging = asyncio.create_task(verifier.score([reading("a\n\n", "b")]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert policy.requests
    judging.cancel()
    await asyncio.gather(judging, return_exceptions=True)
    assert policy.aborted == 2


async def test_a_policy_may_judge_what_it_writes_and_both_are_on_the_ledger() -> None:
    script = {"Q:": ["Answer: 1", "Answer: 2"], "Answer: 1#": ["Rating: \\boxed{3}"], "2#": ["Rating: \\boxed{8}"]}
    policy = ScriptedPolicy(script)
    verifier: Verifier = written(policy, LLMJudge(template=TEMPLATE))
    async with open_session(policy, verifier) as session:
        result = await BestOfN(n=2).search(problem(), session)
    assert (result.answer, result.score) == ("2", 0.8)
    assert session.ledger.generated_tokens == 2 * len("Answer: 1") + 2
    assert session.ledger.verifier_tokens == 2 * len("Q:|Step 1: Answer: 1#Rating: \\boxed{3}") + 2
    assert session.ledger.verifier_flops > 0
    assert session.ledger.peak_state_bytes == 0


async def test_an_outcome_verifier_is_asked_once_about_each_solution_that_ended() -> None:
    yes, no = (f"Verification: Is the answer correct (Yes/No)? {word}" for word in ("Yes", "No"))
    script = {"Q:": ["a\n\nAnswer: 1", "b\n\nAnswer: 2", "b\n\nAnswer: 3"], "1#": [yes, no], "2#": [yes, NONSENSE]}
    policy = ScriptedPolicy({**script, "3#": [NONSENSE]})
    verifier: Verifier = written(policy, GenerativeORM(template=TEMPLATE, chains=2))
    async with open_session(policy, verifier) as session:
        result = await BestOfN(n=3).search(problem(), session)
    assert [candidate.aggregate_score for candidate in result.candidates] == [0.5, 1.0, None]
    assert result.answer == "2"
    assert len(policy.requests) == 3 + 3 * 2
    assert "none of 2 written verdicts can be read" in (result.candidates[2].trajectory.unjudged or "")


class OddJudge(LLMJudge):
    """Fails on some solutions, as a judge of somebody else's may."""

    def questions(self, solution: Solution) -> list[Question]:
        if solution.steps[0] == "unaskable":
            raise KeyError("unaskable")
        return super().questions(solution)

    def values(self, question: Question, chain: str, weigh: Weigh = as_written) -> tuple[float, ...]:
        if "broken" in question.prompt:
            raise ZeroDivisionError("division by zero")
        for word, values in (("nan", (float("nan"),)), ("two", (0.5, 0.5)), ("big", (10.0,))):
            if word in question.prompt:
                return values
        return (1.0,)


async def test_a_judge_that_fails_on_one_solution_judges_the_others() -> None:
    verifier = written(ScriptedPolicy({"#": ["x"]}), OddJudge(template=TEMPLATE, max_tokens=5))
    words = ["unaskable", "broken", "nan", "two", "big", "good"]
    *odd, good = await verifier.score([reading(word) for word in words])
    assert good.scores == (averaged([1.0]),)
    assert all(verdict.scores == () for verdict in odd)
    for verdict, reason in zip(
        odd,
        [
            "the verifier raises on it: KeyError: 'unaskable'",
            "the verifier raises on it: ZeroDivisionError: division by zero",
            "not a finite number (mean nan",
            "the verifier gave 2 scores, wanted 1",
            "outside [0, 1] (mean 10.0",
        ],
        strict=True,
    ):
        assert reason in (verdict.unjudged or "")


class DoubtfulPolicy(ScriptedPolicy):
    """Says of each token that it writes that a minus sign was as likely, and of a Y and an N how likely each was."""

    def _plan(self, request: Generation) -> list[Segment]:
        likeliest = (("Y", log(0.6)), ("N", log(0.2)), ("-", log(0.2)))
        return [
            replace(
                segment,
                alternatives=tuple(
                    Alternatives(at=at, text=text, logprobs=likeliest if text in "YN" else ((text, 0.0),))
                    for at, text in enumerate(segment.text)
                    if request.words
                ),
            )
            for segment in super()._plan(request)
        ]


@pytest.mark.parametrize(("score", "mean"), [(ScoreBy.VERDICT, 0.5), (ScoreBy.PROBABILITY, 0.75)])
async def test_a_verdict_counts_as_written_or_by_its_probability_at_no_further_token(
    score: ScoreBy, mean: float
) -> None:
    yes, no = (f"Hm.\n\nVerification: Is the answer correct (Yes/No)? {word}" for word in ("Yes", "No"))
    policy = DoubtfulPolicy({"#": [yes, no]})
    judge = GenerativeORM(template=TEMPLATE, chains=2, score=score)
    [verdict] = await written(policy, judge).score([reading("a", asked=(0,))])
    assert verdict.scores[0].mean == pytest.approx(mean)
    assert verdict.verifier_tokens == sum(len(r.prefix_ids) for r in policy.requests) + len(yes) + len(no) + 2


async def test_a_writer_that_tells_no_probabilities_gives_no_score() -> None:
    policy = ScriptedPolicy({"#": ["Verification: Is the answer correct (Yes/No)? Yes"]})
    judge = GenerativeORM(template=TEMPLATE, chains=1, score=ScoreBy.PROBABILITY)
    [verdict] = await written(policy, judge).score([reading("a", asked=(0,))])
    assert verdict.scores == ()
    assert "told no log-probabilities of the verdict 'Yes'" in (verdict.unjudged or "")
