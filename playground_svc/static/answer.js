// One column: an answer as it is written, what it cost, and how it can be asked for elsewhere.
import { classes, html, plural } from "./lib.js";
import { Problem } from "./problem.js";
import { isActive } from "./runs.js";
import { Tokens } from "./tokens.js";

// Of Summary.timings, in the order in which they pass; the rest is what is between them.
const PHASES = [
  ["queue_s", "waiting"],
  ["prefill_s", "reading the prompt"],
  ["generator_forward_s", "base model"],
  ["reward_wait_s", "waiting for rewards"],
  ["select_s", "choosing"],
];

// The same request would be refused again.
const FINAL = ["invalid", "too_large", "mismatch", "denied"];

export function Answer({ column, run, active, onActive, onLeave, onCopy, onRetry, onExplain, onReload }) {
  const { name, note, missing } = column;
  return html`
    <article class="answer" data-column=${column.key} data-status=${run.status}
      aria-busy=${isActive(run)} aria-labelledby=${`name-${column.key}`}>
      <header>
        <h2 id=${`name-${column.key}`}>${name}</h2>
        <${Badge} run=${run} />
      </header>
      ${note && html`<p class="note">${note}</p>`}
      <div class="body">
        ${run.error && html`
          <${Problem} error=${run.error} onRetry=${FINAL.includes(run.error.code) ? null : onRetry} />`}
        ${run.tokens.length > 0 && html`
          <${Tokens} ...${{ run, name, active, onActive, onLeave }} />`}
        ${run.tokens.length === 0 && !run.error && html`<${Empty} run=${run} missing=${missing} />`}
      </div>
      ${run.summary && column.storedRevision > 0 && run.summary.profile_revision > 0
        && run.summary.profile_revision !== column.storedRevision && html`
          <p class="note changed-profile">This was written by revision ${run.summary.profile_revision} of
            the profile; shown is revision ${column.storedRevision}.
            ${" "}<button type="button" class="link" onClick=${onReload}>Load it again</button></p>`}
      ${run.status === "done" && run.summary.num_changed_tokens > 0 && column.numWishes > 1
        && html`<${Why} run=${run} onExplain=${onExplain} />`}
      <footer>
        ${run.summary && html`<${Cost} summary=${run.summary} isStale=${run.isStale} />`}
        <button type="button" class="quiet copy" disabled=${!run.body} onClick=${onCopy}
          aria-label=${`Copy as …, the request of ${name}`}>Copy as …</button>
      </footer>
    </article>`;
}

/** Which wish changed how much: of several, the one that did most to change a token counts. */
function Why({ run, onExplain }) {
  const { why } = run;
  if (!why) return html`<p class="why"><button type="button" class="link" onClick=${onExplain}>Which wish changed what?</button></p>`;
  if (why.isAsked) return html`<p class="why note">Asking …</p>`;
  if (why.error) return html`<${Problem} error=${why.error} onRetry=${onExplain} />`;
  if (why.text !== run.tokens.map(({ text }) => text).join("")) {
    return html`<p class="why note">The answer comes out differently now: generate it again.</p>`;
  }
  return html`
    <ul class="why">${why.account.preferences.map((each) => html`
      <li><span>${each.text}</span> <b>${plural(each.num_changed_tokens, "token")}</b></li>`)}</ul>`;
}

function Badge({ run }) {
  const { status, summary, tokens } = run;
  if (status === "waiting" || status === "running") return html`<span class="badge live">thinking</span>`;
  if (status === "streaming") return html`<span class="badge live">${plural(tokens.length, "token")}</span>`;
  if (status === "stopped") return html`<span class="badge">stopped</span>`;
  if (status !== "done" || !summary) return null;
  if (summary.num_guided_tokens === 0) return html`<span class="badge">${plural(summary.num_tokens, "token")}</span>`;
  return html`<span class=${classes({ badge: true, some: summary.num_changed_tokens > 0 })}>
    <b>${summary.num_changed_tokens}</b> of ${plural(summary.num_tokens, "token")} changed</span>`;
}

function Empty({ run, missing }) {
  if (isActive(run)) return html`<p class="empty pulse">Reading the prompt …</p>`;
  if (run.status === "stopped") return html`<p class="empty">Stopped before the first token.</p>`;
  return html`<p class="empty">${missing ?? "The answer will stand here."}</p>`;
}

function Cost({ summary, isStale }) {
  const { timings, num_tokens: count, num_fallback_tokens: unguided } = summary;
  const known = PHASES.map(([field, label]) => [timings[field], label]);
  const rest = timings.total_s - known.reduce((sum, [seconds]) => sum + seconds, 0);
  const phases = [...known, [Math.max(0, rest), "everything else"]];
  return html`
    <div class=${classes({ bar: true, stale: isStale })} aria-hidden="true">
      ${phases.map(([seconds], index) => html`
        <i class=${`phase-${index}`} style=${{ "--share": seconds / timings.total_s }}></i>`)}
    </div>
    <div class=${classes({ cost: true, stale: isStale })}>
      <details>
        <summary><span>${duration(timings.total_s)}</span> ·${" "}
          <span>${duration(timings.total_s / Math.max(1, count))} a token</span></summary>
        <dl>${phases.map(([seconds, label], index) => html`
          <div><dt><i class=${`dot phase-${index}`}></i>${label}</dt><dd>${duration(seconds)}</dd></div>`)}
          <div><dt>first token after</dt><dd>${duration(timings.time_to_first_token_s)}</dd></div></dl>
      </details>
      ${unguided > 0 && html`<p class="note">${plural(unguided, "token")} without rewards: no reward service answered.</p>`}
    </div>`;
}

function duration(seconds) {
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(2)} s`;
}
