// What the page asks the server that it came from. Addresses are relative, so that a prefix before them changes nothing.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let key = "";

// The API key of a server that wants one. It is kept in this page only.
export function useKey(given) {
  key = given;
}

export const fetchOffers = () => getJson("v1/headrace/strategies");
export const fetchTrace = (id) => getJson(`v1/headrace/traces/${encodeURIComponent(id)}`);

async function getJson(address) {
  const response = await fetch(address, { headers: headers() });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

function headers() {
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

async function errorOf(response) {
  const body = await response.json().catch(() => ({}));
  return new ApiError(response.status, body.error?.message ?? `the server answered ${response.status}`);
}

// Asks, and yields the request's id and then what the server sends, as it comes. Leaving or aborting ends the search.
export async function* askAndListen(body, signal) {
  const asked = { ...body, stream: true, headrace: { ...body.headrace, events: true } };
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    body: JSON.stringify(asked),
    signal,
  });
  if (!response.ok) throw await errorOf(response);
  yield { requestId: response.headers.get("x-request-id") };
  for await (const data of sentEvents(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(500, chunk.error.message);
    yield chunk;
  }
}

// The data of server-sent events, from a stream of bytes.
export async function* sentEvents(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        const lines = event.split("\n").filter((line) => line.startsWith("data: "));
        if (lines.length) yield lines.map((line) => line.slice(6)).join("\n");
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
