// One search as the page shows it: one that goes on, or one of a trace.

import { askAndListen } from "./api.js";
import { SearchTree } from "./tree.js";

// Asks and builds the tree while events come. `onChange(search, added)` is told after each batch, and at the end.
export class LiveSearch {
  constructor(body, onChange) {
    this.tree = new SearchTree(body.messages.at(-1).content);
    this.caps = body.headrace.budget ?? null;
    this.state = "running";
    this.error = null;
    this.requestId = null;
    this.aborting = new AbortController();
    this.onChange = onChange;
    this.body = body;
  }

  // Closing the stream ends the search: the server sees that nobody waits any more.
  stop() {
    this.aborting.abort();
  }

  async run() {
    try {
      for await (const chunk of askAndListen(this.body, this.aborting.signal)) this.take(chunk);
      this.state = "done";
    } catch (error) {
      this.state = this.aborting.signal.aborted ? "stopped" : "failed";
      if (this.state === "failed") this.error = error.message;
      this.status = error.status ?? null;
    }
    this.tree.close();
    this.onChange(this, null);
  }

  take(chunk) {
    this.requestId = chunk.requestId ?? this.requestId;
    const events = chunk.headrace?.events ?? [];
    for (const event of events) this.tree.apply(event);
    this.onChange(this, events.findLast((event) => event.type === "step") ?? null);
  }
}

// A search of a trace, which is over.
export function pastSearch(kept) {
  const tree = new SearchTree(kept.question);
  for (const event of kept.events) tree.apply(event);
  tree.close();
  return { tree, state: kept.error ? "failed" : "done", error: kept.error, caps: kept.budget ?? null, requestId: null };
}
