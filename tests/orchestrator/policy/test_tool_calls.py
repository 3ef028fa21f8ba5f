"""Facts about calls of tools in a model's own words, through vLLM's own parsers on small tokenizers: no engine."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Message, ToolCall
from orchestrator.core.tools import Call, Reply, Tools
from orchestrator.policy.engines.chat_template import render
from orchestrator.policy.tool_calls import read_calls, tool_parser

QWEN = """
{%- if tools %}{{ '<|im_start|>system\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\nReturn <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response>' }}
{%- else %}{{ '<|im_start|>' + message.role + '\\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}
"""
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TOOLS = Tools(given=(WEATHER,))
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def of_bytes(*markers: AddedToken, template: str = QWEN) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_tokens(list(markers))
    backend.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=template)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen's: the markers of calls are tokens that decoders show."""
    return of_bytes(*(AddedToken(text, special=False, normalized=False) for text in ("<tool_call>", "</tool_call>")))


def reply_of(tokenizer: Any, text: str, *, shown: str | None = None) -> Reply:
    """As an engine writes it, with the token that ends it. `shown`: what is left of the text."""
    ids = tokenizer.backend_tokenizer.encode(f"{text}<|im_end|>", add_special_tokens=False).ids
    decoded = tokenizer.backend_tokenizer.decode(ids)
    return Reply(text=decoded if shown is None else shown, token_ids=tuple(ids), ended=True)


ARGUMENTS = '{"city": "Oslo"}'
QWEN_CODER = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
GLM = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>"
KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    f"{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>"
)
SEED = "<seed:tool_call>\n<function=weather>\n<parameter=city>Oslo</parameter>\n</function>\n</seed:tool_call>"
MINIMAX = (
    '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Oslo</parameter>\n</invoke>\n'
    "</minimax:tool_call>"
)
DEEPSEEK_V3 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DEEPSEEK_V31 = (
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{ARGUMENTS}"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
LLAMA = f'{{"name": "weather", "parameters": {ARGUMENTS}}}'
FAMILIES = [  # what stands in the chat template, the parser, a reply that calls, its markers that are tokens
    (QWEN, "hermes", CALL, r"</?tool_call>"),
    ("<tool_call><function=f><parameter=a>", "qwen3_coder", QWEN_CODER, r"</?tool_call>"),
    ("<tool_call><arg_key>", "glm45", GLM, r"</?(?:tool_call|arg_key|arg_value)>"),
    ("<|tool_calls_section_begin|>", "kimi_k2", KIMI, r"<\|.*?\|>"),
    ("<seed:tool_call>", "seed_oss", SEED, r"</?seed:tool_call>"),
    ("<minimax:tool_call>", "minimax_m2", MINIMAX, r"</?minimax:tool_call>"),
    ("{{ tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] }}", "deepseek_v3", DEEPSEEK_V3, r"<｜.*?｜>"),
    ("{{ tool['function']['name'] + '<｜tool▁sep｜>' }}", "deepseek_v31", DEEPSEEK_V31, r"<｜.*?｜>"),
    ("[TOOL_CALLS]", "mistral", f'[TOOL_CALLS][{{"name": "weather", "arguments": {ARGUMENTS}}}]', r"\[TOOL_CALLS\]"),
    ("<|python_tag|>", "llama3_json", LLAMA, r"<\|python_tag\|>"),
    ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3_json", LLAMA, ""),
]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(("template", "parser", "text", "markers"), FAMILIES, ids=[family[1] for family in FAMILIES])
def test_the_calls_of_each_family_of_models_are_read_whatever_its_markers_are(
    template: str, parser: str, text: str, markers: str, special: bool
) -> None:
    found = sorted(set(re.findall(markers, text))) if markers else []
    own = of_bytes(
        *(AddedToken(each, special=special, normalized=False) for each in [*found, "<|python_tag|>"]), template=template
    )
    assert tool_parser("auto", own) == tool_parser(parser, own) == parser
    [called] = read_calls(parser, own, TOOLS, [reply_of(own, text)])
    assert called is not None and called.calls == (Call(name="weather", arguments=ARGUMENTS),)
    [words] = read_calls(parser, own, TOOLS, [reply_of(own, "It rains in Oslo.")])
    assert words is None


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_a_template_without_words_for_calls_has_no_parser(template: str | None) -> None:
    assert tool_parser("auto", SimpleNamespace(chat_template=template)) is None
    assert tool_parser("none", SimpleNamespace(chat_template=QWEN)) is None


def test_a_parser_may_be_named_and_one_that_vllm_has_not_is_refused(tokenizer: Any) -> None:
    assert tool_parser("hermes", tokenizer) == "hermes"
    for name in ("klingon", "openai"):
        with pytest.raises(UserError, match=rf"policy\.tool_parser: vLLM has no tool parser '{name}'.*hermes"):
            tool_parser(name, tokenizer)


def test_a_parser_that_does_not_fit_the_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="the parser llama3_json does not fit this model"):
        tool_parser("llama3_json", tokenizer)


def test_tools_calls_and_what_they_returned_reach_the_template(tokenizer: Any) -> None:
    messages = [
        Message(role="user", content="Q:"),
        Message(role="assistant", content="", tool_calls=(ToolCall(id="c", name="weather", arguments='{"a": 1}'),)),
        Message(role="tool", content="rain", tool_call_id="c"),
    ]
    text = render(tokenizer, messages, PolicyConfig(model="m"), {"tools": list(TOOLS.given)})
    assert '"name": "weather", "parameters"' in text
    assert '<tool_call>{"name": "weather", "arguments": {"a": 1}}</tool_call>' in text
    assert "<tool_response>rain</tool_response>" in text


def test_calls_are_read_with_the_words_before_them(tokenizer: Any) -> None:
    replies = [reply_of(tokenizer, text) for text in (f"Let me look.\n{CALL}\n{CALL}", "no call", "<tool_call>{")]
    several, none, broken = read_calls("hermes", tokenizer, TOOLS, replies)
    assert several is not None and none is None and broken is None
    assert several.content == "Let me look.\n"
    assert several.calls == (Call(name="weather", arguments='{"city": "Oslo"}'),) * 2
    [one] = read_calls("hermes", tokenizer, Tools(given=(WEATHER,), parallel=False), replies[:1])
    assert one is not None and len(one.calls) == 1


def test_markers_that_decoders_leave_out_are_read_from_the_tokens() -> None:
    special = of_bytes(*(AddedToken(text, special=True) for text in ("<tool_call>", "</tool_call>")))
    reply = reply_of(special, CALL)
    assert "<tool_call>" not in reply.text
    [found] = read_calls("hermes", special, TOOLS, [reply])
    assert found is not None and found.calls == (Call(name="weather", arguments='{"city": "Oslo"}'),)


def test_what_a_stop_text_cut_off_is_not_read(tokenizer: Any) -> None:
    assert read_calls("hermes", tokenizer, TOOLS, [reply_of(tokenizer, f"Hm. {CALL}", shown="Hm. ")]) == [None]


def test_tools_that_vllm_does_not_take_are_the_problems_own_fault(tokenizer: Any) -> None:
    with pytest.raises(ProblemError, match="vLLM does not take these tools"):
        read_calls("hermes", tokenizer, Tools(given=({"type": "function"},)), [])
