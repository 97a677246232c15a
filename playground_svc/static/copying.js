// The dialog with the request on the screen in forms to copy.
import { call } from "./api.js";
import { classes, html, useEffect, useRef, useState } from "./lib.js";
import { Problem } from "./problem.js";

const FORMS = { python: "Python", cli: "pad CLI", grpcurl: "grpcurl" };

export function Copying({ name, body, onClose }) {
  const dialog = useRef(null);
  const code = useRef(null);
  const [form, setForm] = useState("python");
  const [texts, setTexts] = useState(null);
  const [problem, setProblem] = useState(null);
  const [copied, setCopied] = useState("");
  useEffect(() => {
    dialog.current.showModal();
    call("api/snippets", body).then(setTexts, setProblem);
  }, []);

  async function copy() {
    try {
      await navigator.clipboard.writeText(texts[form]);
      setCopied("Copied.");
    } catch {
      getSelection().selectAllChildren(code.current);
      setCopied("The browser does not let the page copy: it is selected, press Ctrl+C.");
    }
  }
  return html`
    <dialog class="copying" ref=${dialog} aria-labelledby="copying-title" onClose=${onClose}
      onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
      <div class="sheet">
        <header>
          <h2 id="copying-title">The request of ${name}</h2>
          <button type="button" class="icon" aria-label="Close" onClick=${() => dialog.current.close()}>×</button>
        </header>
        <div class="segments" role="group" aria-label="Form">
          ${Object.entries(FORMS).map(([key, label]) => html`
            <button type="button" aria-pressed=${form === key} class=${classes({ on: form === key })}
              onClick=${() => { setForm(key); setCopied(""); }}>${label}</button>`)}
        </div>
        ${problem && html`<${Problem} error=${problem} />`}
        <pre tabindex="0" aria-label=${FORMS[form]}><code ref=${code}>${texts?.[form] ?? ""}</code></pre>
        <div class="row">
          <button type="button" class="primary" disabled=${!texts} onClick=${copy}>Copy</button>
          <span role="status" class="note">${copied}</span>
        </div>
      </div>
    </dialog>`;
}
