// What went wrong, and what a person can do about it.
import { html } from "./lib.js";

export function Problem({ error, onClose, onRetry, children }) {
  return html`
    <div class="problem" role="alert">
      <p class="title">${error.title}</p>
      ${error.detail && html`<p>${error.detail}</p>`}
      ${error.retryAfterS != null && html`<p>It asks to wait ${waits(error.retryAfterS)}.</p>`}
      ${error.hint && html`<p class="hint">${error.hint}</p>`}
      ${error.request_id && html`<p class="note">Request ${error.request_id}</p>`}
      ${children}
      <div class="row">
        ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
        ${onClose && html`<button type="button" class="quiet" onClick=${onClose}>Close</button>`}
      </div>
    </div>`;
}

const waits = (seconds) => (seconds < 1 ? "a moment" : `${Math.ceil(seconds)} s`);
