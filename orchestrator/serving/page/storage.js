// What this browser keeps: the theme, and the ids of its own searches. No question and no answer is kept.

export function kept(name) {
  try {
    return localStorage.getItem(`headrace-${name}`);
  } catch {
    return null; // a browser may forbid it: then the page does without
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(`headrace-${name}`, value);
  } catch {
    // as above
  }
}

const MOST_IDS = 12;

export const keptIds = () => JSON.parse(kept("ids") ?? "[]");

export function keepId(id) {
  keep("ids", JSON.stringify([id, ...keptIds().filter((other) => other !== id)].slice(0, MOST_IDS)));
}
