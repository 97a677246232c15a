// The candidates of one step, beside the token that was chosen from them.
import { classes, html, isSheet, isTouch, number, short, signed, useLayoutEffect, useRef, visible } from "./lib.js";

const MARGIN = 12;

export function Inspector({ token, why, beta, name, anchor, isFocused, onEnter, onLeave, onClose }) {
  const card = useRef(null);
  const isHeld = isSheet() || isTouch(); // it has a button, which no tooltip may have
  useLayoutEffect(() => place(card.current, anchor, isFocused), [token, anchor, isFocused]);
  const chosen = token.candidates.find(({ token_id }) => token_id === token.token_id);
  return html`
    <div id="inspector" class="inspector" ref=${card} onMouseEnter=${onEnter} onMouseLeave=${onLeave}
      onfocusin=${onEnter} onKeyDown=${(event) => event.key === "Escape" && onClose()}
      ...${isHeld ? { role: "dialog", "aria-label": `Candidates of step ${token.index}` } : { role: "tooltip" }}>
      ${isHeld && html`<button type="button" class="icon close" aria-label="Close" onClick=${onClose}>×</button>`}
      <table>
        <caption>
          <b>Step ${token.index}</b> of ${name}
          <small>${token.guided
            ? html`score = log p + <i>β</i> · reward, <i>β</i> = ${short(beta)}`
            : "chosen by the base model alone"}</small>
        </caption>
        <thead>
          <tr><th scope="col">Candidate</th><th scope="col">log p base</th>
            ${token.guided && html`<th scope="col">Reward</th><th scope="col">Score</th>`}</tr>
        </thead>
        <tbody>
          ${token.candidates.map((each) => html`
            <tr class=${classes({ chosen: each.token_id === token.token_id })} key=${each.token_id}
              data-token=${each.token_id}>
              <th scope="row"><code>${visible(each.text)}</code>${mark(token, each)}</th>
              <td>${number(each.logprob)}</td>
              ${token.guided && html`
                <td class=${classes({ likes: each.reward > 0 })}
                  style=${{ "--strength": Math.min(1, Math.abs(each.reward) / 3) }}>
                  <span class="swatch">${signed(each.reward)}</span></td>
                <td>${number(each.score)}</td>`}
            </tr>`)}
        </tbody>
      </table>
      ${token.changed && html`<${ChangedBy} why=${why} index=${token.index} />`}
      ${!chosen && html`<p class="note">The chosen token is not among them.</p>`}
    </div>`;
}

/** The wish that did most to change this token, once somebody asked. */
function ChangedBy({ why, index }) {
  const told = why?.tokens?.[index];
  if (told?.changed_by == null) return null;
  const wish = why.account.preferences[told.changed_by];
  return html`<p class="changed-by">Changed by <b>${wish.text}</b></p>`;
}

function mark(token, candidate) {
  if (candidate.token_id === token.token_id) return html` <span class="mark">✓ chosen</span>`;
  if (candidate.token_id === token.base_token_id) return html` <span class="mark base">base’s choice</span>`;
  return null;
}

/** Put the card under its token, or above it where there is no room below. */
function place(card, anchor, isFocused) {
  const token = anchor.getBoundingClientRect();
  if (isSheet()) {
    // Under a mouse nothing moves: the token would be elsewhere then.
    if (isFocused) reveal(token, innerHeight - card.offsetHeight - 2 * MARGIN);
    return;
  }
  const { offsetWidth: width, offsetHeight: height } = card;
  const left = Math.min(token.left - 16, innerWidth - width - MARGIN);
  const below = token.bottom + 8;
  const fits = below + height + MARGIN <= innerHeight;
  const top = fits ? below : Math.max(MARGIN, token.top - height - 8);
  card.style.setProperty("--left", `${Math.max(MARGIN, left)}px`);
  card.style.setProperty("--top", `${top}px`);
}

/** Scroll a token to where the sheet does not cover it. */
function reveal(token, bottom) {
  const top = 3 * MARGIN; // the base model's word stands above it
  const by = Math.max(0, token.bottom - bottom) || Math.min(0, token.top - top);
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  if (by !== 0) scrollBy({ top: by, behavior });
}
