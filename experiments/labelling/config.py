"""What `headrace label` reads from YAML."""

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from experiments.data.datasets import DataConfig
from experiments.labelling.estimates import Estimation
from experiments.labelling.imports import Neutral
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig
from orchestrator.core.protocols import Sampling


class Method(StrEnum):
    """How labels are found."""

    monte_carlo = "monte_carlo"  # k rollouts from the end of each step
    binary_search = "binary_search"  # likewise, of as few steps as it takes to find the first error
    verifier = "verifier"  # a verifier's scores
    exact = "exact"  # the data set's own
    imported = "imported"  # others' labels


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Whose solutions: fresh samples; or one of those of a run, those of labelled folders, and a published file."""

    n: int | None = None  # samples of each problem: fresh ones (None: 4), or the first so many of a run (None: all)
    run: str | None = None  # a results folder that holds samples of the same policy
    labelled: str | None = None  # a folder or file that `headrace label` wrote
    path: str | None = None  # JSON Lines or Parquet in a published format
    format: str | None = None  # of that file: prm800k, math_shepherd or stepwise
    neutral: Neutral = Neutral.positive  # what prm800k's rating 0 counts as
    alternatives: bool = True  # of prm800k: also the steps that were rated and not chosen
    max_skipped: float = 0.05  # of a published file: the largest share of records that may be left out as unreadable

    def __post_init__(self) -> None:
        given = [name for name in ("run", "labelled", "path") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"source: wanted at most one of run, labelled and path, got {' and '.join(given)}")
        if (self.path is None) != (self.format is None):
            raise ValueError(f"source: wanted path and format or neither, got {self.path} and {self.format}")
        if not 0 <= self.max_skipped <= 1:
            raise ValueError(f"source: max_skipped must be in [0, 1], got {self.max_skipped}")
        if self.n is not None and self.n < 1:
            raise ValueError(f"source: n must be >= 1, got {self.n}")
        if self.n is not None and (self.labelled or self.path):
            raise ValueError("source: n is for samples, fresh or of a run; labelled and path are taken whole")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """One labelling: a method on the solutions of a source."""

    name: str = MISSING
    method: Method = MISSING
    source: SourceConfig = field(default_factory=SourceConfig)
    data: DataConfig | None = None  # the problems, and the reference answers that rollouts are graded by
    policy: PolicyConfig | None = None
    verifier: VerifierConfig | None = None
    sampling: Sampling = field(default_factory=Sampling)  # of solutions and rollouts
    steps: StepConfig = field(default_factory=StepConfig)
    k: int = 8  # rollouts from the end of a step
    labels: Estimation = Estimation.hard
    threshold: float | None = None  # a hard label is 1 above it; None: 0 for shares of rollouts, 0.5 for scores
    seed: int = 0
    problems_in_flight: int = 32
    problem_timeout_s: float = 600.0
    compare: str | None = None  # a labelled folder of the same solutions, to say how far the two agree
    results_dir: str = "results"
    ray: RayConfig = field(default_factory=RayConfig)
    pool: str | None = None  # a named pool (`headrace up`) whose policy and verifier are used; None: started for this

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name: wanted a plain folder name, got {self.name!r}")
        for name in ("k", "problems_in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        if self.problem_timeout_s <= 0:
            raise ValueError(f"problem_timeout_s: must be > 0, got {self.problem_timeout_s}")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: must be in [0, 1), got {self.threshold}")
        if self.threshold is not None and self.labels is Estimation.soft:
            raise ValueError(f"threshold: is for hard labels, got {self.threshold} and soft ones")
        if self.method is Method.binary_search and (self.labels is Estimation.soft or self.threshold):
            raise ValueError("binary_search: finds the first step without a right rollout: wanted hard labels above 0")
        if (self.method is Method.imported) != (self.source.path is not None):
            raise ValueError(f"method: imported goes with source.path and format, got {self.method.value}")
        if self.method is Method.verifier and self.verifier is None:
            raise ValueError("verifier: is missing, wanted the one whose scores are the labels")
        if self.method is Method.exact and self.data is not None and self.data.step_labels() is None:
            raise ValueError(f"method: exact labels are known of tinymath only, got data.name {self.data.name}")
        if self.data is None and self.wants_data:
            raise ValueError("data: is missing, wanted the problems")
        if self.policy is None and self.wants_policy:
            raise ValueError("policy: is missing, wanted the model that writes the solutions")

    @property
    def wants_data(self) -> bool:
        """Whether the problems are needed, or their answers."""
        graded = self.method in (Method.monte_carlo, Method.binary_search, Method.exact)
        return graded or not (self.source.labelled or self.source.path)

    @property
    def wants_policy(self) -> bool:
        """Whether an engine is needed."""
        if self.source.labelled is not None:
            return self.method is not Method.exact
        return self.source.path is None
