"""Prompts over a small tokenizer whose longest word has five characters: no vLLM."""

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from orchestrator.core.errors import ProblemError, PromptTooLong
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Message, Prompt
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.prompts import PromptEncoder

WORDS = {"<unk>": 0, "a": 1, "hello": 2}
CONTEXT_LENGTH = 4


class RenderingEngine:
    """An engine as far as prompts go: its template is the content of the last message, once `open` is set."""

    context_length = CONTEXT_LENGTH

    def __init__(self) -> None:
        self.tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.open = threading.Event()
        self.open.set()

    def info(self) -> PolicyInfo:
        shape = ModelShape(weights_per_token=1, head_weights=0, num_layers=0, attention_width=0)
        return PolicyInfo(
            context_length=CONTEXT_LENGTH,
            shape=shape,
            fingerprint="",
            kv_capacity_tokens=100,
            max_num_seqs=1,
            thinking=ThinkingMarkers(start="<t>", end="a"),
        )

    def check_schema(self, json_schema: str) -> None:
        if json_schema == "odd":
            raise ProblemError("an odd schema")

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        assert self.open.wait(30)
        return messages[-1].content + template.get("end", "")


@pytest.fixture
def engine() -> RenderingEngine:
    return RenderingEngine()


@pytest.fixture
def prompts(engine: RenderingEngine) -> Iterator[PromptEncoder]:
    encoder = PromptEncoder(engine)  # type: ignore[arg-type]
    yield encoder
    encoder.close()


def asked(*texts: str, **template: str) -> list[Prompt]:
    return [Prompt(messages=(Message(role="user", content=text),), template=template) for text in texts]


async def test_each_conversation_gets_its_ids(prompts: PromptEncoder) -> None:
    assert await prompts.encode(asked("a hello", "hello")) == [(1, 2), (2,)]
    assert await prompts.encode_text(["hello a a"]) == [(2, 1, 1)]


async def test_a_schema_is_refused_before_anything_is_sampled(prompts: PromptEncoder) -> None:
    [ended, thinks] = asked("hello a", "hello")  # the first prompt ends the thinking
    taken, refused, thinking = await prompts.encode(
        [replace(ended, json_schema="{}"), replace(ended, json_schema="odd"), replace(thinks, json_schema="{}")]
    )
    assert taken == (2, 1)
    assert isinstance(refused, ProblemError) and "an odd schema" in str(refused)
    assert isinstance(thinking, ProblemError) and "thinks before it answers" in str(thinking)


async def test_a_prompt_has_its_own_arguments_of_the_template(prompts: PromptEncoder) -> None:
    assert await prompts.encode(asked("a", end=" hello")) == [(1, 2)]


async def test_a_prompt_as_it_stands_sees_no_template_and_begins_as_the_tokenizer_has_it(
    engine: RenderingEngine, prompts: PromptEncoder
) -> None:
    engine.tokenizer.post_processor = processors.TemplateProcessing(single="a $A", special_tokens=[("a", 1)])
    engine.open.clear()  # nothing is rendered
    text, ids, unknown = await prompts.encode([Prompt(raw="hello"), Prompt(raw=(2, 2)), Prompt(raw=(3,))])
    assert (text, ids) == ((1, 2), (2, 2))
    assert isinstance(unknown, ProblemError) and "from 0 to 2" in str(unknown)
    engine.open.set()
    assert await prompts.encode(asked("hello")) == [(2,)], "a chat template writes special tokens itself"


async def test_what_can_not_fit_is_refused_by_its_length_and_spaces_count_for_nothing(prompts: PromptEncoder) -> None:
    fits, spaces, too_long = await prompts.encode(asked("hello " * 4, "a" + " " * 1000, "a" * 21))
    assert (fits, spaces) == ((2,) * 4, (1,))
    assert isinstance(too_long, PromptTooLong)
    assert "21 characters" in str(too_long)
    assert "at most 20" in str(too_long)


async def test_what_is_no_valid_text_fails_alone(prompts: PromptEncoder) -> None:
    broken, fine = await prompts.encode(asked("\ud800", "a"))
    assert isinstance(broken, ProblemError)
    assert fine == (1,)
    with pytest.raises(ProblemError, match="UTF-8"):
        await prompts.encode_text(["\ud800"])


async def test_the_event_loop_turns_while_a_prompt_is_encoded(engine: RenderingEngine, prompts: PromptEncoder) -> None:
    engine.open.clear()
    encoding = asyncio.create_task(prompts.encode(asked("a")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not encoding.done()
    engine.open.set()
    assert await encoding == [(1,)]
