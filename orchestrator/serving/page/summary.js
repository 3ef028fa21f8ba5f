// Above the tree: the answer, how the search ended, votes, and what was spent of the budget.

import { make } from "./elements.js";
import { ENDINGS, number, score } from "./words.js";

// `search` is {tree, state, error, caps}: state is idle, running, done, stopped or failed.
export function showSummary(panel, search) {
  const { tree, state, error } = search;
  const parts = [headline(search)];
  if (error) parts.push(make("p", { class: "error", textContent: error }));
  if (tree && state !== "idle") parts.push(counters(search));
  if (tree?.votes.length > 1) parts.push(votes(tree));
  panel.replaceChildren(...parts);
}

function headline({ tree, state }) {
  const found = tree?.answer;
  if (found) {
    const ending = ENDINGS[found.end_reason] ?? found.end_reason;
    const judged = found.score === null || found.score === undefined ? "" : `score ${score(found.score)}, `;
    return make(
      "p",
      { class: "answer" },
      make("span", { class: "what", textContent: "Answer" }),
      make("strong", { textContent: found.answer ?? "none was found in the text" }),
      make("span", { class: "how", textContent: `${judged}${ending} after ${tree.seconds.toFixed(1)} s` }),
    );
  }
  const words = { idle: "", running: "Searching …", stopped: "Stopped", failed: "Failed", done: "No answer was found" };
  return make("p", { class: "answer" }, make("span", { class: "what", textContent: words[state] }));
}

function counters({ tree, caps }) {
  const { counts, budget } = tree;
  const values = [
    ["steps", counts.steps, null],
    ["scored", counts.scored, null],
    ["pruned", counts.pruned, null],
    ["finished", counts.finished, null],
  ];
  if (budget) {
    values.push(["policy tokens", budget.policy_tokens, caps?.policy_tokens]);
    values.push(["verifier tokens", budget.verifier_tokens, caps?.verifier_tokens]);
  }
  if (tree.dropped) values.push(["events left out", tree.dropped, null]);
  return make("ul", { class: "counters" }, ...values.map(counter));
}

function counter([name, value, cap]) {
  const item = make("li", {}, make("b", { textContent: number(value) }), ` ${name}`);
  if (cap) {
    item.append(` of ${number(cap)}`, make("meter", { min: 0, max: cap, value: Math.min(value, cap), ariaLabel: name }));
  }
  return item;
}

const MOST_VOTES = 4;

function votes(tree) {
  const all = tree.votes.reduce((sum, vote) => sum + vote.weight, 0) || 1;
  const sorted = [...tree.votes].sort((a, b) => b.weight - a.weight);
  const rows = sorted.slice(0, MOST_VOTES).map((vote) => {
    const share = make("span", { class: "share" });
    share.style.width = `${(100 * vote.weight) / all}%`;
    const count = `${number(vote.count)} ${vote.count === 1 ? "vote" : "votes"}, ${Math.round((100 * vote.weight) / all)}%`;
    const answer = make("span", { class: "what", textContent: vote.answer ?? "no answer" });
    return make("li", {}, answer, make("span", { class: "track" }, share), make("span", { class: "count", textContent: count }));
  });
  const left = sorted.length - rows.length;
  if (left > 0) rows.push(make("li", { class: "others", textContent: `and ${number(left)} other ${left === 1 ? "answer" : "answers"}` }));
  return make("ul", { class: "votes", ariaLabel: "Votes" }, ...rows);
}
