"""Labels by rollouts of the real engines, which all tests share."""

from itertools import accumulate
from pathlib import Path

from tokenizers import Tokenizer

from experiments.data.graders import Grader
from experiments.doctor import TINY_POLICY
from experiments.labelling.estimates import Estimation
from experiments.labelling.labellers import BinarySearch, MonteCarlo
from experiments.labelling.sources import Recorded, Sampled
from experiments.replay.recording import RecordedProblem, Sample
from experiments.tinymath.task import generate
from orchestrator.core.nouns import Problem, Status, Trajectory
from orchestrator.policy import PolicyPool
from tests.experiments.labelling.solving import opening, unheard
from tests.fakes import ANSWERS

K = 4
MADE = generate("train", 6)


def as_sample(solution: Trajectory) -> Sample:
    return Sample(
        token_ids=solution.completion_ids,
        ends=tuple(accumulate(len(step.token_ids) for step in solution.steps)),
        text=solution.text,
        answer=solution.answer,
        correct=False,
        undecided=None,
        aggregate_score=None,
        truncated=solution.status is Status.TRUNCATED,
    )


async def test_solutions_are_sampled_recorded_and_labelled_by_rollouts(policy_pool: PolicyPool) -> None:
    open_session = opening(policy_pool)
    grader = Grader({made.id: made.answer for made in MADE}, ANSWERS)
    soft = MonteCarlo(
        open_session=open_session, grader=grader, k=K, on_answer=unheard, estimation=Estimation.soft, threshold=0.0
    )
    search = BinarySearch(open_session=open_session, grader=grader, k=K, on_answer=unheard)
    tokenizer = Tokenizer.from_file(str(Path(TINY_POLICY) / "tokenizer.json"))
    shares = set()
    for made in MADE:
        problem = Problem.from_prompt(made.id, made.prompt)
        solutions, _ = await Sampled(open_session=open_session, n=3).solutions(problem)
        recorded = RecordedProblem(
            problem=problem, prompt_ids=(-1,), samples=tuple(map(as_sample, solutions)), scores={}
        )
        again = Recorded(open_session=open_session, tokenizer=tokenizer, problems={made.id: recorded}, n=None)
        assert [s.steps for s in (await again.solutions(problem))[0]] == [s.steps for s in solutions]

        labels, cost = await soft.label(problem, solutions)
        prefixes = {
            tuple(step.token_ids for step in s.steps[:end]) for s in solutions for end in range(1, len(s.steps))
        }
        assert cost.candidates == K * len(prefixes)
        assert [its[-1] for its in labels] == [float(s.answer == made.answer) for s in solutions]
        shares |= {share for its in labels for share in its[:-1]}

        found, cheaper = await search.label(problem, solutions)
        assert cheaper.candidates <= cost.candidates
        assert all(its == tuple(sorted(its, reverse=True)) for its in found)
        assert [its[-1] for its in found] == [its[-1] for its in labels]
    assert {0.0, 1.0} < shares <= {share / K for share in range(K + 1)}
