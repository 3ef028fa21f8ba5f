"""A verifier whose verdicts are written: prompts go to a writer, chains that can be read are averaged.

It carries no state; a prompt is the whole solution so far. Verifier tokens are all that was read and written for it.
"""

from collections.abc import Iterator, Sequence

from orchestrator.core.nouns import Score, StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.verifier.chains import Chain, ChainWriter
from orchestrator.verifier.verdicts import judged, wrong_scores
from verifiers.generative_options import GenerativeOptions, Question, averaged
from verifiers.weighing import Abstention, ByProbability, ScoreBy, Weigh, as_written


class GenerativeVerifier:
    """Implements `OpenVerifier` over a writer that its caller owns."""

    reads_text, reads_tokens = True, False
    flops_per_token, state_bytes = 0.0, 0

    def __init__(self, judge: GenerativeOptions, writer: ChainWriter) -> None:
        self._judge = judge
        self._writer = writer
        self._tokens_read = 0

    @property
    def scores_steps(self) -> bool:
        return self._judge.scores_steps

    @property
    def num_ready(self) -> int:
        return self._writer.num_ready

    async def stats(self) -> list[dict[str, int]]:
        return [{"tokens_read": self._tokens_read}]

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        """Raises what the writer raises."""
        asked = [self._questions(reading) for reading in readings]
        prompts = [question.prompt for questions, _ in asked for question in questions]
        judge = self._judge
        written = await self._writer.write(
            prompts,
            judge.chains,
            max_tokens=judge.max_tokens,
            temperature=judge.temperature,
            words=judge.words if judge.score is ScoreBy.PROBABILITY else (),
        )
        self._tokens_read += sum(chain.num_tokens for chains in written for chain in chains)
        rest = iter(written)
        return [self._verdict(reading, *about, rest) for reading, about in zip(readings, asked, strict=True)]

    def release(self, handles: Sequence[StateHandle]) -> None:
        """There are none."""

    def _questions(self, reading: ScoreRequest) -> tuple[list[Question], str | None]:
        """What is asked about a reading, or why nothing can be."""
        if not reading.boundaries:
            return [], None
        assert reading.solution is not None, "who reads text is given text"
        try:
            return self._judge.questions(reading.solution), None
        except Exception as error:  # a judge's code may be anybody's: it fails for this reading alone
            return [], _raised(error)

    def _verdict(
        self,
        reading: ScoreRequest,
        questions: Sequence[Question],
        unjudged: str | None,
        written: Iterator[tuple[Chain, ...]],
    ) -> Verdict:
        chains = [next(written) for _ in questions]
        scores: list[Score] = []
        try:
            for question, own in zip(questions, chains, strict=True):
                scores += self._scores(question, own)
        except Abstention as abstention:
            unjudged = str(abstention)
        return judged(
            reading,
            scores,
            handle=None,
            verifier_tokens=sum(chain.num_tokens for own in chains for chain in own),
            flops=sum(chain.flops for own in chains for chain in own),
            unjudged=unjudged,
        )

    def _scores(self, question: Question, chains: Sequence[Chain]) -> list[Score]:
        """For each step that the question asks, by the chains that can be read. Raises Abstention where none can."""
        values, reasons = [], []
        for chain in chains:
            try:
                values.append(self._values(question, chain))
            except Abstention as abstention:
                reasons.append(str(abstention))
        if not values:
            cut = sum(chain.cut for chain in chains)
            raise Abstention(
                f"none of {len(chains)} written verdicts can be read ({cut} were cut off at"
                f" max_tokens {self._judge.max_tokens}); the first: {reasons[0]}"
            )
        return [averaged(of_step) for of_step in zip(*values, strict=True)]

    def _values(self, question: Question, chain: Chain) -> tuple[float, ...]:
        """What one chain says. Raises Abstention where that can't be read, or can't be a score."""
        if chain.refused is not None:
            raise Abstention(chain.refused)
        try:
            values = self._judge.values(question, chain.text, self._weigh(chain))
        except Abstention:
            raise
        except Exception as error:  # as above
            raise Abstention(_raised(error)) from error
        wrong = wrong_scores([Score(mean=value) for value in values], len(question.asked))
        if wrong is not None:
            raise Abstention(wrong)
        return values

    def _weigh(self, chain: Chain) -> Weigh:
        if self._judge.score is ScoreBy.VERDICT:
            return as_written
        return ByProbability(alternatives=chain.alternatives, words=self._judge.words)


def _raised(error: Exception) -> str:
    return f"the verifier raises on it: {type(error).__name__}: {error}"
