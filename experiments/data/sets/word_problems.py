"""Generated arithmetic word problems of one step, which a small language model can partly do. The prompt is a
chat: four worked examples, then the question. The answer is the last number of the reply."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from experiments.data.datasets import DataConfig, Dataset, Example
from experiments.smollm2 import word_problems
from orchestrator.core.nouns import Message, Problem

_USUAL_NUMBER = 200


@dataclass(frozen=True, kw_only=True)
class WordProblems(DataConfig):
    """The first problems of a seed."""

    seed: int = 0
    num_problems: int | None = None  # None: 200

    graders: ClassVar[tuple[str, ...]] = ("exact", "math")
    usual_answer: ClassVar[str] = "last_number"

    def load(self) -> Dataset:
        made = word_problems.generate(self.num_problems or _USUAL_NUMBER, self.seed)
        return Dataset(examples=tuple(self._example(index, problem) for index, problem in enumerate(made)))

    def _example(self, index: int, made: word_problems.WordProblem) -> Example:
        problem = Problem(
            id=f"word-{self.seed}-{index:04d}",
            messages=(*_worked_examples(), Message(role="user", content=made.question)),
            metadata=self.metadata("a problem of word_problems", asdict(made)),
        )
        return Example(problem=problem, reference=made.answer)


def _worked_examples() -> list[Message]:
    return [
        message
        for example in word_problems.worked_examples()
        for message in (
            Message(role="user", content=example.question),
            Message(role="assistant", content=example.solution),
        )
    ]
