// The top of the page: what is served, and light or dark.
import { html, plural, useState } from "./lib.js";

const THEMES = { auto: "Automatic", light: "Light", dark: "Dark" };

export function Header({ info, problem, server }) {
  return html`
    <header class="top">
      <h1><img src="icon.svg" alt="" width="28" height="28" /> PAD playground</h1>
      <p class="server" title=${server}>
        <i class=${`lamp ${problem ? "off" : info ? "on" : ""}`}></i>
        ${problem ? "no generator" : info ? standing(info) : "connecting …"}
      </p>
      <${Theme} />
    </header>`;
}

function standing(info) {
  const ready = info.reward_replicas.filter(({ is_available }) => is_available).length;
  return `${info.model_id} · ${plural(ready, "reward replica")}`;
}

function Theme() {
  const root = document.documentElement;
  const [theme, setTheme] = useState(root.dataset.theme ?? "auto");
  function choose(name) {
    setTheme(name);
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    try {
      localStorage.setItem("theme", name);
    } catch {
      // A browser that keeps nothing: it holds for this visit.
    }
  }
  return html`
    <label class="theme"><span class="sr-only">Colours</span>
      <select value=${theme} onChange=${(event) => choose(event.target.value)}>
        ${Object.entries(THEMES).map(([name, label]) => html`<option value=${name}>${label}</option>`)}
      </select></label>`;
}
