// OpenAI's own Node client: chat, streamed chat, responses, its errors.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.HEADRACE_BASE_URL,
  apiKey: process.env.HEADRACE_API_KEY,
  maxRetries: 0,
});
const content = "Box with 58 pens\nJon sells 16\nZoe buys 6\nHow many now?";
const messages = [{ role: "user", content }];

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert(names.includes("tinymath@greedy"));

const answer = await client.chat.completions.create({ model: "tinymath", messages, n: 2, headrace: { n: 4 } });
assert.equal(answer.choices.length, 2);
assert.equal(answer.headrace.params.n, 4);

let text = "";
for await (const chunk of await client.chat.completions.create({ model: "tinymath@greedy", messages, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert(text.length > 0);

const response = await client.responses.create({ model: "tinymath@greedy", input: content });
assert(response.output_text.length > 0);
let streamed = "";
for await (const event of await client.responses.create({ model: "tinymath@greedy", input: content, stream: true })) {
  if (event.type === "response.output_text.delta") streamed += event.delta;
}
assert(streamed.length > 0);

await assert.rejects(client.chat.completions.create({ model: "gpt-9", messages }), OpenAI.NotFoundError);
await assert.rejects(
  new OpenAI({ baseURL: process.env.HEADRACE_BASE_URL, apiKey: "wrong" }).models.list(),
  OpenAI.AuthenticationError,
);
