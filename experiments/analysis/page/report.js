// Makes the report's tables sort and draws its curves. Text is always set as text, never read as HTML.
"use strict";
{
  const SVG = "http://www.w3.org/2000/svg";
  const AXES = { tokens: "generated tokens per problem", flops: "FLOPs per problem, verifier included", k: "samples (k or n)" };
  const COLOURS = { "prm@k": 0, "maj@k": 1, "weighted@k": 2, "pass@k": 3 }; // others: from 4 on
  const DASHES = ["", "7 3", "2 3", "9 3 2 3"]; // by run
  const HEIGHT = 340;
  const EDGE = { left: 46, right: 14, top: 26, bottom: 44 };

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const short = (number) => {
    const exponent = number >= 1000 ? Math.min(6, Math.floor(Math.log10(number) / 3)) : 0;
    return `${Number((number / 1000 ** exponent).toPrecision(3))}${exponent ? ` ${" kMGTPE"[exponent]}` : ""}`;
  };

  // Tables: a press on a header sorts, numbers largest first, another press turns the order.
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    return /^[-–]?$/.test(cell.textContent.trim()) ? null : cell.textContent;
  };
  const sort = (table, column, header) => {
    const body = table.tBodies[0];
    const numeric = [...body.rows].some((row) => typeof keyOf(row, column) === "number");
    const before = header.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : down ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = make("button", { type: "button", textContent: header.textContent });
      if (table.tBodies[0].rows.length && ![...table.tBodies[0].rows].some((row) => row.cells[column].classList.contains("number"))) {
        header.classList.add("words");
      }
      button.addEventListener("click", () => sort(table, column, header));
      header.replaceChildren(button);
    });
  }

  // Curves.
  const ticks = (low, high, wanted) => {
    const found = [];
    for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.ceil(Math.log10(high)); exponent += 1) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** exponent);
    }
    const fit = (value) => value >= low && value <= high;
    const inside = found.filter(fit);
    if (inside.length < 3 && high / low < 20) {
      const each = 10 ** Math.floor(Math.log10(high / 2));
      return Array.from({ length: 20 }, (_, index) => each * (index + 1)).filter(fit).filter((_, index, all) => index % Math.ceil(all.length / wanted) === 0);
    }
    const each = Math.ceil(inside.length / wanted);
    return inside.length ? inside.filter((_, index) => index % each === 0) : [low];
  };
  const mark = (shape, x, y, attributes) => {
    const size = 5.5;
    const points = {
      square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
      diamond: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
      triangle: [[0, -1.3], [1.25, 1], [-1.25, 1]],
      flag: [[0, 1.3], [1.25, -1], [-1.25, -1]],
    }[shape];
    if (!points) return draw("circle", { cx: x, cy: y, r: size, ...attributes });
    return draw("polygon", { points: points.map(([a, b]) => `${x + a * size},${y + b * size}`).join(" "), ...attributes });
  };
  const SHAPES = ["circle", "diamond", "square", "triangle", "flag"];

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.plot = figure.querySelector(".plot");
      this.reading = figure.querySelector(".reading");
      const names = [];
      this.series = JSON.parse(figure.querySelector("script").textContent).map((series) => {
        if (!names.includes(series.series)) names.push(series.series);
        const own = names.filter((name) => COLOURS[name] === undefined).indexOf(series.series);
        const colour = COLOURS[series.series] ?? 4 + (own % 4);
        const shape = series.curve ? SHAPES[0] : SHAPES[1 + (own % 4)];
        return { ...series, colour, shape, shown: true };
      });
      this.axis = "tokens";
      this.focused = 0;
      this.controls();
      this.draw();
      new ResizeObserver(() => this.plot.clientWidth !== this.width && this.draw()).observe(this.plot);
    }

    controls() {
      const room = this.figure.querySelector(".controls");
      const choice = make("select");
      for (const [axis, name] of Object.entries(AXES)) {
        if (this.series.some((series) => series.points.some((point) => point.x[axis]))) choice.append(new Option(name, axis));
      }
      choice.addEventListener("change", () => {
        this.axis = choice.value;
        this.draw();
      });
      const boxes = make("fieldset", {}, make("legend", { className: "heard", textContent: "Series to show" }));
      for (const series of this.series) {
        const box = make("input", { type: "checkbox", checked: true });
        box.addEventListener("change", () => {
          series.shown = box.checked;
          this.draw();
        });
        boxes.append(make("label", {}, box, this.sample(series), series.name));
      }
      room.append(make("label", {}, "Against", choice), boxes);
      room.hidden = false;
    }

    sample(series) {
      const picture = draw("svg", { viewBox: "0 0 26 12", "aria-hidden": "true", class: `s${series.colour}` });
      picture.append(draw("path", { d: "M0 6H26", class: "curve", "stroke-dasharray": this.dash(series) }), mark(series.shape, 13, 6, { class: this.look(series) }));
      return picture;
    }

    dash(series) {
      return series.series === "pass@k" ? "2 3" : DASHES[series.run % DASHES.length];
    }

    // Every other run has hollow marks.
    look(series) {
      return series.run % 2 ? "dot hollow" : "dot";
    }

    draw() {
      this.width = this.plot.clientWidth;
      const shown = this.series
        .filter((series) => series.shown)
        .map((series) => ({ ...series, points: series.points.filter((point) => point.x[this.axis]).sort((a, b) => a.x[this.axis] - b.x[this.axis]) }))
        .filter((series) => series.points.length);
      const points = shown.flatMap((series) => series.points);
      this.reading.textContent = "Point at a mark to read it.";
      if (!points.length) {
        this.plot.replaceChildren(make("p", { className: "soft", textContent: "No series is shown." }));
        return;
      }
      const xs = points.map((point) => point.x[this.axis]);
      const low = Math.min(...xs) / 1.15;
      const high = Math.max(...xs) * 1.15;
      const floor = Math.max(0, Math.floor(10 * Math.min(...points.map((point) => point.low)) - 0.2) / 10);
      const roof = Math.min(1, Math.ceil(10 * Math.max(...points.map((point) => point.high)) + 0.2) / 10);
      const right = this.width - EDGE.right;
      const bottom = HEIGHT - EDGE.bottom;
      const x = (value) => EDGE.left + ((right - EDGE.left) * Math.log(value / low)) / Math.log(high / low);
      const y = (value) => bottom - ((bottom - EDGE.top) * (value - floor)) / (roof - floor);
      const picture = draw("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, height: HEIGHT, role: "group", "aria-label": `${this.figure.dataset.label}: ${shown.length} series, ${points.length} points. Arrow keys go from point to point.` });
      const step = roof - floor > 0.5 ? 0.2 : roof - floor > 0.25 ? 0.1 : 0.05;
      for (let value = Math.ceil(floor / step - 1e-9) * step; value <= roof + 1e-9; value += step) {
        picture.append(draw("line", { class: "grid", x1: EDGE.left, x2: right, y1: y(value), y2: y(value) }), draw("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(100 * value)}%`));
      }
      const along = this.axis === "k" ? [...new Set(xs)].sort((a, b) => a - b) : ticks(low, high, this.width < 500 ? 4 : 8);
      for (const value of along) {
        picture.append(draw("line", { class: "grid", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4 }), draw("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, short(value)));
      }
      picture.append(draw("text", { x: right, y: HEIGHT - 6, "text-anchor": "end" }, AXES[this.axis]), draw("text", { x: 4, y: 12 }, "accuracy"));
      const dots = [];
      for (const series of shown) {
        const group = draw("g", { class: `s${series.colour}` });
        const at = (point, side) => `${x(point.x[this.axis])},${y(point[side])}`;
        if (series.curve && series.series !== "pass@k") {
          const band = [...series.points.map((point) => at(point, "low")), ...series.points.map((point) => at(point, "high")).reverse()];
          group.append(draw("polygon", { class: "band", points: band.join(" ") }));
        }
        if (series.points.length > 1) {
          group.append(draw("polyline", { class: "curve", points: series.points.map((point) => at(point, "y")).join(" "), "stroke-dasharray": series.curve ? this.dash(series) : "1 4" }));
        }
        for (const point of series.points) {
          const across = x(point.x[this.axis]);
          if (!series.curve) group.append(draw("line", { class: "bar", x1: across, x2: across, y1: y(point.low), y2: y(point.high) }));
          const words = `${series.curve ? point.name : series.name === series.series ? point.name : series.name.replace(series.series, point.name)}: ${percent(point.y)} [${percent(point.low)}, ${percent(point.high)}] of ${point.problems} problems, ${short(point.x.tokens)} tokens${point.x.flops ? `, ${short(point.x.flops)} FLOPs` : ""} per problem`;
          const told = series.curve && series.name.includes(": ") ? `${series.name.split(": ")[0]}, ${words}` : words;
          const dot = mark(series.shape, across, y(point.y), { class: this.look(series), role: "img", tabindex: -1, "aria-label": told });
          group.append(dot);
          dots.push({ dot, told, across });
        }
        picture.append(group);
      }
      this.walk(dots);
      this.plot.replaceChildren(picture);
    }

    // One stop for Tab; the arrows go through the points of all series in turn.
    walk(dots) {
      const read = (index) => {
        dots.forEach(({ dot }, other) => dot.classList.toggle("read", other === index));
        this.reading.textContent = dots[index].told;
      };
      dots[0].dot.setAttribute("tabindex", 0);
      dots.forEach(({ dot }, index) => {
        dot.addEventListener("pointerenter", () => read(index));
        dot.addEventListener("click", () => read(index));
        dot.addEventListener("focus", () => read(index));
        dot.addEventListener("keydown", (event) => {
          const next = { ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1, Home: 0, End: dots.length - 1 }[event.key];
          if (next === undefined) return;
          event.preventDefault();
          const to = dots[(next + dots.length) % dots.length].dot;
          dot.setAttribute("tabindex", -1);
          to.setAttribute("tabindex", 0);
          to.focus();
        });
      });
    }
  }
  for (const figure of document.querySelectorAll(".chart")) new Chart(figure);

  // Light or dark: as the system has it, until somebody chooses.
  const NEXT = { auto: "light", light: "dark", dark: "auto" };
  const button = document.getElementById("theme");
  let theme = "auto";
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  });
}
