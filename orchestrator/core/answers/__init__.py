"""Final answers in texts: where they stand (`AnswerFormat`), and how they are written without their decoration."""

from orchestrator.core.answers.formats import CODE_RULES, AnswerFormat, reference_answer
from orchestrator.core.answers.normalise import normalise

__all__ = ["CODE_RULES", "AnswerFormat", "normalise", "reference_answer"]
