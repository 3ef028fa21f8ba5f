// What is known of one node: its step in full, its verdict, and the text that led to it.

import { make } from "./elements.js";
import { number, score, stateOf } from "./words.js";

export function showDetails(panel, tree, node) {
  if (node.index === -1) {
    panel.replaceChildren(make("h2", { textContent: "Question" }), make("pre", { textContent: node.text }));
    return;
  }
  const facts = [
    ["State", stateOf(node)],
    ["Score", score(node.score)],
    ["Uncertainty", score(node.uncertainty)],
    ["Tokens", number(node.tokens)],
    ["Written after", `${node.at.toFixed(2)} s`],
    ["Branch", node.path.map((child) => child + 1).join(".")],
    ["Continuations", number(node.children.length)],
  ];
  const title = node.draft ? "Being written" : `Step ${node.index + 1}`;
  const before = tree.lineage(node).slice(1).map((step) => step.text);
  panel.replaceChildren(
    make("h2", { textContent: title }),
    make("pre", { class: "own", textContent: node.text }),
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })])),
    make("h3", { textContent: "The whole text up to here" }),
    make("pre", { textContent: before.join("") }),
  );
}
