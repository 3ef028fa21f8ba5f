"""What `headrace train-policy` reads and checks before anything heavy is imported, and the folder that it writes.

The training itself, GRPO (DeepSeekMath, arXiv 2402.03300), is in `experiments.training.grpo`.
"""

import importlib.util
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING

from experiments.config import load_data, load_yaml, resolve_path
from experiments.data.datasets import DataConfig, Dataset
from orchestrator.core.checkpoints import check_policy_checkpoint
from orchestrator.core.config import StepConfig, VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.protocols import Sampling
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import ResolvedVerifier, resolve
from verifiers import VERIFIERS

CONFIG = "train.yaml"  # makes a folder one of a training


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Problems apart from those trained on, by which pass@1 is measured: before, after, and in between."""

    data: DataConfig = MISSING
    num_samples: int = 4  # per problem, sampled as in training
    every_steps: int | None = None  # None: before and after only

    def __post_init__(self) -> None:
        for name in ("num_samples", "every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"held_out: {name} must be >= 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class TrainPolicyConfig:
    """One training of a policy by GRPO. The reward is that of the data set's grader unless a verifier is named."""

    name: str = MISSING
    model: str = MISSING  # a folder with a Hugging Face checkpoint (or, with a network, a hub id)
    data: DataConfig = MISSING
    held_out: HeldOutConfig | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0))

    grader_weight: float = 1.0
    verifier: VerifierConfig | None = None  # read in this process: its score of a whole solution is added
    verifier_weight: float = 1.0
    steps: StepConfig = field(default_factory=StepConfig)  # of a solution, for a verifier that reads text

    num_steps: int = 100  # of the optimizer
    prompts_per_step: int = 16
    num_generations: int = 16  # completions per prompt: the group that a reward is compared with
    micro_batch: int = 64  # completions in one pass forward and back
    beta: float = 0.001  # weight of the KL divergence from the policy as it came
    learning_rate: float = 1e-6
    seed: int = 0
    save_every: int = 50  # steps
    results_dir: str = "results"

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name: wanted a plain folder name, got {self.name!r}")
        for name, least in (("num_steps", 1), ("prompts_per_step", 1), ("num_generations", 2), ("micro_batch", 1),
                            ("save_every", 1), ("beta", 0), ("grader_weight", 0), ("verifier_weight", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be >= {least}, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: must be > 0, got {self.learning_rate}")
        if self.sampling.stop:
            raise ValueError(
                f"sampling: a training ends completions at the end token alone, got stop {self.sampling.stop}"
            )
        if self.sampling.temperature == 0:
            raise ValueError("sampling: temperature must be > 0, got 0: a group of equal completions teaches nothing")
        if self.completions_per_step % self.micro_batch:
            raise ValueError(
                f"micro_batch: must divide prompts_per_step * num_generations = {self.completions_per_step}, "
                f"got {self.micro_batch}"
            )
        if self.grader_weight == 0 and (self.verifier is None or self.verifier_weight == 0):
            raise ValueError("grader_weight: without a verifier it must be > 0, got 0: nothing would be rewarded")

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.num_generations


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """A training that has passed every check that needs no model. Paths in `config` are absolute."""

    config: TrainPolicyConfig
    resolved_yaml: str
    verifier: ResolvedVerifier | None
    dataset: Dataset
    held_out: Dataset | None

    @property
    def folder(self) -> Path:
        return Path(self.config.results_dir) / self.config.name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def warning(self) -> str | None:
        """Said before a training whose reward can be gamed."""
        verifier = self.verifier
        if verifier is None or self.config.verifier_weight == 0 or not verifier.entry.learned:
            return None
        return (
            f"the reward includes {verifier.name}, a learned verifier: the policy may learn to please it instead of "
            "being right (reward hacking). Verifiable rewards only, verifier: null, is the default; trust pass@1, "
            "which a grader measures, and not the reward"
        )


def plan_policy(config_path: Path, overrides: list[str]) -> PolicyPlan:
    """Reads and checks the configuration, the data and the checkpoints' outsides. Raises UserError."""
    config, resolved_yaml = load_yaml(config_path, TrainPolicyConfig, overrides)
    missing = [name for name in ("trl", "accelerate", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"train-policy: {' and '.join(missing)} can't be imported; wanted the extra headrace[train]")
    model = resolve_path(config.model)
    check_policy_checkpoint(model)
    verifier = (
        None if config.verifier is None else resolve(config.verifier, resolve_path, answer=config.data.answer_rule)
    )
    if verifier is not None:
        if verifier.entry.host is None:
            hosted = ", ".join(name for name, entry in VERIFIERS.items() if entry.host is not None)
            raise UserError(f"verifier: {verifier.name} can't be read within a training; wanted one of {hosted}")
        check_verifier(verifier)
    dataset = load_data(config.data)
    if len(dataset.examples) < config.prompts_per_step:
        raise UserError(
            f"prompts_per_step: the data has {len(dataset.examples)} problems, wanted at least "
            f"{config.prompts_per_step}, those of one step"
        )
    held_out = load_data(config.held_out.data) if config.held_out is not None else None
    if held_out is not None:
        trained_on = {example.problem.messages for example in dataset.examples}
        shared = [e.problem.id for e in held_out.examples if e.problem.messages in trained_on]
        if shared:
            raise UserError(
                f"held_out: {len(shared)} of its problems are trained on, the first is {shared[0]!r}; wanted others"
            )
    return PolicyPlan(
        config=replace(config, model=model),
        verifier=verifier,
        resolved_yaml=resolved_yaml,
        dataset=dataset,
        held_out=held_out,
    )


def find_checkpoint(plan: PolicyPlan, *, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, if any. Raises UserError where the plan's folder may not be written to."""
    folder, found = plan.folder, plan.folder / CONFIG
    if resume and overwrite:
        raise UserError("train-policy: --resume and --overwrite exclude each other, got both")
    if not found.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"train-policy: {folder} holds no training; wanted a new or empty folder")
        return None
    if overwrite:
        return None
    if not resume:
        raise UserError(
            f"train-policy: {folder} already holds a training; wanted --resume (to finish it), --overwrite (to "
            "replace it) or another name"
        )
    if found.read_text(encoding="utf-8") != plan.resolved_yaml:
        raise UserError(
            f"train-policy: {folder} belongs to a training of another configuration, {found}; wanted the same "
            "one, another name or --overwrite"
        )
    whole = [path.parent for path in plan.checkpoints.glob("checkpoint-*/trainer_state.json")]  # written last
    return max(whole, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: Path) -> int:
    """After how many steps it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def start_folder(plan: PolicyPlan) -> None:
    """Makes the folder of a training that begins. What an earlier one left there goes; `find_checkpoint` allowed it."""
    if plan.folder.exists():
        shutil.rmtree(plan.folder)
    plan.folder.mkdir(parents=True)
    (plan.folder / CONFIG).write_text(plan.resolved_yaml, encoding="utf-8")
