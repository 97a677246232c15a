// What is asked: a prompt of one's own or one of several, and how long and how random the answer is.
import { classes, html, useState } from "./lib.js";

export function Prompt({ prompts, asked, setAsked, ask, info, isWriting, onGenerate, onStop }) {
  const earlier = asked.messages.slice(0, -1);
  const last = asked.messages.at(-1);
  const isEmpty = last.content.trim() === "";
  const set = (content) => setAsked({ ...asked, messages: [...earlier, { role: "user", content }] });
  const setNumber = (name) => (value) => setAsked({ ...asked, [name]: value });
  function onKeyDown(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !isEmpty) onGenerate();
  }
  return html`
    <div class="prompt">
      <h2><label for="prompt">Prompt</label></h2>
      <div class="chips" role="group" aria-label="Prompts to begin with">
        ${prompts.map((each) => html`
          <button type="button" class=${classes({ chip: true, on: each.messages === asked.messages })}
            onClick=${() => ask({ ...asked, messages: each.messages })}>${each.label}</button>`)}
      </div>
      ${earlier.length > 0 && html`
        <div class="turns">
          ${earlier.map((turn) => html`
            <p class=${`turn ${turn.role}`}><span class="sr-only">${turn.role}: </span>${turn.content}</p>`)}
          <button type="button" class="link"
            onClick=${() => setAsked({ ...asked, messages: [last] })}>Leave the earlier turns out</button>
        </div>`}
      <textarea id="prompt" rows="3" value=${last.content} placeholder="Ask something …"
        onInput=${(event) => set(event.target.value)} onKeyDown=${onKeyDown}></textarea>
      <div class="row">
        ${isWriting
          ? html`<button type="button" class="primary stop" onClick=${onStop}>Stop</button>`
          : html`<button type="button" class="primary" disabled=${isEmpty} onClick=${onGenerate}>Generate
              <kbd aria-hidden="true">Ctrl ↵</kbd></button>`}
      </div>
      <details class="options">
        <summary>Options</summary>
        <div class="grid">
          <${Field} id="max-tokens" label="Most tokens" value=${asked.maxTokens} min="1"
            max=${info?.max_tokens ?? 512} step="1" onValue=${setNumber("maxTokens")} />
          <${Field} id="top-k" label="Candidates K" value=${asked.topK} min="1"
            max=${info?.max_top_k ?? 100} step="1" onValue=${setNumber("topK")} />
          <${Field} id="temperature" label="Temperature" value=${asked.temperature} min="0" max="5"
            step="0.1" onValue=${setNumber("temperature")} />
          <${Field} id="seed" label="Seed" value=${asked.seed} min="0" max="9007199254740991" step="1"
            disabled=${asked.temperature === 0} onValue=${setNumber("seed")} />
        </div>
        <p class="note">Temperature 0 takes the best token each time; above it, tokens are drawn, and the
          seed repeats the draw.</p>
      </details>
    </div>`;
}

/** A number being typed is kept as typed, and taken once it is one that fits. */
function Field({ id, label, value, onValue, ...rule }) {
  const [typed, setTyped] = useState(null);
  const [isWrong, setIsWrong] = useState(false);
  function onInput({ target }) {
    setTyped(target.value);
    setIsWrong(!target.validity.valid || target.value === "");
    if (target.validity.valid && target.value !== "") onValue(target.valueAsNumber);
  }
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      <input id=${id} type="number" value=${typed ?? value} onInput=${onInput} aria-invalid=${isWrong}
        aria-describedby=${isWrong ? `${id}-rule` : undefined} ...${rule} />
      ${isWrong && html`<p class="rule" id=${`${id}-rule`} role="alert">
        Must be ${rule.min} to ${rule.max}${rule.step === "1" && ", whole"}; ${value} is used.</p>`}
    </div>`;
}
