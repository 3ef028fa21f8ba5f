// The whole tree in one small picture, with a frame around what is in sight. A click or a drag goes there.

import { grade } from "./words.js";

export class Minimap {
  constructor(canvas, stage) {
    this.canvas = canvas;
    this.stage = stage;
    this.picture = document.createElement("canvas"); // of the tree alone: a scroll draws only the frame anew
    const go = (event) => {
      if (event.buttons === 0) return;
      const { scale } = this;
      const box = canvas.getBoundingClientRect();
      stage.following = false;
      stage.frame.scrollLeft = (event.clientX - box.left) / scale.x - stage.frame.clientWidth / 2;
      stage.frame.scrollTop = (event.clientY - box.top) / scale.y - stage.frame.clientHeight / 2;
    };
    canvas.addEventListener("pointerdown", go);
    canvas.addEventListener("pointermove", go);
  }

  draw() {
    const { canvas, stage } = this;
    const { layout, whole, view, seen } = stage;
    const fits = !layout || (whole.width <= view.width && whole.height <= view.height);
    if (canvas.hidden !== fits) canvas.hidden = fits;
    if (fits) return;
    if (layout !== this.drawn || stage.size !== this.size) this.drawTree(layout, whole);
    if (!this.picture.width) return; // a narrow page has no room for it
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.picture, 0, 0);
    context.strokeStyle = this.colours.accent;
    context.lineWidth = this.ratio;
    const x = this.scale.x * this.ratio;
    const y = this.scale.y * this.ratio;
    context.strokeRect(seen.left * x + 0.5, seen.top * y + 0.5, view.width * x - 1, view.height * y - 1);
  }

  drawTree(layout, whole) {
    this.drawn = layout;
    this.size = this.stage.size;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    this.ratio = ratio;
    this.scale = { x: width / whole.width, y: height / whole.height };
    for (const canvas of [this.canvas, this.picture]) Object.assign(canvas, { width: width * ratio, height: height * ratio });
    const context = this.picture.getContext("2d");
    this.colours ??= coloursOf(this.canvas);
    const { colours } = this;
    const { x, y } = this.scale;
    for (const place of layout.places.values()) {
      const { node } = place;
      const box = this.stage.box(place);
      const colour = node.chosen ? "chosen" : grade(node.score);
      context.globalAlpha = node.alive || node.chosen ? 1 : 0.35;
      context.fillStyle = colours[colour];
      context.fillRect(
        box.x * x * ratio, box.y * y * ratio,
        Math.max(ratio, box.width * x * ratio), Math.max(ratio, box.height * y * ratio),
      );
    }
  }

  // The colours may be others now.
  forget() {
    this.drawn = null;
    this.colours = null;
  }
}

// The colours of the style sheet, as this theme has them.
function coloursOf(element) {
  const colours = {};
  for (const name of ["accent", "chosen", "unscored", "grade-0", "grade-1", "grade-2", "grade-3", "grade-4"]) {
    element.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(element).color;
  }
  element.style.color = "";
  return colours;
}
