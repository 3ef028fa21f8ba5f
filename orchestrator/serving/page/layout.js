// Where the nodes of a tree stand. A step further is a column further. The children of a node stand together, around
// its own row where there is room, so that a single line of steps is a straight one and a round of a beam one column.

// `collapsed` holds the keys of nodes whose children are hidden. `columns` has the places by column, from top to bottom.
export function layOut(root, collapsed) {
  markAlive(root);
  const top = { node: root, row: 0, column: 0 };
  const columns = [[top]];
  const places = new Map([[root.key, top]]);
  let rows = 1;
  for (let column = 1; ; column += 1) {
    const next = [];
    let free = 0; // the first row that no branch above has taken in this column
    for (const { node, row } of columns[column - 1]) {
      const { children } = node;
      if (!children.length || collapsed.has(node.key)) continue;
      const first = Math.max(free, row - ((children.length - 1) >> 1));
      for (let index = 0; index < children.length; index += 1) {
        const place = { node: children[index], row: first + index, column };
        next.push(place);
        places.set(place.node.key, place);
      }
      free = first + children.length;
    }
    if (!next.length) return { columns, places, rows };
    rows = Math.max(rows, free);
    columns.push(next);
  }
}

// A node is alive while it is not pruned, or anything below it is: a prefix that was given up lives on in its children.
function markAlive(root) {
  const order = [root];
  for (let at = 0; at < order.length; at += 1) order.push(...order[at].children);
  for (const node of order.reverse()) {
    node.alive = node.children.length ? node.children.some((child) => child.alive) : !node.pruned;
  }
}

// How many nodes are below a node.
export function countBelow(node) {
  let count = 0;
  const waiting = [...node.children];
  while (waiting.length) {
    count += 1;
    waiting.push(...waiting.pop().children);
  }
  return count;
}

// The place that an arrow key leads to from another one; undefined where there is none. Left and right follow the tree,
// up and down its columns.
export function neighbour(layout, place, key) {
  const column = layout.columns[place.column];
  if (key === "ArrowLeft") return layout.places.get(place.node.parent?.key);
  if (key === "ArrowRight") return layout.places.get(place.node.children[0]?.key);
  if (key === "Home") return layout.columns[0][0];
  if (key === "End") return layout.columns.at(-1).at(-1);
  return column[column.indexOf(place) + (key === "ArrowDown" ? 1 : -1)];
}
