// An answer's tokens: coloured by reward, changed ones underlined, each to hover over, to tap or to walk to.
import { classes, Component, html, isTouch, signed, useState, visible } from "./lib.js";

export const SATURATED = 3; // a reward from which on the colour is full

/** One tab stop for the whole answer; arrows walk from token to token, or from change to change. */
export function Tokens({ run, name, active, onActive, onLeave }) {
  const [place, setPlace] = useState(0);
  const { tokens } = run;
  const stop = Math.min(place, tokens.length - 1);
  // What ends a turn is known by the answer's own end; its text is a mark of the model's.
  const endId = run.summary?.finish_reason === "end-of-turn" ? tokens.at(-1).token_id : null;

  function onKeyDown(event) {
    const target = destination(event.key, stop, tokens);
    if (event.key === "Escape") onLeave(true);
    if (target === null) return;
    event.preventDefault();
    setPlace(target);
    event.currentTarget.querySelector(`[data-index="${target}"]`).focus();
  }
  return html`
    <div class=${classes({ tokens: true, stale: run.isStale })} role="group" onKeyDown=${onKeyDown}
      aria-label=${`Tokens of ${name}: left and right walk, up and down jump to changed ones`}>
      ${tokens.map((token, index) => html`
        <${Token} key=${index} token=${token} index=${index} isStop=${index === stop}
          isActive=${index === active} isLast=${index === tokens.length - 1 && run.summary !== null} endId=${endId}
          onActive=${onActive} onLeave=${onLeave} onPlace=${setPlace} />`)}
    </div>`;
}

function destination(key, from, tokens) {
  const last = tokens.length - 1;
  if (key === "ArrowRight") return Math.min(last, from + 1);
  if (key === "ArrowLeft") return Math.max(0, from - 1);
  if (key === "Home") return 0;
  if (key === "End") return last;
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const step = key === "ArrowDown" ? 1 : -1;
  for (let index = from + step; index >= 0 && index <= last; index += step) {
    if (tokens[index].changed) return index;
  }
  return from;
}

class Token extends Component {
  // A long answer gets a token many times a second: those that are there stay as they are.
  shouldComponentUpdate(next) {
    return ["token", "isStop", "isActive", "isLast", "endId"].some((name) => next[name] !== this.props[name]);
  }

  render({ token, index, isStop, isActive, isLast, endId, onActive, onLeave, onPlace }) {
    const [, before, core, after] = /^(\s*)(.*?)(\s*)$/s.exec(token.text);
    const isEnd = isLast && token.text === "";
    const strength = token.guided ? Math.min(1, Math.abs(token.reward) / SATURATED) : 0;
    const props = {
      class: classes({
        token: true, changed: token.changed, active: isActive, end: isEnd,
        likes: token.reward > 0, empty: core === "" && !isEnd,
      }),
      role: "button",
      tabIndex: isStop ? 0 : -1,
      "data-index": index,
      "aria-label": spoken(token, isEnd),
      "aria-describedby": isActive ? "inspector" : undefined,
      style: { "--strength": strength },
      onMouseEnter: (event) => isTouch() || onActive(index, event.currentTarget),
      onMouseLeave: () => onLeave(false),
      onFocus: (event) => { onPlace(index); onActive(index, event.currentTarget); },
      onBlur: () => onLeave(false),
      onClick: (event) => { event.currentTarget.focus(); onActive(index, event.currentTarget); },
    };
    const text = isEnd ? "end" : core || (token.text === "" ? "·" : "␣");
    // Spaces and line breaks stand outside, so that only the word is underlined.
    const word = html`<span ...${props}>${text}</span>`;
    const base = token.base_token_id === endId ? "end" : short(token.base_text);
    return html`${before}${token.changed
      ? html`<ruby>${word}<rt data-base=${base} /></ruby>` : word}${core && after}`;
  }
}

const short = (text) => visible(text.trim() || text);

function spoken(token, isEnd) {
  const parts = [isEnd ? "end" : token.text.trim() || "space"];
  if (token.guided) parts.push(`reward ${signed(token.reward, 1)}`);
  if (token.changed) parts.push(`instead of ${short(token.base_text)}`);
  return parts.join(", ");
}

export function Legend({ showsBase, onShowsBase }) {
  return html`
    <div class="legend">
      <div class="scale" role="img" aria-label=${`Colours from orange, reward −${SATURATED} or less, to blue, +${SATURATED} or more`}>
        <span>profile dislikes <b>−${SATURATED}</b></span>
        <i class="ramp"></i>
        <span><b>+${SATURATED}</b> profile likes</span>
      </div>
      <span><b class="token changed">word</b> changed by the profile</span>
      <label class="check"><input type="checkbox" checked=${showsBase}
        onChange=${(event) => onShowsBase(event.target.checked)} /> The base model’s word above it</label>
    </div>`;
}
