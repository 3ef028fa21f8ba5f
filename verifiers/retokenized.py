"""A streaming PRM with a vocabulary of its own, judging text that a policy wrote in other tokens.

The problem goes through the chat template in the PRM's own checkpoint folder. Each step is tokenised by itself, so that
no token straddles a step's end: a prefix of the steps is a prefix of the tokens, its state carries over, and the score
after a step is read at exactly its last token. A solution that has ended ends with the PRM's end token, if it has one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from orchestrator.core.fingerprint import tokenizer_fingerprint
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Solution
from verifiers.contract import Answer, HostSettings, Missing, Read, Run, StateBlob, Unreadable, VerifierInfo
from verifiers.streaming import StreamingHost

_STEPS_KEPT = 16384  # tokenised, for the next step of the same solution and for its siblings
_PROMPTS_KEPT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTokens:
    """A solution in the PRM's tokens."""

    prompt_ids: tuple[int, ...]
    step_ids: tuple[tuple[int, ...], ...]  # one tuple for each step, empty for one without text

    @property
    def ends(self) -> tuple[int, ...]:
        """How many tokens there are after the prompt and after each step."""
        return tuple(accumulate(map(len, self.step_ids), initial=len(self.prompt_ids)))

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.prompt_ids, *chain.from_iterable(self.step_ids))

    @property
    def prompt_key(self) -> str:
        """Of the state after the problem."""
        return f"prompt-{hashlib.sha256(repr(self.prompt_ids).encode()).hexdigest()}"


class StepTokenizer:
    """Writes solutions in a tokenizer's own tokens, step by step."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: of transformers. Raises ValueError for one without a chat template."""
        if not tokenizer.chat_template:
            raise ValueError(
                f"verifier: {tokenizer.name_or_path} has no chat template, so a problem can't become a prompt; "
                "wanted chat_template.jinja, or chat_template in tokenizer_config.json"
            )
        self._tokenizer = tokenizer
        self._end = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self._step = lru_cache(_STEPS_KEPT)(self._tokenise)
        self._prompt = lru_cache(_PROMPTS_KEPT)(self._render)

    @classmethod
    def load(cls, folder: str) -> "StepTokenizer":
        """Raises ValueError for a folder without a tokenizer."""
        if not (Path(folder) / "tokenizer.json").is_file():
            raise ValueError(f"verifier: {folder} holds no tokenizer: wanted tokenizer.json, and a chat template")
        return cls(PreTrainedTokenizerFast.from_pretrained(folder))

    @property
    def fingerprint(self) -> str:
        return tokenizer_fingerprint(self._tokenizer.get_vocab())

    def tokenise(self, solution: Solution) -> StepTokens:
        """Raises ValueError where the chat template refuses the problem."""
        step_ids = tuple(map(self._step, solution.steps))
        if solution.ended and step_ids:
            step_ids = (*step_ids[:-1], step_ids[-1] + self._end)
        return StepTokens(prompt_ids=self._prompt(solution.problem.messages), step_ids=step_ids)

    def _tokenise(self, text: str) -> tuple[int, ...]:
        """What the policy wrote is text, also where it looks like a special token."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _render(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        try:
            ids = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise ValueError(f"the verifier's chat template refuses the messages: {error}") from error
        if not ids:
            raise ValueError("the verifier's chat template makes nothing of the messages")
        return tuple(ids)


class RetokenizedHost:
    """Owns a StreamingHost, which holds the states. A run reads the steps that its parent's state has not seen."""

    def __init__(self, host: StreamingHost, tokenizer: StepTokenizer) -> None:
        """Raises ValueError for a tokenizer that is not the PRM's."""
        wanted = host.info.tokenizer_fingerprint
        if wanted and tokenizer.fingerprint != wanted:
            raise ValueError(
                f"verifier: {host.info.name}: the tokenizer in the checkpoint's folder is not the one that the PRM was "
                f"trained with: vocabulary {tokenizer.fingerprint[:12]}, wanted {wanted[:12]}"
            )
        self._host, self._tokenizer = host, tokenizer
        self.info = VerifierInfo(
            name=host.info.name,
            model_hash=host.info.model_hash,
            tokenizer_fingerprint="",  # of the policy's tokens it sees none
            state_bytes=host.info.state_bytes,
            flops_per_token=0.0,
        )

    @classmethod
    def load(cls, settings: HostSettings) -> "RetokenizedHost":
        """Raises ValueError when the checkpoint or its tokenizer can't be loaded."""
        tokenizer = StepTokenizer.load(settings.model)
        return cls(StreamingHost.load(settings), tokenizer)

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        """Answers in the order of `runs`. A problem is read once for all its solutions, while its state is held."""
        answers: dict[int, Answer] = {}
        texts: dict[int, StepTokens] = {}
        for index, run in enumerate(runs):
            if run.solution is None:
                answers[index] = Missing()  # only with its text can it be read
                continue
            try:
                texts[index] = self._tokenizer.tokenise(run.solution)
            except ValueError as error:
                answers[index] = Unreadable(reason=str(error))
        payers: dict[str, int] = {}  # key of a problem's state -> the first run that starts there
        for index, text in texts.items():
            if runs[index].parent is None:
                payers.setdefault(text.prompt_key, index)
        prompts = [Run(key=key, token_ids=texts[index].prompt_ids) for key, index in payers.items()]
        costs = dict(zip(payers.values(), self._host.read(prompts), strict=True))
        parents = {index: runs[index].parent or text.prompt_key for index, text in texts.items()}
        answers |= self._follow(runs, texts, parents)
        lost = [index for index in texts if runs[index].parent is None and isinstance(answers[index], Missing)]
        answers |= self._follow(runs, texts, dict.fromkeys(lost))
        for index, cost in costs.items():
            answer = answers[index]
            if isinstance(answer, Read) and isinstance(cost, Read):
                tokens_read, flops = answer.tokens_read + cost.tokens_read, answer.flops + cost.flops
                answers[index] = replace(answer, tokens_read=tokens_read, flops=flops)
        # No step follows the last one; and should one, it would not follow the end token.
        self._host.release([run.key for run in runs if run.solution is not None and run.solution.ended])
        return [answers[index] for index in range(len(runs))]

    def release(self, keys: Sequence[str]) -> None:
        self._host.release(keys)

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        """Copies of states; None for one that is not held."""
        return self._host.export(keys)

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        """Holds copies under `keys`, skipping None. Raises ValueError for a state of another model."""
        self._host.import_(keys, blobs)

    def _follow(
        self, runs: Sequence[Run], texts: Mapping[int, StepTokens], parents: Mapping[int, str | None]
    ) -> dict[int, Answer]:
        """Reads on from the states under `parents` (None: the start). Missing where one is not held, or is already past
        a place where a score is asked for, as it is for a step without text."""
        answers: dict[int, Answer] = {}
        readings: dict[int, Run] = {}
        places: dict[int, list[int]] = {}  # of the scores that are asked for, in tokens after the parent
        store = self._host.store
        for index, parent in parents.items():
            run, text = runs[index], texts[index]
            held = 0 if parent is None else store.num_tokens(parent) if parent in store else None
            assert run.solution is not None, "it was tokenised"
            if held is None or held not in (0, *text.ends):
                answers[index] = Missing()
                continue
            places[index] = [text.ends[step + 1] - held for step in run.solution.asked]
            if places[index] and places[index][0] < 1:
                answers[index] = Missing()
                continue
            readings[index] = Run(
                key=run.key,
                token_ids=text.ids[held:],
                boundaries=tuple(dict.fromkeys(places[index])),
                parent=parent,
                parent_tokens=held,
                keep_parent=run.keep_parent or run.parent is None,
            )
        for (index, reading), answer in zip(readings.items(), self._host.read(list(readings.values())), strict=True):
            if isinstance(answer, Read):
                scores = dict(zip(reading.boundaries, answer.scores, strict=True))
                answer = replace(answer, scores=tuple(scores[place] for place in places[index]))
            answers[index] = answer
        return answers
