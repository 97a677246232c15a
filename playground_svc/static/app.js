// The page: what is asked, for whom, and the answers side by side.
import { call } from "./api.js";
import { Answer } from "./answer.js";
import { Copying } from "./copying.js";
import { Editor } from "./editor.js";
import { Header } from "./header.js";
import { Inspector } from "./inspector.js";
import { html, isSheet, isTouch, plural, render, useEffect, useMemo, useRef, useState } from "./lib.js";
import { Problem } from "./problem.js";
import { fromStored, guidance, isEdited, newProfile, newWish, preferences, title } from "./profile.js";
import { Prompt } from "./prompt.js";
import { isActive, Runs } from "./runs.js";
import { Legend } from "./tokens.js";

const SLIDING_MS = 200; // a slider that rested for so long has arrived
const LEAVING_MS = 150; // from a token to the card beside it
const NAMES = ["Profile A", "Profile B"];
const KEYS = ["a", "b"];

function App({ page }) {
  const [, redraw] = useState(0);
  const runs = useMemo(() => new Runs(() => redraw((count) => count + 1)), []);
  const [info, setInfo] = useState(null);
  const [problem, setProblem] = useState(null);
  const [users, setUsers] = useState([]);
  const [asked, setAsked] = useState({ ...page.prompts[0], maxTokens: 60, topK: 10, temperature: 0, seed: 1 });
  const [profiles, setProfiles] = useState(() => page.first_wishes.map((text) => newProfile([newWish(text)])));
  const [count, setCount] = useState(1);
  const [tab, setTab] = useState(0);
  const [showsBase, setShowsBase] = useState(true);
  const [active, setActive] = useState(null);
  const [copying, setCopying] = useState(null);
  const [said, setSaid] = useState("");
  const leaving = useRef(0);
  const isClosing = useRef(false);

  async function refresh() {
    try {
      setInfo(await call("api/server"));
      setProblem(null);
      const { profiles: stored } = await call("api/profiles");
      setUsers(stored.map(({ user_id }) => user_id));
    } catch (error) {
      setProblem(error);
    }
  }
  useEffect(() => void refresh(), []);

  const columns = columnsOf(asked, profiles.slice(0, count));

  function generate(isForced, afterMs = 0, wanted = columns) {
    for (const { key, body } of wanted) {
      const isSame = JSON.stringify(body) === JSON.stringify(runs.get(key).body);
      if (body === null) runs.drop(key);
      else if (isForced || !isSame) runs.start(key, body, afterMs);
    }
    setActive(null);
  }
  function show() {
    // Where all stands in one column, answers are far below the button.
    if (!matchMedia("(max-width: 900px)").matches) return;
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    document.querySelector(".answers").scrollIntoView({ behavior });
  }
  function ask(next) {
    setAsked(next);
    show();
    generate(true, 0, columnsOf(next, profiles.slice(0, count)));
  }
  function change(index, profile, afterMs = SLIDING_MS) {
    const next = profiles.map((each, place) => (place === index ? profile : each));
    setProfiles(next);
    // Once there are answers they follow what is changed.
    if (runs.get("base").body) generate(false, afterMs, columnsOf(asked, next.slice(0, count)));
  }
  function compare(isOn) {
    setCount(isOn ? 2 : 1);
    setTab(isOn ? 1 : 0);
    if (!isOn) runs.drop("b");
    else if (runs.get("base").body) generate(false, 0, columnsOf(asked, profiles));
  }
  function stored(index, profile) {
    change(index, fromStored(profile));
    setUsers((known) => [...new Set([...known, profile.user_id])].sort());
  }

  // Told once, when all is written: nobody wants to hear an answer token by token.
  const isWriting = runs.isActive;
  useEffect(() => {
    const written = columns.map(({ key, name }) => [name, runs.get(key)]);
    setSaid(isWriting ? "Writing." : written.map(([name, run]) => spoken(name, run)).join(" "));
  }, [isWriting]);

  function leave(isNow) {
    // What was tapped stays: the page scrolls away under the finger, to show it.
    if (!isNow && (isSheet() || isTouch()) && document.activeElement.matches(".token")) return;
    clearTimeout(leaving.current);
    leaving.current = setTimeout(() => setActive(null), isNow ? 0 : LEAVING_MS);
  }
  function enter(key, index, anchor) {
    if (isClosing.current) return;
    clearTimeout(leaving.current);
    setActive({ key, index, anchor, isFocused: document.activeElement === anchor });
  }
  function close() {
    // Back to the token, which is not to open again for it.
    isClosing.current = true;
    active.anchor.focus({ preventScroll: true });
    isClosing.current = false;
    leave(true);
  }
  const looked = active && runs.get(active.key).tokens[active.index];
  const column = active && columns.find(({ key }) => key === active.key);

  return html`
    <${Header} info=${info} problem=${problem} server=${page.server} />
    <main>
      <section class="controls" aria-label="Request">
        <${Prompt} ...${{ prompts: page.prompts, asked, setAsked, info, ask, isWriting }}
          onGenerate=${() => { generate(true); show(); }} onStop=${() => runs.stopAll()} />
        <div class="who">
          <div class="row between">
            ${count === 1 ? html`<h2>Profile</h2>` : html`
              <div class="segments" role="group" aria-label="Profile to edit">
                ${profiles.map((profile, index) => html`
                  <button type="button" aria-pressed=${tab === index} class=${tab === index ? "on" : ""}
                    onClick=${() => setTab(index)}>${title(profile, NAMES[index])}</button>`)}
              </div>`}
            <label class="check switch"><input type="checkbox" role="switch" checked=${count === 2}
              onChange=${(event) => compare(event.target.checked)} /> Compare two</label>
          </div>
          <datalist id="users">${users.map((each) => html`<option value=${each} />`)}</datalist>
          <${Editor} key=${tab} id=${KEYS[tab]} name=${NAMES[tab]} profile=${profiles[tab]}
            axes=${page.axes} defaultBeta=${info?.default_beta ?? 1} maxStrength=${page.max_strength}
            users=${users}
            onChange=${(profile, afterMs) => change(tab, profile, afterMs)}
            onStored=${(profile) => stored(tab, profile)} />
        </div>
      </section>
      <section class="answers" aria-label="Answers">
        <p class="lead">The same prompt, by the base model and for a profile.
          ${isTouch() ? " Tap a word" : " Hover over a word, or walk with the arrow keys,"} to see what else could
          have been said.</p>
        ${problem && html`<${Problem} error=${problem} onRetry=${refresh} />`}
        <div class=${`columns of-${columns.length} ${showsBase ? "" : "without-base"}`}>
          ${columns.map((each) => html`
            <${Answer} key=${each.key} column=${each} run=${runs.get(each.key)}
              active=${active?.key === each.key ? active.index : null}
              onActive=${(index, anchor) => enter(each.key, index, anchor)} onLeave=${leave}
              onCopy=${() => setCopying(each)} onRetry=${() => generate(true, 0, [each])}
              onExplain=${() => explain(runs.get(each.key))} onReload=${() => reload(each.place)} />`)}
        </div>
        <${Legend} showsBase=${showsBase} onShowsBase=${setShowsBase} />
      </section>
      ${looked && html`<${Inspector} token=${looked} why=${runs.get(active.key).why} name=${column.name} anchor=${active.anchor}
        isFocused=${active.isFocused} onClose=${close}
        beta=${runs.get(active.key).summary?.beta ?? column.beta(info)}
        onEnter=${() => clearTimeout(leaving.current)} onLeave=${() => leave(false)} />`}
    </main>
    <p class="sr-only" role="status">${said}</p>
    ${copying && html`<${Copying} name=${copying.name} body=${runs.get(copying.key).body ?? copying.body}
      onClose=${() => setCopying(null)} />`}`;

  /** Have the answer written once more, by the same request, with an account of its wishes. */
  async function explain(run) {
    runs.explain(run, { isAsked: true });
    try {
      runs.explain(run, await call("api/explain", run.body));
    } catch (error) {
      runs.explain(run, { error });
    }
  }

  async function reload(index) {
    try {
      change(index, fromStored(await call("api/profiles/get", { user_id: profiles[index].userId })), 0);
    } catch (error) {
      setProblem(error);
    }
  }
}

/** Return what stands side by side: the base model and each profile, with their requests. */
function columnsOf(asked, profiles) {
  const shared = {
    messages: asked.messages,
    max_tokens: asked.maxTokens,
    top_k: asked.topK,
    // The same seed for all, so that chance is not what makes the difference.
    ...(asked.temperature > 0 ? { temperature: asked.temperature, seed: asked.seed } : {}),
  };
  const isEmpty = asked.messages.at(-1).content.trim() === "";
  const base = { key: "base", name: "Base model", body: { ...shared, strategy: "base" }, beta: () => 0 };
  const guided = profiles.map((profile, place) => {
    const whom = guidance(profile);
    return {
      key: KEYS[place],
      place,
      name: title(profile, profiles.length > 1 ? NAMES[place] : "Your profile"),
      body: whom && { ...shared, ...whom },
      beta: (info) => profile.beta ?? info?.default_beta ?? 1,
      numWishes: preferences(profile).length,
      storedRevision: isEdited(profile) ? 0 : profile.stored.revision,
      missing: whom ? undefined : "This profile has no wish yet: move a slider.",
    };
  });
  return [base, ...guided].map((each) => (isEmpty ? { ...each, body: null } : each));
}

function spoken(name, run) {
  if (run.status === "failed") return `${name}: ${run.error.title}.`;
  if (run.tokens.length === 0) return "";
  const text = run.tokens.map(({ text }) => text).join("");
  const changed = run.summary?.num_guided_tokens
    ? `${run.summary.num_changed_tokens} of ${plural(run.summary.num_tokens, "token")} changed.` : "";
  return `${name}${run.status === "stopped" ? ", stopped" : ""}: ${text} ${changed}`;
}

const root = document.getElementById("app");
call("api/page").then(
  (page) => render(html`<${App} page=${page} />`, root),
  (error) => render(html`<main class="lost"><${Problem} error=${error} /></main>`, root),
);
