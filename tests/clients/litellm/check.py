"""LiteLLM, as a client of any OpenAI-compatible server: plain, streamed, async, its exceptions."""

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices on the net

import litellm

COMMON = {
    "model": "openai/tinymath@greedy",
    "api_base": os.environ["HEADRACE_BASE_URL"],
    "api_key": os.environ["HEADRACE_API_KEY"],
    "messages": [{"role": "user", "content": "Box with 58 pens\nJon sells 16\nZoe buys 6\nHow many now?"}],
    "num_retries": 0,
}

answer = litellm.completion(**COMMON, temperature=0, max_tokens=40, stop=["\n\n\n"], user="me")
assert answer.choices[0].message.content and answer.usage.total_tokens > 0
best = litellm.completion(**{**COMMON, "model": "openai/tinymath"}, n=2, extra_body={"headrace": {"n": 4}})
assert len(best.choices) == 2
chunks = litellm.completion(**COMMON, stream=True, stream_options={"include_usage": True})
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert asyncio.run(litellm.acompletion(**COMMON)).choices[0].message.content
written = litellm.text_completion(
    model="text-completion-openai/tinymath@greedy",
    prompt="Box with 58 pens\n",
    max_tokens=8,
    api_base=COMMON["api_base"],
    api_key=COMMON["api_key"],
)
assert written.choices[0].text
for change, error in (
    ({"model": "openai/gpt-9"}, litellm.NotFoundError),
    ({"api_key": "wrong"}, litellm.AuthenticationError),
    ({"temperature": 3}, litellm.BadRequestError),
):
    try:
        litellm.completion(**{**COMMON, **change})
    except error:
        continue
    raise AssertionError(f"no {error.__name__}")
