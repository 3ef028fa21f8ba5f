// Light or dark: as the system has it, until somebody chooses. The choice is kept in this browser.

import { keep, kept } from "./storage.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };

export function themeSwitch(button, onChange) {
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    onChange();
  };
  let theme = kept("theme") ?? "auto";
  show(theme);
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    keep("theme", theme);
    show(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
}
