// The question and how it is to be searched. The fields of a strategy are those that the server offers.

import { find, make } from "./elements.js";

const BUDGET = ["policy_tokens", "verifier_tokens", "candidates", "seconds"];

export class Form {
  constructor(offers) {
    this.offers = offers;
    this.strategies = new Map(offers.strategies.map((strategy) => [strategy.name, strategy]));
    const choice = find("strategy");
    choice.replaceChildren(...offers.strategies.map(({ name }) => make("option", { value: name, textContent: name.replaceAll("_", " ") })));
    choice.value = offers.default_strategy;
    choice.addEventListener("change", () => this.showStrategy());
    const { temperature, max_tokens: maxTokens } = offers.sampling;
    find("temperature").placeholder = temperature;
    find("max_tokens").placeholder = maxTokens;
    find("max_tokens").max = offers.limits.max_tokens;
    find("question").placeholder = offers.example;
    for (const name of BUDGET) find(`budget-${name}`).placeholder = offers.budget[name] ?? "no cap";
    this.showStrategy();
  }

  get strategy() {
    return this.strategies.get(find("strategy").value);
  }

  showStrategy() {
    find("about").textContent = this.strategy.about;
    const fields = this.strategy.params.map((param) => fieldOf(param, this.offers.limits.max_n));
    find("params").replaceChildren(...fields);
    find("params").hidden = fields.length === 0;
  }

  // The body of a request, as the API has it.
  body() {
    const headrace = { strategy: this.strategy.name };
    const params = this.params();
    if (Object.keys(params).length) headrace.params = params;
    const budget = numbers(BUDGET, "budget-");
    if (Object.keys(budget).length) headrace.budget = budget;
    const question = find("question").value || this.offers.example;
    return {
      model: this.offers.alias,
      messages: [{ role: "user", content: question }],
      ...numbers(["temperature", "max_tokens", "seed"], ""),
      headrace,
    };
  }

  // Those that differ from what the server would take itself; the parts of a value of several go together.
  params() {
    const given = {};
    const changed = new Set();
    for (const param of this.strategy.params) {
      const value = valueOf(find(`param-${param.name}`), param);
      const [name, part] = param.name.split(".");
      if (value !== param.default) changed.add(name);
      if (part) given[name] = { ...given[name], [part]: value };
      else given[name] = value;
    }
    return Object.fromEntries(Object.entries(given).filter(([name]) => changed.has(name)));
  }
}

function fieldOf(param, maxN) {
  const id = `param-${param.name}`;
  return make("label", { class: "field", htmlFor: id }, make("span", { textContent: param.name }), inputOf(id, param, maxN));
}

function inputOf(id, param, maxN) {
  if (param.type === "choice") {
    const options = param.choices.map((value) => make("option", { value, textContent: value.replaceAll("_", " ") }));
    const select = make("select", { id }, ...options);
    select.value = param.default;
    return select;
  }
  if (param.type === "boolean") return make("input", { id, type: "checkbox", checked: param.default });
  if (param.type === "string") return make("input", { id, type: "text", value: param.default ?? "", autocomplete: "off" });
  const step = param.type === "integer" ? 1 : "any";
  const most = param.costly ? maxN : null;
  return make("input", { id, type: "number", step, max: most, required: !param.nullable, value: param.default ?? "", placeholder: "auto" });
}

function valueOf(input, param) {
  if (param.type === "boolean") return input.checked;
  if (param.nullable && input.value === "") return null;
  return param.type === "integer" || param.type === "number" ? Number(input.value) : input.value;
}

function numbers(names, prefix) {
  const filled = names.filter((name) => find(prefix + name).value !== "");
  return Object.fromEntries(filled.map((name) => [name, Number(find(prefix + name).value)]));
}
