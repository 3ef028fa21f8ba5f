"""Makes token ids of prompts and texts, and reads calls of tools, in one thread beside the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.core.errors import ProblemError, PromptTooLong
from orchestrator.core.nouns import Prompt
from orchestrator.core.thinking import Phase, prompted_phase
from orchestrator.core.tools import CallingReply, Reply, Tools
from orchestrator.policy.engines.contract import TokenEngine


class PromptEncoder:
    """Owner of the thread. A prompt that can't fit the context is refused by its length, and never tokenised."""

    def __init__(self, engine: TokenEngine) -> None:
        self._engine = engine
        self._max_token_chars = max(map(len, engine.tokenizer.get_vocab()))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")  # one: the engine needs the rest

    async def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...] | ProblemError]:
        """The tokens of each prompt, or why there are none."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: [self._encoded(prompt) for prompt in prompts])

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of raw texts, without special tokens. Raises ProblemError for what is no valid text."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: [self._ids(text) for text in texts])

    async def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        """See `TokenEngine.read_calls`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self._engine.read_calls(tools, replies))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encoded(self, prompt: Prompt) -> tuple[int, ...] | ProblemError:
        try:
            if isinstance(prompt.raw, tuple):
                return self._known(prompt.raw)
            text = self._engine.render(prompt.messages, prompt.template) if prompt.raw is None else prompt.raw
            self._check_length(text)
            if prompt.json_schema is not None:
                self._check_schema(text, prompt.json_schema)
            return self._ids(text, add_special_tokens=prompt.raw is not None)  # a chat template writes them itself
        except ProblemError as error:
            return error

    def _check_schema(self, text: str, json_schema: str) -> None:
        """Raises ProblemError where what follows can't be held to the schema, which knows no thinking."""
        thinking = self._engine.info().thinking
        if thinking is not None and prompted_phase(text, thinking) is not Phase.ANSWER:
            raise ProblemError(
                "policy: the model thinks before it answers, so a JSON schema can't hold from the first token on; "
                "wanted chat_template_kwargs that end its thinking in the prompt, such as enable_thinking: false"
            )
        self._engine.check_schema(json_schema)

    def _known(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids. Raises ProblemError for what is in no vocabulary."""
        size = self._engine.tokenizer.get_vocab_size(with_added_tokens=True)
        if not all(0 <= token_id < size for token_id in token_ids):
            raise ProblemError(f"policy: wanted token ids from 0 to {size - 1}, got others")
        return token_ids

    def _check_length(self, text: str) -> None:
        """Raises PromptTooLong. Spaces count for nothing: some tokenizers drop them."""
        context = self._engine.context_length
        most = context * self._max_token_chars
        if len(text) > most and (num_chars := len("".join(text.split()))) > most:
            raise PromptTooLong(
                f"policy: the prompt has {num_chars} characters without its spaces, "
                f"the context of {context} tokens holds at most {most} of them, answer included"
            )

    def _ids(self, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ProblemError(f"policy: the text can't be written as UTF-8: {error}") from error
        # `Tokenizer.encode` would hold Python's lock, and with it the event loop
        [encoding] = self._engine.tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)
