"""Facts about the server that writes by a script."""

import pytest

from experiments.bench.faults.measure import POLICY
from experiments.bench.faults.server import Language, ScriptedEngine
from experiments.tinymath.tokenizer import prompt_ids
from orchestrator.core.seeds import derive_seed


@pytest.fixture(scope="module")
def language() -> Language:
    return Language(POLICY)


@pytest.fixture(scope="module")
def prompt(language: Language) -> list[int]:
    return prompt_ids(language.tokenizer, "Box with 3 pens\nHow many now?")


@pytest.fixture
def engine(language: Language) -> ScriptedEngine:
    return ScriptedEngine(language, "")


def written(engine: ScriptedEngine, prompt: list[int], seed: int, stops: tuple[int, ...] = ()) -> list[int]:
    body = {"prompt": prompt, "seed": seed, "max_tokens": 200, "stop_token_ids": list(stops)}
    return [token for chunk, _ in engine._chunks(body) for token in chunk]


def test_a_text_has_steps_and_an_answer_and_ends(engine: ScriptedEngine, language: Language, prompt: list[int]) -> None:
    token_ids = written(engine, prompt, 1)
    text = language.tokenizer.decode(token_ids)
    assert text.count("\n\n") == 5 and "Answer: " in text and token_ids[-1] == language.end
    assert written(engine, prompt, 2) != token_ids


def test_what_was_cut_off_anywhere_goes_on_with_the_same_tokens_whatever_the_seed(
    engine: ScriptedEngine, prompt: list[int]
) -> None:
    token_ids = written(engine, prompt, 1)
    for cut in range(1, len(token_ids)):
        assert written(engine, prompt + token_ids[:cut], 99) == token_ids[cut:]


def test_what_is_asked_again_before_its_first_token_is_written_again(engine: ScriptedEngine, prompt: list[int]) -> None:
    once = derive_seed(1, "resumed", (0,))
    token_ids = written(engine, prompt, 1)
    assert written(engine, prompt, once) == token_ids
    assert written(engine, prompt, derive_seed(once, "resumed", (0,))) == token_ids


def test_children_of_a_step_differ_where_steps_are_asked_for(
    engine: ScriptedEngine, language: Language, prompt: list[int]
) -> None:
    stops = (language.delimiter,)
    first = written(engine, prompt, 1, stops)
    assert first[-1] == language.delimiter and first.count(language.delimiter) == 1
    children = {tuple(written(engine, prompt + first, seed, stops)) for seed in range(8)}
    assert len(children) > 1


def test_tokens_that_are_written_once_more_than_in_the_first_run_are_counted(
    engine: ScriptedEngine, prompt: list[int]
) -> None:
    token_ids = written(engine, prompt, 1)
    engine.remember()
    engine.begin()
    written(engine, prompt, 1)
    written(engine, prompt, 2)  # that nobody asked for then
    assert engine.again == 0
    written(engine, prompt + token_ids[:20], 7)
    assert engine.again == len(token_ids) - 20
