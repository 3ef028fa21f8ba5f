"""OpenAI's own Python client: sync, async, streamed; chat, completions, responses; its exceptions."""

import asyncio
import os

import openai

URL, KEY = os.environ["HEADRACE_BASE_URL"], os.environ["HEADRACE_API_KEY"]
PROMPT = "Box with 58 pens\nJon sells 16\nZoe buys 6\nHow many now?"
MESSAGES = [{"role": "user", "content": PROMPT}]
client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)


def sync() -> None:
    names = [model.id for model in client.models.list()]
    assert "tinymath" in names and "tinymath@beam_search" in names
    assert client.models.retrieve("tinymath@greedy").id == "tinymath@greedy"
    answer = client.chat.completions.create(
        model="tinymath", messages=MESSAGES, n=2, seed=1, stop=["\n\n\n"], user="me"
    )
    assert len(answer.choices) == 2 and answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model_extra["headrace"]["strategy"] == "best_of_n"
    stream = client.chat.completions.create(
        model="tinymath@greedy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens > 0
    likely = client.chat.completions.create(
        model="tinymath@greedy", messages=MESSAGES, logprobs=True, top_logprobs=2, temperature=0
    )
    assert len(likely.choices[0].logprobs.content[0].top_logprobs) == 2
    written = client.completions.create(
        model="tinymath@greedy", prompt=[PROMPT, PROMPT], max_tokens=8, echo=True, logprobs=1
    )
    assert [choice.index for choice in written.choices] == [0, 1] and written.choices[0].text.startswith(PROMPT)
    with client.chat.completions.stream(model="tinymath@greedy", messages=MESSAGES) as helped:
        assert helped.get_final_completion().choices[0].message.content


def responses() -> None:
    plain = client.responses.create(model="tinymath@greedy", input=PROMPT, instructions="Be right.")
    assert plain.output_text and plain.status in ("completed", "incomplete")
    events = list(client.responses.create(model="tinymath@greedy", input=MESSAGES, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text
    with client.responses.stream(model="tinymath@greedy", input=PROMPT) as stream:
        assert stream.get_final_response().output_text


def refused() -> None:
    for made, error in (
        (lambda: client.chat.completions.create(model="gpt-9", messages=MESSAGES), openai.NotFoundError),
        (lambda: client.chat.completions.create(model="tinymath", messages=[]), openai.BadRequestError),
        (lambda: openai.OpenAI(base_url=URL, api_key="wrong").models.list(), openai.AuthenticationError),
    ):
        try:
            made()
        except error as found:
            assert found.body["message"] and found.request_id
        else:
            raise AssertionError(f"no {error.__name__}")


async def concurrent() -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as own:
        answers = await asyncio.gather(
            *(own.chat.completions.create(model="tinymath@self_consistency", messages=MESSAGES) for _ in range(8))
        )
        assert all(answer.choices[0].message.content for answer in answers)
        stream = await own.chat.completions.create(model="tinymath@mcts", messages=MESSAGES, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        left = await own.chat.completions.create(model="tinymath", messages=MESSAGES, stream=True)
        await left.close()


sync()
responses()
refused()
asyncio.run(concurrent())
