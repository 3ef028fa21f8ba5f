// The tree on the page. Only what is in sight, and a little around it, is in the document: that is what keeps a tree of
// thousands of steps smooth. One item of the tree can have the focus, and stays in the document wherever it is.

import { countBelow, layOut, neighbour } from "./layout.js";
import { make } from "./elements.js";
import { grade, label, number, scoreWithUncertainty, stateOf } from "./words.js";

// Sizes of a node and the room around it. The first one that suits the number of nodes is taken until somebody chooses.
export const SIZES = [
  { name: "cards", width: 156, height: 40, gapX: 26, gapY: 8, most: 300 },
  { name: "scores", width: 52, height: 20, gapX: 16, gapY: 6, most: 1200 },
  { name: "dots", width: 10, height: 10, gapX: 7, gapY: 5, most: Infinity },
];
const MARGIN = 24; // around the tree
const AROUND = 240; // beyond the edges of what is in sight
const SVG = "http://www.w3.org/2000/svg";

export class Stage {
  // `onSelect(node)` is told of the node that has the focus; `onOpen` when its details are wanted.
  constructor(frame, { onSelect, onOpen }) {
    this.frame = frame;
    this.onSelect = onSelect;
    this.onOpen = onOpen;
    this.canvas = make("div", { class: "canvas" });
    this.lines = document.createElementNS(SVG, "svg");
    this.lines.setAttribute("aria-hidden", "true");
    this.wires = ["pruned", "kept", "chosen"].map((name) => {
      const wire = document.createElementNS(SVG, "path");
      wire.setAttribute("class", `wire ${name}`);
      this.lines.append(wire);
      return wire;
    });
    this.canvas.append(this.lines);
    frame.replaceChildren(this.canvas);
    this.items = new Map(); // what is in the document, by the node's key
    this.spare = []; // items that went out of sight: they are cheaper to fill anew than to make
    this.view = { width: 0, height: 0 }; // of the frame
    this.seen = { left: 0, top: 0 }; // where it stands
    this.collapsed = new Set();
    this.chosenSize = null;
    this.following = true; // what is new is brought into sight, until somebody looks elsewhere
    this.pending = false; // a frame is asked for
    this.stale = true; // the tree has changed since it was laid out
    this.onDraw = () => {};
    frame.addEventListener("scroll", () => this.scrolled(), { passive: true });
    frame.addEventListener("keydown", (event) => this.pressed(event));
    frame.addEventListener("wheel", () => (this.following = false), { passive: true });
    frame.addEventListener("pointerdown", () => (this.following = false), { passive: true });
    new ResizeObserver(() => {
      this.view = { width: frame.clientWidth, height: frame.clientHeight };
      this.changed();
    }).observe(frame);
  }

  show(tree) {
    this.tree = tree;
    this.collapsed.clear();
    for (const item of this.items.values()) item.element.remove();
    this.items.clear();
    this.current = tree.root.key;
    this.following = true;
    this.chosenSize = null;
    this.frame.scrollTo(0, 0);
    this.seen = { left: 0, top: 0 };
    this.changed();
  }

  // Something about the tree is new: it is drawn with the next frame.
  changed() {
    this.stale = true;
    this.schedule();
  }

  schedule() {
    if (this.pending || !this.tree) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  get size() {
    return this.chosenSize ?? SIZES.find((size) => this.tree.nodes.size <= size.most);
  }

  // One size smaller or larger.
  resize(by) {
    const next = SIZES[SIZES.indexOf(this.size) + by];
    if (!next) return;
    this.chosenSize = next;
    this.changed();
    this.draw();
    this.reveal(this.layout.places.get(this.current));
  }

  box(place) {
    const { width, height, gapX, gapY } = this.size;
    return { x: MARGIN + place.column * (width + gapX), y: MARGIN + place.row * (height + gapY), width, height };
  }

  scrolled() {
    this.seen = { left: this.frame.scrollLeft, top: this.frame.scrollTop };
    if (!this.drawn) return;
    const { left, top } = this.seen;
    const far = Math.abs(left - this.drawn.left) > AROUND / 2 || Math.abs(top - this.drawn.top) > AROUND / 2;
    if (far) this.schedule();
    else this.onDraw();
  }

  draw() {
    const anchor = this.stale && this.layout ? this.anchor() : null;
    if (this.stale) this.place();
    if (anchor) this.keepStill(anchor);
    this.drawn = this.seen;
    const left = this.seen.left - AROUND;
    const right = this.seen.left + this.view.width + AROUND;
    const top = this.seen.top - AROUND;
    const bottom = this.seen.top + this.view.height + AROUND;
    const shown = new Map();
    const wires = { pruned: [], kept: [], chosen: [] };
    for (const place of this.layout.places.values()) {
      const { x, y, width, height } = this.box(place);
      const inSight = x < right && x + width > left && y < bottom && y + height > top;
      if (inSight || place.node.key === this.current) shown.set(place.node.key, { place, x, y });
      if (place.node.parent) this.drawWire(place, x, y, left, right, top, bottom, wires);
    }
    for (const [key, item] of this.items) {
      if (shown.has(key)) continue;
      this.items.delete(key);
      this.spare.push(item);
    }
    for (const { place, x, y } of shown.values()) this.drawItem(place, x, y);
    for (const { element } of this.spare) element.remove();
    this.spare.length = 0;
    for (const wire of this.wires) wire.setAttribute("d", wires[wire.classList[1]].join(""));
    this.stale = false;
    this.onDraw();
  }

  place() {
    this.layout = layOut(this.tree.root, this.collapsed);
    if (!this.layout.places.has(this.current)) this.current = this.visible(this.current);
    const { width, height, gapX, gapY } = this.size;
    this.whole = {
      width: 2 * MARGIN + this.layout.columns.length * (width + gapX),
      height: 2 * MARGIN + this.layout.rows * (height + gapY),
    };
    this.canvas.style.width = `${this.whole.width}px`;
    this.canvas.style.height = `${this.whole.height}px`;
    this.frame.dataset.size = this.size.name;
  }

  // The nearest ancestor that is shown: the root when the node is gone.
  visible(key) {
    let node = this.tree.nodes.get(key);
    while (node && !this.layout.places.has(node.key)) node = node.parent;
    return (node ?? this.tree.root).key;
  }

  // A node in sight, and where it stands there.
  anchor() {
    const place = this.layout.places.get(this.current);
    if (!place) return null;
    const { y } = this.box(place);
    const { top } = this.seen;
    return y >= top && y < top + this.view.height ? { key: this.current, y: y - top } : null;
  }

  // Rows that were put in above must not move what somebody looks at.
  keepStill(anchor) {
    const place = this.layout.places.get(anchor.key);
    if (!place || this.seen.top === 0) return;
    const top = this.box(place).y - anchor.y;
    if (top === this.seen.top) return;
    this.frame.scrollTop = top;
    this.seen = { ...this.seen, top: this.frame.scrollTop };
  }

  drawItem(place, x, y) {
    const { node } = place;
    let item = this.items.get(node.key);
    if (!item) {
      item = this.spare.pop() ?? this.makeItem();
      item.node = node;
      item.looks = null;
      item.element.id = `node-${node.key}`;
      this.items.set(node.key, item);
    }
    const at = `${x} ${y}`;
    if (item.at !== at) Object.assign(item.element.style, { left: `${x}px`, top: `${y}px` });
    item.at = at;
    const looks = this.looksOf(node);
    if (item.looks === looks) return;
    item.looks = looks;
    fillItem(item, node, this.collapsed.has(node.key), node.key === this.current);
  }

  // Equal for equal looks, so that an item which has not changed is left alone.
  looksOf(node) {
    const collapsed = this.collapsed.has(node.key) ? countBelow(node) : -1;
    const family = node.parent ? node.parent.children.length : 1;
    return [
      node.text.length, node.score, node.uncertainty, node.alive, node.finished, node.chosen, node.children.length,
      family, collapsed, node.key === this.current,
    ].join();
  }

  makeItem() {
    const text = make("span", { class: "text" });
    const value = make("span", { class: "value" });
    const bar = make("span", { class: "bar" });
    const doubt = make("span", { class: "doubt" });
    const more = make("span", { class: "more" });
    const element = make("div", { role: "treeitem" }, text, value, bar, doubt, more);
    const item = { node: null, element, text, value, bar, doubt, more, looks: null, at: null };
    element.addEventListener("click", () => {
      this.select(item.node.key);
      this.onOpen(item.node, false);
    });
    element.addEventListener("dblclick", () => this.toggle(item.node.key));
    element.addEventListener("focus", () => this.select(item.node.key));
    this.canvas.append(element);
    return item;
  }

  drawWire(place, x, y, left, right, top, bottom, wires) {
    const parent = this.layout.places.get(place.node.parent.key);
    const from = this.box(parent);
    if (x < left || from.x + from.width > right) return;
    if (Math.max(y, from.y) < top || Math.min(y, from.y) > bottom) return;
    const { node } = place;
    const name = node.chosen ? "chosen" : node.alive ? "kept" : "pruned";
    const half = from.height / 2;
    const start = from.x + from.width;
    const middle = (start + x) / 2;
    const curve = `C${middle} ${from.y + half} ${middle} ${y + half} ${x} ${y + half}`;
    wires[name].push(`M${start} ${from.y + half}${place.row === parent.row ? `H${x}` : curve}`);
  }

  select(key) {
    if (key === this.current) return;
    this.current = key;
    this.stale = true;
    this.schedule();
    this.onSelect(this.tree.nodes.get(key));
  }

  // Gives the focus to an item, in sight.
  focus(key) {
    this.select(key);
    this.draw();
    const place = this.layout.places.get(key);
    this.reveal(place);
    this.items.get(key)?.element.focus({ preventScroll: true });
  }

  reveal(place) {
    if (!place) return;
    const { x, y, width, height } = this.box(place);
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.frame;
    if (x < scrollLeft + MARGIN) this.frame.scrollLeft = x - MARGIN;
    if (x + width > scrollLeft + clientWidth - MARGIN) this.frame.scrollLeft = x + width + MARGIN - clientWidth;
    if (y < scrollTop + MARGIN) this.frame.scrollTop = y - MARGIN;
    if (y + height > scrollTop + clientHeight - MARGIN) this.frame.scrollTop = y + height + MARGIN - clientHeight;
    this.seen = { left: this.frame.scrollLeft, top: this.frame.scrollTop };
    this.draw();
  }

  // Brings the column of a node into sight, unless somebody looks at something of their own.
  follow(node) {
    if (!this.following || !this.layout) return;
    const { width, gapX } = this.size;
    const right = 2 * MARGIN + (node.depth + 1) * (width + gapX);
    const { scrollLeft, clientWidth } = this.frame;
    if (right > scrollLeft + clientWidth) this.frame.scrollLeft = right - clientWidth;
  }

  toggle(key) {
    const node = this.tree.nodes.get(key);
    if (!node?.children.length) return;
    if (!this.collapsed.delete(key)) this.collapsed.add(key);
    this.changed();
  }

  pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const place = this.layout?.places.get(this.current);
    if (!place) return;
    const { node } = place;
    const closed = this.collapsed.has(node.key);
    if (event.key === "Enter") this.onOpen(node, true);
    else if (event.key === " " || (event.key === "ArrowRight" && closed)) this.toggle(node.key);
    else if (event.key === "*") this.expandAll();
    else if (event.key === "+" || event.key === "-") this.resize(event.key === "+" ? -1 : 1);
    else if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) {
      this.following = false;
      const next = neighbour(this.layout, place, event.key);
      if (next) this.focus(next.node.key);
    } else return;
    event.preventDefault();
  }

  expandAll() {
    this.collapsed.clear();
    this.changed();
  }
}

function fillItem(item, node, closed, current) {
  const { element } = item;
  const isRoot = node.index === -1;
  element.className = ["node", stateClass(node), isRoot ? "root" : grade(node.score)].join(" ");
  element.tabIndex = current ? 0 : -1;
  element.setAttribute("aria-level", node.depth + 1);
  element.setAttribute("aria-selected", String(current));
  element.setAttribute("aria-label", label(node));
  const family = node.parent ? node.parent.children : [node];
  element.setAttribute("aria-setsize", family.length);
  element.setAttribute("aria-posinset", family.indexOf(node) + 1);
  if (node.children.length) element.setAttribute("aria-expanded", String(!closed));
  else element.removeAttribute("aria-expanded");
  item.text.textContent = node.text.trim().slice(0, 120) || (node.draft ? "writing …" : isRoot ? "Question" : "(no text)");
  item.value.textContent = scoreWithUncertainty(node);
  item.bar.style.width = node.score === null ? "0" : `${node.score * 100}%`;
  const doubt = node.score === null ? 0 : (node.uncertainty ?? 0);
  item.doubt.style.left = `${Math.max(0, (node.score ?? 0) - doubt) * 100}%`;
  item.doubt.style.width = `${(Math.min(1, (node.score ?? 0) + doubt) - Math.max(0, (node.score ?? 0) - doubt)) * 100}%`;
  item.doubt.hidden = doubt === 0;
  item.more.textContent = closed ? `+${number(countBelow(node))}` : "";
}

const stateClass = (node) => stateOf(node).replaceAll(" ", "-");
