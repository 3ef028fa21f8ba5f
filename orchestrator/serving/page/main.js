// The page: a question, its search as it grows, and the traces of earlier ones.
//
// A page that `headrace show` wrote holds its trace itself, and asks no server for anything.

import { Announcer } from "./announcer.js";
import { fetchOffers, fetchTrace, useKey } from "./api.js";
import { showDetails } from "./details.js";
import { find, make } from "./elements.js";
import { Form } from "./form.js";
import { Minimap } from "./minimap.js";
import { LiveSearch, pastSearch } from "./searches.js";
import { Stage } from "./stage.js";
import { keepId, keptIds } from "./storage.js";
import { showSummary } from "./summary.js";
import { themeSwitch } from "./theme.js";

const announcer = new Announcer(find("status"));
const stage = new Stage(find("tree"), { onSelect: select, onOpen: open });
const minimap = new Minimap(find("map"), stage);
stage.onDraw = () => minimap.draw();

const NARROW = "(max-width: 1000px)"; // as in the style sheet: the tree is below the form

let shown = { tree: null, state: "idle", error: null, caps: null, requestId: null };
let selected = null;
let waiting = false; // a frame is asked for
let form = null;

function select(node) {
  selected = node;
  refresh();
}

function open(node, withFocus) {
  select(node);
  if (withFocus) find("details").focus();
}

function show(search) {
  shown = search;
  selected = search.tree.root;
  document.body.dataset.has = "tree";
  stage.show(search.tree);
  refresh();
}

// The words around the tree are made anew at most once a frame.
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    showSummary(find("summary"), shown);
    if (selected) showDetails(find("details"), shown.tree, selected);
    const running = shown.state === "running";
    find("stop").disabled = !running;
    find("ask").disabled = running || form === null;
    find("request-id").textContent = shown.requestId ?? "";
  });
}

function changed(search, event) {
  if (search !== shown) return;
  stage.changed();
  if (event) stage.follow(search.tree.step(event.path, event.index));
  if (search.state === "running") announcer.progress(search.tree);
  else finished(search);
  refresh();
}

function finished(search) {
  const { answer } = search.tree;
  stage.changed();
  if (search.requestId) remember(search.requestId);
  if (search.status === 401) find("key-field").hidden = false;
  if (search.state === "failed") announcer.say(`The search failed: ${search.error}`);
  else if (search.state === "stopped") announcer.say("The search was stopped");
  else announcer.say(answer ? `The answer is ${answer.answer ?? "not found in the text"}` : "No answer was found");
  showAnswer(search.tree);
}

// Its last step is what is read first.
function showAnswer(tree) {
  if (tree.answer) stage.select(tree.tip(tree.answer.path).key);
}

function ask() {
  shown.stop?.();
  const search = new LiveSearch(form.body(), changed);
  show(search);
  if (matchMedia(NARROW).matches) find("tree-side").scrollIntoView();
  announcer.say("The search has begun");
  search.run();
}

async function openTrace(id) {
  try {
    showTrace(await fetchTrace(id));
    announcer.say("The trace is open");
  } catch (error) {
    if (error.status === 401) find("key-field").hidden = false;
    shown = { ...shown, error: error.message, state: shown.tree ? shown.state : "failed" };
    announcer.say(error.message);
    refresh();
  }
}

function showTrace(trace) {
  const open = (index) => {
    const search = { ...pastSearch(trace.searches[index]), requestId: trace.id };
    show(search);
    showAnswer(search.tree);
  };
  const choice = find("which");
  const names = trace.searches.map((search, value) => make("option", { value, textContent: search.name ?? `search ${value + 1}` }));
  choice.replaceChildren(...names);
  find("which-field").hidden = trace.searches.length < 2;
  choice.onchange = () => open(Number(choice.value));
  open(0);
}

function remember(id) {
  keepId(id);
  showKeptIds();
}

function showKeptIds() {
  find("kept-ids").replaceChildren(...keptIds().map((value) => make("option", { value })));
}

function buttons() {
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  find("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("form").requestSubmit();
  });
  find("stop").addEventListener("click", () => shown.stop?.());
  find("open").addEventListener("submit", (event) => {
    event.preventDefault();
    if (find("trace-id").value) openTrace(find("trace-id").value.trim());
  });
  find("key").addEventListener("change", () => {
    useKey(find("key").value);
    if (form === null) connect();
  });
  find("larger").addEventListener("click", () => stage.resize(-1));
  find("smaller").addEventListener("click", () => stage.resize(1));
  find("expand").addEventListener("click", () => stage.expandAll());
  find("details").addEventListener("keydown", (event) => {
    if (event.key === "Escape") stage.focus(stage.current);
  });
  themeSwitch(find("theme"), () => {
    minimap.forget();
    stage.changed();
  });
}

async function connect() {
  try {
    form = new Form(await fetchOffers());
    find("open").hidden = !form.offers.keeps_traces;
  } catch (error) {
    find("key-field").hidden = error.status !== 401;
    shown = { ...shown, error: error.message, state: "failed" };
  }
  refresh();
}

buttons();
const own = find("trace");
if (own) {
  document.body.dataset.mode = "file";
  showTrace(JSON.parse(own.textContent));
} else {
  showKeptIds();
  await connect();
  const id = new URLSearchParams(location.search).get("trace");
  if (id) await openTrace(id);
}
