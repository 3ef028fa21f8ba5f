"""Answers that are equal as strings: for data sets whose answers have one spelling."""

import re
from collections.abc import Sequence

from orchestrator.core.answers.formats import AnswerFormat
from orchestrator.core.nouns import Comparison

_NUMBER = re.compile(
    r"(?:\\?\$)?(?P<sign>[-+]?)(?:\\?\$)?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<zeros>\.0+)?(?P<places>\.\d+)?"
)


def spelling(answer: str) -> str:
    """The answer itself; a lone number without separators of thousands, currency and a `.0`."""
    number = _NUMBER.fullmatch(answer)
    if number is None:
        return answer
    return number["sign"].replace("+", "") + number["whole"].replace(",", "") + (number["places"] or "")


class ExactAnswers:
    """Implements `Answers`. Equal are equal strings; of a lone number, `1,234.0` and `$1234` are 1234."""

    spelled = staticmethod(spelling)
    """An answer's one spelling."""

    def __init__(self, format: AnswerFormat) -> None:
        self.extract = format.extract

    async def group(self, answers: Sequence[str | None]) -> list[int | None]:
        numbers: dict[str, int] = {}
        return [None if a is None else numbers.setdefault(self.spelled(a), len(numbers)) for a in answers]

    async def compare(self, reference: str, answers: Sequence[str | None]) -> list[Comparison]:
        wanted = self.spelled(reference)
        return [Comparison(equal=answer is not None and self.spelled(answer) == wanted) for answer in answers]
