"""The tiny pair as the benchmarks use it."""

from experiments.config import PROJECT_ROOT
from experiments.tinymath.task import generate
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.config import PolicyConfig, VerifierConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Policy, Sampling, Verifier
from orchestrator.search import SearchRuntime

MODELS = PROJECT_ROOT / "experiments" / "tinymath" / "models"
POLICY = PolicyConfig(model=str(MODELS / "policy"))
VERIFIER = VerifierConfig(model=str(MODELS / "prm"))
SAMPLING = Sampling(temperature=1.0, max_tokens=160)


def problems(count: int, first: int = 0) -> list[Problem]:
    made = generate("test", first + count)[first:]
    return [Problem.from_prompt(f"tiny-{first + i}", problem.prompt) for i, problem in enumerate(made)]


def runtime(policy: Policy, verifier: Verifier | None, *, speculation: int = 0) -> SearchRuntime:
    return SearchRuntime(
        policy=policy,
        verifier=verifier,
        sampling=SAMPLING,
        answers=ExactAnswers(AnswerFormat.parse(None)),
        speculation=speculation,
    )
