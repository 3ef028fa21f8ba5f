"""The tiny pair as the benchmarks use it."""

from experiments.bench.subject import Subject
from experiments.config import PROJECT_ROOT
from experiments.tinymath.task import generate
from orchestrator.core.config import PolicyConfig, StepConfig, VerifierConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Sampling

MODELS = PROJECT_ROOT / "experiments" / "tinymath" / "models"
VERIFIER = VerifierConfig(model=str(MODELS / "prm"))


def problems(count: int, first: int = 0) -> list[Problem]:
    made = generate("test", first + count)[first:]
    return [Problem.from_prompt(f"tiny-{first + i}", problem.prompt) for i, problem in enumerate(made)]


TINY = Subject(
    name="tiny",
    policy=PolicyConfig(model=str(MODELS / "policy")),
    verifier=VERIFIER,
    sampling=Sampling(temperature=1.0, max_tokens=160),
    steps=StepConfig(),
    problems=problems,
    num_problems={1: 4, 8: 16, 64: 128},
    shares=True,
    num_warm=128,
    num_sampled=96,
    goals={"beam": "<= 1.25; and lockstep_over_beam >= 5 at 64", "orchestration": ">= 0.95"},
)
