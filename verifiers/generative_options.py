"""What verifiers that write have in common: how chains are asked for, and how those that can be read become a score.

A chain that can't be read abstains. It is never a score, and where all abstain there is none. What counts of a verdict
that can be read is in `verifiers.weighing`.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from orchestrator.core.nouns import Score
from orchestrator.core.protocols import Solution
from verifiers.weighing import ScoreBy, Weigh, as_written


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt, and the steps of the solution that each chain written to it judges."""

    prompt: str
    asked: tuple[int, ...]  # indices
    num_steps: int  # shown in the prompt


@dataclass(frozen=True, kw_only=True)
class GenerativeOptions(ABC):
    """Options of a verifier that writes, and the pure part of it: prompts from solutions, values from chains."""

    template: str  # of the prompt; {problem} and {solution} are filled in
    chains: int  # written for each prompt and averaged
    max_tokens: int  # of a chain
    temperature: float = 0.7
    score: ScoreBy = ScoreBy.VERDICT  # probability: the writer must tell the likeliest tokens
    url: str | None = None  # of a server with the OpenAI API, as http://host:8000/v1; None: a policy engine writes
    api_key_env: str | None = None  # the environment variable that holds the server's key
    requests_in_flight: int = 32  # to the server
    timeout_s: float = 120.0  # of one attempt at a request to the server
    flops_per_token: float | None = None  # of the server's model: 2 x its weights; None: not known, tokens count alone
    engine: dict[str, Any] = field(default_factory=dict)  # what else `PolicyConfig` may say of an engine of its own

    scores_steps: ClassVar[bool] = True  # False: it judges whole solutions only
    words: ClassVar[tuple[str, ...]] = ()  # its verdicts; none: they have no probabilities

    def __post_init__(self) -> None:
        for placeholder in ("{problem}", "{solution}"):
            if placeholder not in self.template:
                raise ValueError(f"template must hold {placeholder}, got {self.template!r}")
        for name in ("chains", "max_tokens", "requests_in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if self.chains > 1 and self.temperature == 0:
            raise ValueError(f"{self.chains} chains at temperature 0 would be the same one, wanted chains: 1")
        if self.score is ScoreBy.PROBABILITY and not self.words:
            raise ValueError("score: wanted verdict, for this verifier's verdicts are not of a few words")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be > 0, got {self.timeout_s}")
        if self.flops_per_token is not None and not self.flops_per_token > 0:
            raise ValueError(f"flops_per_token must be > 0 (or null for not known), got {self.flops_per_token}")
        if self.url is not None and not re.match(r"https?://[^/]", self.url):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.url is not None and self.engine:
            raise ValueError(f"engine is not for a server, got {', '.join(self.engine)} and url {self.url}")
        unused = [name for name in ("api_key_env", "flops_per_token") if getattr(self, name) is not None]
        if self.url is None and unused:
            raise ValueError(f"{' and '.join(unused)} only mean something with a url, got none")

    @abstractmethod
    def questions(self, solution: Solution) -> list[Question]:
        """What to have chains written to, so that each asked step is judged by one question's."""

    @abstractmethod
    def values(self, question: Question, chain: str, weigh: Weigh = as_written) -> tuple[float, ...]:
        """P(every step so far is correct) by one chain, for each step that the question asks: the expectation over
        each verdict that it wrote, by the weights that `weigh` gives. Raises Abstention."""

    def prompt(self, solution: Solution, num_steps: int) -> str:
        """The template with the problem and the first steps in it."""
        parts = self.parts(solution, num_steps)
        return re.sub("|".join(rf"\{{{name}\}}" for name in parts), lambda m: parts[m[0][1:-1]], self.template)

    def parts(self, solution: Solution, num_steps: int) -> dict[str, str]:
        """What stands in the template for {each name}."""
        return {"problem": solution.problem.text, "solution": self.shown(solution.steps[:num_steps])}

    def shown(self, steps: Sequence[str]) -> str:
        """Steps as the prompt shows them: numbered."""
        return "\n".join(f"Step {number}: {step.strip()}" for number, step in enumerate(steps, start=1))


def averaged(values: Sequence[float]) -> Score:
    """The mean of the chains' values, with the standard deviation of the Beta posterior that they leave of a uniform
    prior (a value of 0.7 counts as 0.7 of a yes): few chains that agree are no certainty."""
    yes, no = 1 + sum(values), 1 + len(values) - sum(values)
    std = math.sqrt(yes * no / (yes + no + 1)) / (yes + no)
    return Score(mean=min(1.0, sum(values) / len(values)), std=std)
