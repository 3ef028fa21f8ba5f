"""A verifier whose verdicts are written: prompts go to a writer, chains that can be read are averaged.

It carries no state; a prompt is the whole solution so far. Verifier tokens are all that was read and written for it.
"""

from collections.abc import Iterator, Sequence

from orchestrator.core.nouns import Carry, Score
from orchestrator.core.protocols import Reading, Verdict
from orchestrator.verifier.writers import Chain, Writer
from verifiers.written import Abstention, Judge, Question, averaged


class WrittenVerifier:
    """Implements `OpenVerifier` over a writer that its caller owns."""

    scores_steps, reads_text, reads_tokens = True, True, False
    flops_per_token, state_bytes = 0.0, 0

    def __init__(self, judge: Judge, writer: Writer) -> None:
        self._judge = judge
        self._writer = writer
        self._tokens_read = 0

    @property
    def num_ready(self) -> int:
        return self._writer.num_ready

    async def stats(self) -> list[dict[str, int]]:
        return [{"tokens_read": self._tokens_read}]

    async def score(self, readings: Sequence[Reading]) -> list[Verdict]:
        """Raises what the writer raises."""
        questions = [self._questions(reading) for reading in readings]
        prompts = [question.prompt for asked in questions for question in asked]
        judge = self._judge
        written = await self._writer.write(
            prompts, judge.chains, max_tokens=judge.max_tokens, temperature=judge.temperature
        )
        self._tokens_read += sum(chain.num_tokens for chains in written for chain in chains)
        rest = iter(written)
        return [self._verdict(asked, rest) for asked in questions]

    def release(self, carries: Sequence[Carry]) -> None:
        """There are none."""

    def _questions(self, reading: Reading) -> list[Question]:
        if not reading.boundaries:
            return []
        assert reading.solution is not None, "who reads text is given text"
        return self._judge.questions(reading.solution)

    def _verdict(self, questions: Sequence[Question], written: Iterator[tuple[Chain, ...]]) -> Verdict:
        chains = [next(written) for _ in questions]
        try:
            scores = [score for asked, own in zip(questions, chains, strict=True) for score in self._scores(asked, own)]
            unjudged = None
        except Abstention as abstention:
            scores, unjudged = [], str(abstention)
        return Verdict(
            scores=tuple(scores),
            carry=None,
            verifier_tokens=sum(chain.num_tokens for own in chains for chain in own),
            flops=sum(chain.flops for own in chains for chain in own),
            unjudged=unjudged,
        )

    def _scores(self, question: Question, chains: Sequence[Chain]) -> list[Score]:
        """For each step that the question asks, by the chains that can be read. Raises Abstention where none can."""
        values, reasons = [], []
        for chain in chains:
            try:
                if chain.refused is not None:
                    raise Abstention(chain.refused)
                values.append(self._judge.values(question, chain.text))
            except Abstention as abstention:
                reasons.append(str(abstention))
        if not values:
            cut = sum(chain.cut for chain in chains)
            raise Abstention(
                f"none of {len(chains)} written verdicts can be read ({cut} were cut off at"
                f" max_tokens {self._judge.max_tokens}); the first: {reasons[0]}"
            )
        return [averaged(of_step) for of_step in zip(*values, strict=True)]
