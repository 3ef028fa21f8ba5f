// The tree of one search, made of its events. It knows nothing of the page, and is tested without one.
//
// A path says which child a branch is at each fork; a branch has one step or more. A node is a step: a path and the
// step's index in the trajectory. What is being written and has no step yet is a node without an index.

export class SearchTree {
  constructor(question = "") {
    this.root = makeNode({ key: "root", path: [], index: -1, text: question, depth: 0 });
    this.nodes = new Map([["root", this.root]]);
    this.tips = new Map([["", this.root]]); // the last step of each path
    this.drafts = new Map(); // what is being written, by path
    this.votes = [];
    this.budget = null;
    this.answer = null;
    this.seconds = 0;
    this.dropped = 0; // events that the server left out, since this page read too slowly
    this.counts = { steps: 0, scored: 0, pruned: 0, finished: 0 };
    this.version = 0; // grows with each change of the tree's shape
  }

  apply(event) {
    const reader = READERS[event.type];
    if (!reader) return; // of a newer server
    this.seconds = Math.max(this.seconds, event.at ?? 0);
    reader(this, event);
  }

  // The node of a step; null where it is not known.
  step(path, index) {
    return this.nodes.get(keyOf(path, index)) ?? null;
  }

  // The last node that a path has, its own or one that it shares with the branch it comes from.
  tip(path) {
    for (let length = path.length; length >= 0; length -= 1) {
      const found = this.tips.get(path.slice(0, length).join("."));
      if (found) return found;
    }
    return this.root;
  }

  // From the root to the node, both included.
  lineage(node) {
    const nodes = [];
    for (let next = node; next; next = next.parent) nodes.unshift(next);
    return nodes;
  }

  get best() {
    let best = null;
    for (const node of this.nodes.values()) if (node.score !== null && (best === null || node.score > best)) best = node.score;
    return best;
  }

  // The search is over: nothing is being written any more.
  close() {
    for (const path of [...this.drafts.values()].map((node) => node.path)) dropDraft(this, path);
  }
}

const keyOf = (path, index) => `${path.join(".")}:${index}`;

function makeNode(fields) {
  return {
    parent: null,
    children: [],
    tokens: 0,
    score: null,
    uncertainty: null,
    pruned: false,
    finished: false,
    chosen: false,
    draft: false,
    at: 0,
    ...fields,
  };
}

// The step before this one: of the same path, or of a branch that the path shares.
function parentOf(tree, path, index) {
  for (let length = path.length; index > 0 && length >= 0; length -= 1) {
    const found = tree.step(path.slice(0, length), index - 1);
    if (found) return found;
  }
  return tree.root;
}

function attach(tree, parent, node) {
  node.parent = parent;
  node.depth = parent.depth + 1;
  let at = parent.children.length; // children stand in the order of their paths, however they arrive
  while (at > 0 && comparePaths(parent.children[at - 1].path, node.path) > 0) at -= 1;
  parent.children.splice(at, 0, node);
  tree.nodes.set(node.key, node);
  tree.version += 1;
}

function comparePaths(a, b) {
  for (let place = 0; place < Math.min(a.length, b.length); place += 1) if (a[place] !== b[place]) return a[place] - b[place];
  return a.length - b.length;
}

function draftOf(tree, path) {
  const name = path.join(".");
  let draft = tree.drafts.get(name);
  if (!draft) {
    draft = makeNode({ key: `${name}:draft`, path, index: null, text: "", draft: true });
    attach(tree, tree.tip(path), draft);
    tree.drafts.set(name, draft);
  }
  return draft;
}

function dropDraft(tree, path) {
  const name = path.join(".");
  const draft = tree.drafts.get(name);
  if (!draft) return;
  draft.parent.children.splice(draft.parent.children.indexOf(draft), 1);
  tree.drafts.delete(name);
  tree.nodes.delete(draft.key);
  tree.version += 1;
}

const READERS = {
  step(tree, event) {
    dropDraft(tree, event.path);
    let node = tree.step(event.path, event.index);
    if (!node) {
      node = makeNode({ key: keyOf(event.path, event.index), path: event.path, index: event.index });
      attach(tree, parentOf(tree, event.path, event.index), node);
      tree.counts.steps += 1;
    }
    if (event.finished && !node.finished) tree.counts.finished += 1;
    Object.assign(node, { text: event.text, tokens: event.tokens, finished: event.finished, at: event.at ?? 0 });
    const name = event.path.join(".");
    const tip = tree.tips.get(name);
    if (!tip || tip.index <= node.index) tree.tips.set(name, node);
  },
  score(tree, event) {
    const node = tree.step(event.path, event.index);
    if (!node) return;
    if (node.score === null) tree.counts.scored += 1;
    node.score = event.score;
    node.uncertainty = event.uncertainty ?? null;
  },
  fork(tree, event) {
    for (const path of event.children) if (!tree.tips.has(path.join("."))) draftOf(tree, path);
  },
  prune(tree, event) {
    dropDraft(tree, event.path);
    const tip = tree.tips.get(event.path.join("."));
    if (!tip || tip.pruned || tip === tree.root) return;
    tip.pruned = true;
    tree.counts.pruned += 1;
  },
  text(tree, event) {
    draftOf(tree, event.path).text += event.text;
  },
  vote(tree, event) {
    tree.votes = event.answers;
  },
  budget(tree, event) {
    tree.budget = event;
  },
  dropped(tree, event) {
    tree.dropped += event.count;
  },
  answer(tree, event) {
    tree.answer = event;
    for (const node of tree.lineage(tree.tip(event.path))) node.chosen = true;
    tree.close();
    tree.version += 1;
  },
};
