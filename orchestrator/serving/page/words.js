// Numbers and nodes in words: for cards, for the details and for those who listen.

export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

export function scoreWithUncertainty(node) {
  if (node.score === null) return "";
  return score(node.score) + (node.uncertainty ? ` ± ${score(node.uncertainty)}` : "");
}

// One of five grades of a score, as a class: low to high.
export const grade = (value) => (value === null || value === undefined ? "unscored" : `grade-${Math.min(4, Math.floor(value * 5))}`);

export function stateOf(node) {
  if (node.draft) return "being written";
  if (node.chosen && !node.children.length) return "the answer";
  if (!node.alive) return "pruned";
  return node.finished ? "finished" : "kept";
}

export function label(node) {
  if (node.index === -1) return `Question: ${node.text}`;
  const branch = `branch ${node.path.map((child) => child + 1).join(".")}`;
  if (node.draft) return `Being written, ${branch}`;
  const judged = node.score === null ? "not scored" : `score ${scoreWithUncertainty(node).replace("±", "plus or minus")}`;
  return `Step ${node.index + 1}, ${branch}: ${node.text.trim()}. ${judged}, ${stateOf(node)}`;
}

// How a search ended, and what that means.
export const ENDINGS = {
  completed: "completed",
  budget: "cut short by its budget",
  deadline: "cut short by its deadline",
};
