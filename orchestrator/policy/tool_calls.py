"""Which words a policy has for calls of tools, from its chat template or as the user says, and the calls in replies:
through vLLM's tool parsers, which are imported by the first reply that is read."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from tokenizers import Tokenizer

from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.tools import Call, CallingReply, Reply, Tools, calling_reply

log = logging.getLogger(__name__)

_KNOWN = {  # what stands in a chat template: the parser; the first of them is taken
    "<seed:tool_call>": "seed_oss",
    "<minimax:tool_call>": "minimax_m2",
    "<|tool_calls_section_begin|>": "kimi_k2",
    "<arg_key>": "glm45",
    "<function=": "qwen3_coder",
    "<tool_call>": "hermes",  # Qwen2.5, Qwen3, Hermes
    "[TOOL_CALLS]": "mistral",
    "['type'] + '<｜tool▁sep｜>'": "deepseek_v3",  # and R1-0528
    "<｜tool▁sep｜>": "deepseek_v31",
    "<|python_tag|>": "llama3_json",
    '"parameters": dictionary of argument name': "llama3_json",  # Llama 3.2
}
_OF_TOKEN_IDS = ("openai",)  # these parsers read no text


def tool_parser(asked: str, tokenizer: Any) -> str | None:
    """The name of the parser that `policy.tool_parser` means for a tokenizer of transformers; None: there is none.
    Raises UserError for one that vLLM has not."""
    if asked == "none":
        return None
    if asked == "auto":
        template = str(tokenizer.chat_template or "")
        found = next((name for marker, name in _KNOWN.items() if marker in template), None)
        return found if find_spec("vllm") else None
    if not find_spec("vllm"):
        raise UserError(f"policy.tool_parser: {asked} is a parser of vLLM, which is not installed; wanted auto or none")
    from vllm.tool_parsers import ToolParserManager

    if asked in _OF_TOKEN_IDS or asked not in ToolParserManager.list_registered():
        known = ", ".join(name for name in ToolParserManager.list_registered() if name not in _OF_TOKEN_IDS)
        raise UserError(f"policy.tool_parser: vLLM has no tool parser {asked!r} that reads text; it has {known}")
    try:
        ToolParserManager.get_tool_parser(asked)(tokenizer)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"policy.tool_parser: the parser {asked} does not fit this model: {error}") from error
    return asked


def read_calls(name: str, tokenizer: Any, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
    """The calls of each reply, as the parser of that name reads them; None where there is none. `tokenizer` is of
    transformers. Raises ProblemError for tools that vLLM does not take."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    asked = [{"role": "user", "content": ""}]
    try:
        request = ChatCompletionRequest(model="", messages=asked, tools=[dict(tool) for tool in tools.given])
    except ValueError as error:
        raise ProblemError(f"policy: vLLM does not take these tools: {error}") from error
    parser_class = ToolParserManager.get_tool_parser(name)
    found: list[CallingReply | None] = []
    for reply in replies:
        text = _with_markers(reply, tokenizer.backend_tokenizer)
        try:
            told = parser_class(tokenizer, request.tools).extract_tool_calls(text, request)
        except Exception as error:  # of other people's code, on any text that a model may write: that is no call
            log.warning("the tool parser %s fails on a reply: %r", name, error)
            found.append(None)
            continue
        calls = [Call(name=call.function.name, arguments=call.function.arguments) for call in told.tool_calls]
        found.append(calling_reply(tools, told.content, calls if told.tools_called else ()))
    return found


def _with_markers(reply: Reply, tokenizer: Tokenizer) -> str:
    """The text with those markers of calls that are special tokens, which decoders leave out. It is the text as it
    stands where its tokens say something else, for a stop text was cut off it."""
    ids = list(reply.token_ids)
    if tokenizer.decode(ids).strip() != reply.text.strip():
        return reply.text
    special = tokenizer.get_added_tokens_decoder()
    if ids and reply.ended and ids[-1] in special and special[ids[-1]].special:
        ids.pop()
    return str(tokenizer.decode(ids, skip_special_tokens=False))
