"""The generated family of arithmetic problems that the shipped pair is trained for. It knows which steps are right."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from experiments.data.datasets import DataConfig, Dataset, Example, StepLabels
from experiments.tinymath import task
from orchestrator.core.nouns import Problem

_USUAL_NUMBER = 200


@dataclass(frozen=True, kw_only=True)
class TinyMath(DataConfig):
    """Problems of a split; fewer are a prefix of more."""

    split: str = "test"  # train, dev or test
    num_problems: int | None = None  # None: 200

    graders: ClassVar[tuple[str, ...]] = ("exact", "math")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in task.SPLITS:
            raise ValueError(f"split: got {self.split!r}, wanted {', '.join(task.SPLITS)}")

    def load(self) -> Dataset:
        return Dataset(examples=tuple(map(self._example, self._made())))

    def step_labels(self) -> StepLabels:
        """By the one correct solution of each problem."""
        made = {problem.id: problem for problem in self._made()}

        def label(problem_id: str, steps: Sequence[str]) -> list[bool]:
            whole = (step.removesuffix(task.STEP_DELIMITER) + task.STEP_DELIMITER for step in steps)
            return task.step_labels(made[problem_id], "".join(whole))

        return label

    def _made(self) -> list[task.TinyProblem]:
        return task.generate(self.split, self.num_problems or _USUAL_NUMBER)

    def _example(self, made: task.TinyProblem) -> Example:
        metadata = self.metadata("a problem of tinymath", asdict(made))
        problem = Problem.from_prompt(made.id, made.prompt, difficulty=float(made.level), metadata=metadata)
        return Example(problem=problem, reference=made.answer)
