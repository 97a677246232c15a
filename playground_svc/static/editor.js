// The form that edits one profile: sliders between opposites, own words, strength, load and save.
import { call } from "./api.js";
import { classes, html, plural, short, useState } from "./lib.js";
import { Problem } from "./problem.js";
import {
  axisMax, axisValue, fromStored, isEdited, MAX_WISHES, newWish, ownWishes, preferences, sharedBeta, totalWeight,
  withAxis,
} from "./profile.js";

const BETA_MAX = 3;
const TYPING_MS = 700;

/**
 * `onChange(profile, afterMs)`: answers follow once nothing has changed for so long.
 * `maxStrength`: beyond it the text may break.
 */
export function Editor({ id, name, profile, axes, defaultBeta, maxStrength, users, onChange, onStored }) {
  const isFull = profile.wishes.length >= MAX_WISHES;
  const setWish = (wish, change, afterMs) =>
    onChange(
      { ...profile, wishes: profile.wishes.map((each) => (each === wish ? { ...each, ...change } : each)) },
      afterMs,
    );
  const own = ownWishes(profile, axes);
  return html`
    <div class="editor" role="group" aria-label=${name}>
      <${Storage} ...${{ id, profile, users, onChange, onStored }} />
      <fieldset class="axes">
        <legend>How to write</legend>
        ${axes.map((axis) => html`
          <${Axis} key=${axis.id} axis=${axis} profile=${profile} isFull=${isFull}
            onInput=${(value) => onChange(withAxis(profile, axis, value))} />`)}
      </fieldset>
      <fieldset class="wishes">
        <legend>In your own words</legend>
        ${own.map((wish, index) => html`
          <div class="wish" key=${wish.id}>
            <input type="text" aria-label=${`Wish ${index + 1}`} value=${wish.text} maxlength="2000"
              placeholder="Talk to me like a pirate."
              onInput=${(event) => setWish(wish, { text: event.target.value }, TYPING_MS)} />
            <input type="range" class="plain" min="0.1" max=${Math.max(2, wish.weight)} step="0.1"
              aria-label=${`Weight of wish ${index + 1}`} value=${wish.weight}
              style=${{ "--fill": wish.weight / Math.max(2, wish.weight) }}
              onInput=${(event) => setWish(wish, { weight: Number(event.target.value) })} />
            <output>${short(wish.weight)}</output>
            <button type="button" class="icon" aria-label=${`Remove wish ${index + 1}`}
              onClick=${() => onChange({ ...profile, wishes: profile.wishes.filter((each) => each !== wish) })}>×</button>
          </div>`)}
        <button type="button" class="quiet" disabled=${isFull}
          onClick=${() => onChange({ ...profile, wishes: [...profile.wishes, newWish()] })}>
          + Add a wish</button>
        ${isFull && html`<p class="note">A profile has at most ${MAX_WISHES} wishes.</p>`}
      </fieldset>
      <${Beta} ...${{ id, profile, defaultBeta, maxStrength, onChange }} />
    </div>`;
}

function Axis({ axis, profile, isFull, onInput }) {
  const value = axisValue(profile, axis);
  const max = axisMax(profile, axis);
  const side = value < 0 ? 0 : 1;
  const said = value === 0 ? "no wish" : `${axis.poles[side].label}, weight ${short(Math.abs(value))}`;
  const pole = (index) => html`
    <span class=${classes({ pole: true, left: index === 0, on: value !== 0 && side === index })}>
      ${axis.poles[index]?.label ?? ""}</span>`;
  const least = axis.poles[0] ? -max : 0; // a level without an opposite
  const ends = [Math.min(0, value), Math.max(0, value)].map((end) => (end - least) / (max - least));
  return html`
    <label class="axis">
      <span class="sr-only">${axis.name}:</span>
      ${pole(0)}
      <input type="range" class="axis-range" min=${least} max=${max} step="0.1" value=${value}
        disabled=${isFull && value === 0} aria-valuetext=${said} data-axis=${axis.id} title=${axis.about}
        style=${{ "--from": ends[0], "--to": ends[1] }}
        onInput=${(event) => onInput(snapped(Number(event.target.value)))}
        onDblClick=${() => onInput(0)} />
      ${pole(1)}
      <output class=${classes({ zero: value === 0 })}>${value === 0 ? "–" : short(Math.abs(value))}</output>
    </label>`;
}

const snapped = (value) => Math.round(value * 10) / 10;

function Beta({ id, profile, defaultBeta, maxStrength, onChange }) {
  const beta = profile.beta ?? defaultBeta;
  const max = Math.max(BETA_MAX, beta);
  return html`
    <div class="beta">
      <label for=${`beta-${id}`}>Strength <i>β</i></label>
      <input id=${`beta-${id}`} class="plain" type="range" min="0" max=${max} step="0.05" value=${beta}
        style=${{ "--fill": beta / max }} aria-valuetext=${short(beta)}
        aria-describedby=${`strength-${id} beta-note-${id}`}
        onInput=${(event) => onChange({ ...profile, beta: Number(event.target.value) })} />
      <output>${short(beta)}</output>
      <${Strength} ...${{ id, profile, beta, maxStrength, onChange }} />
      <p id=${`beta-note-${id}`} class="note">
        ${beta === 0 ? "0 is the base model itself."
          : profile.beta === null ? "The server's own; move it to choose another."
          : "How much the profile counts against the base model."}
        ${" "}${profile.beta !== null && html`
          <button type="button" class="link"
            onClick=${() => onChange({ ...profile, beta: null })}>Use the server's</button>`}
      </p>
    </div>`;
}

/** What guides in all: weights add up, so every wish more counts against the base model, too. */
function Strength({ id, profile, beta, maxStrength, onChange }) {
  const weights = totalWeight(profile);
  const strength = beta * weights;
  const isMuch = strength > maxStrength;
  // The caution has its place from the start: only then is it read aloud when it comes.
  return html`
    <div class="strength">
      <p id=${`strength-${id}`} class="note">Guides with <b>strength ${short(strength)}</b>
        ${" "}= <i>β</i> ${short(beta)} × weights ${short(weights)}</p>
      <p class="caution" role="status">${isMuch && html`
        <span>Above ${maxStrength} the text may break.</span>`}</p>
      ${isMuch && html`
        <button type="button" onClick=${() => onChange({ ...profile, beta: sharedBeta(profile) })}
          title="Lower β until all wishes together guide with strength 1; their weights stay.">Share out</button>`}
    </div>`;
}

function Storage({ id, profile, users, onChange, onStored }) {
  const [problem, setProblem] = useState(null);
  const [rival, setRival] = useState(null); // what is stored, where that is not what was loaded
  const [busy, setBusy] = useState("");
  const name = profile.userId.trim();

  async function doing(what, work) {
    setBusy(what);
    setProblem(null);
    setRival(null);
    try {
      await work();
    } catch (error) {
      if (error.code === "conflict") setRival(await call("api/profiles/get", { user_id: name }).catch(() => null));
      setProblem(error);
    } finally {
      setBusy("");
    }
  }
  const load = () =>
    doing("load", async () => onChange(fromStored(await call("api/profiles/get", { user_id: name }))));
  const save = (revision) =>
    doing("save", async () => {
      const body = { user_id: name, preferences: preferences(profile), beta: profile.beta };
      onStored(await call("api/profiles/put", { ...body, expected_revision: revision }));
    });
  const seen = profile.stored?.user_id === name ? profile.stored.revision : 0;
  const canSave = name && preferences(profile).length > 0 && !busy && isEdited(profile);
  return html`
    <div class="storage">
      <label for=${`user-${id}`}>User</label>
      <div class="row">
        <input id=${`user-${id}`} type="text" list="users" autocomplete="off" spellcheck=${false}
          maxlength="128" placeholder="nobody yet" value=${profile.userId} aria-describedby=${`stored-${id}`}
          onInput=${(event) => onChange({ ...profile, userId: event.target.value })}
          onChange=${(event) => users.includes(event.target.value) && profile.stored === null && load()}
          onKeyDown=${(event) => event.key === "Enter" && name && load()} />
        <button type="button" disabled=${!name || busy} onClick=${load}>Load</button>
        <button type="button" disabled=${!canSave} onClick=${() => save(seen)}>Save</button>
      </div>
      <p class="note" id=${`stored-${id}`} role="status">${standing(profile, busy)}</p>
      ${problem && html`
        <${Problem} error=${rival ? { title: problem.title } : problem} onClose=${() => setProblem(null)}>
          ${rival && html`<${Rival} rival=${rival} seen=${seen}
            onTheirs=${() => { setProblem(null); onChange(fromStored(rival)); }}
            onMine=${() => save(rival.revision)} />`}
        </${Problem}>`}
    </div>`;
}

function Rival({ rival, seen, onTheirs, onMine }) {
  return html`
    <div class="rival">
      <p>Stored now is revision ${rival.revision}${seen > 0 && `, you had loaded ${seen}`}:</p>
      <ul>${rival.preferences.map((each) => html`
        <li>${each.text}${each.weight !== 1 && html` <small>× ${each.weight}</small>`}</li>`)}</ul>
      <div class="row">
        <button type="button" onClick=${onTheirs}>Load it</button>
        <button type="button" onClick=${onMine}>Save mine instead</button>
      </div>
    </div>`;
}

function standing(profile, busy) {
  if (busy) return busy === "load" ? "Loading …" : "Saving …";
  if (profile.stored === null) {
    return profile.userId ? "Not stored under this name yet, as far as this page knows." : "Name a user to load or save a profile.";
  }
  const revision = `revision ${profile.stored.revision}`;
  const count = plural(profile.stored.preferences.length, "wish").replace("wishs", "wishes");
  return isEdited(profile) ? `Edited since ${revision}; not saved.` : `Stored as ${revision}, ${count}.`;
}
