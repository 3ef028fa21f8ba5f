// Tells those who listen how a search goes: its start and its end at once, and between them a line now and then.

const EVERY_MS = 8000;

export class Announcer {
  constructor(region, now = () => performance.now()) {
    this.region = region;
    this.now = now;
    this.last = -Infinity;
  }

  say(text) {
    this.last = this.now();
    this.region.textContent = text;
  }

  progress(tree) {
    if (this.now() - this.last < EVERY_MS) return;
    const best = tree.best;
    const judged = best === null ? "" : `, best score ${best.toFixed(2)}`;
    this.say(`${tree.counts.steps} steps, ${tree.counts.pruned} branches pruned${judged}`);
  }
}
