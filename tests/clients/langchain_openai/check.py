"""LangChain's ChatOpenAI and OpenAI: invoke, batch, stream, stop; over chat completions and over responses."""

import asyncio
import os

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

COMMON = {
    "base_url": os.environ["HEADRACE_BASE_URL"],
    "api_key": os.environ["HEADRACE_API_KEY"],
    "model": "tinymath@greedy",
    "max_retries": 0,
}
PROMPT = "Box with 58 pens\nJon sells 16\nZoe buys 6\nHow many now?"

chat = ChatOpenAI(**COMMON, temperature=0, max_tokens=60, extra_body={"headrace": {"budget": {"seconds": 60}}})
answer = chat.invoke([SystemMessage("Be right."), HumanMessage("Hi"), AIMessage("Hi"), HumanMessage(PROMPT)])
assert answer.content and answer.usage_metadata["total_tokens"] > 0
assert all(each.content for each in chat.batch([PROMPT] * 4))
assert "".join(chunk.content for chunk in chat.stream(PROMPT))
whole = chat.invoke(PROMPT).content
cut = chat.invoke(PROMPT, stop=[whole[5:8]]).content
assert cut == whole[: whole.index(whole[5:8])], (cut, whole)


async def streamed() -> str:
    return "".join([chunk.content async for chunk in chat.astream(PROMPT)])


assert asyncio.run(streamed()) == whole
responses = ChatOpenAI(**COMMON, use_responses_api=True)
assert responses.invoke(PROMPT).text
assert "".join(chunk.text for chunk in responses.stream(PROMPT))
assert OpenAI(**COMMON, max_tokens=8).invoke(PROMPT)
