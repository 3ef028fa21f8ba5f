"""Labelled solutions as token ids, in the formats that the verifiers read, with the places where a score is read."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from verifiers.training.labelled import LabelledSolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A solution to learn from. Scores are read after `boundaries` tokens of `completion_ids`, one label for each."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    boundaries: tuple[int, ...]  # increasing, each at least 1
    labels: tuple[float | None, ...]

    def __post_init__(self) -> None:
        starts = (0, *self.boundaries[:-1])
        if any(end <= start for start, end in zip(starts, self.boundaries, strict=True)):
            raise ValueError(f"encoded solution of {self.problem_id}: a step has no token of its own")

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def encode_stream(solution: LabelledSolution, tokenizer: Any, delimiter: str) -> Encoded:
    """As a policy writes it: the ids that came with it, or else the chat template's prompt, then the steps with the
    delimiter after each and the end token after the last. A step ends with the token that completes its delimiter."""
    if solution.prompt_ids is not None and solution.step_ids is not None:
        prompt_ids, steps = solution.prompt_ids, solution.step_ids
        ends = [sum(map(len, steps[: i + 1])) for i in range(len(steps))]
        completion_ids = tuple(token for step in steps for token in step)
    else:
        asked = [{"role": "user", "content": solution.prompt}]
        prompt_ids = tuple(tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
        text = delimiter.join(solution.completions)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        token_ends = [end for _, end in encoded["offset_mapping"]]
        char_ends = [len(delimiter.join(solution.completions[: i + 1])) for i in range(len(solution.completions))]
        char_ends[:-1] = [end + len(delimiter) for end in char_ends[:-1]]
        ends = [bisect_left(token_ends, end) + 1 for end in char_ends[:-1]]
        completion_ids = (*encoded["input_ids"], tokenizer.eos_token_id)
        ends.append(len(completion_ids))
    return Encoded(
        problem_id=solution.problem_id,
        prompt_ids=prompt_ids,
        completion_ids=completion_ids,
        boundaries=tuple(ends),
        labels=solution.labels,
    )


def encode_separated(solution: LabelledSolution, tokenizer: Any, separator: str) -> Encoded:
    """Question and steps tokenised one by one, the separator's tokens after each step, at the last of which the score
    is read: what `two_class_prm` reads, and the layout of TRL's PRMTrainer."""
    separator_ids = tokenizer.encode(separator, add_special_tokens=False)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids: list[int] = []
    ends = []
    for text in solution.completions:
        ids += tokenizer.encode(text.strip(), add_special_tokens=False) + separator_ids
        ends.append(len(ids))
    return Encoded(
        problem_id=solution.problem_id,
        prompt_ids=(*bos, *tokenizer.encode(solution.prompt.strip(), add_special_tokens=False)),
        completion_ids=tuple(ids),
        boundaries=tuple(ends),
        labels=solution.labels,
    )


def encode_whole(solution: LabelledSolution, tokenizer: Any, delimiter: str) -> Encoded:
    """The conversation through the chat template, with one score at its last token, labelled as the last step is: what
    `orm` reads."""
    text = delimiter.join(solution.completions).strip()
    messages = [{"role": "user", "content": solution.prompt.strip()}, {"role": "assistant", "content": text}]
    ids = tuple(tokenizer.apply_chat_template(messages, return_dict=False))
    return Encoded(
        problem_id=solution.problem_id,
        prompt_ids=(),
        completion_ids=ids,
        boundaries=(len(ids),),
        labels=solution.labels[-1:],
    )
