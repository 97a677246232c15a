// The answers being written: one run a column, each of which can be replaced or stopped.
import { CallError, stream } from "./api.js";

const EMPTY = { status: "idle", body: null, tokens: [], summary: null, error: null, isStale: false };
const ACTIVE = ["waiting", "running", "streaming"];

export const isActive = (run) => ACTIVE.includes(run.status);

export class Runs {
  #runs = new Map();
  #isTold = false;

  /** `onChange` is called at most once a frame, however fast tokens come. */
  constructor(onChange) {
    this.onChange = onChange;
  }

  get(key) {
    return this.#runs.get(key) ?? EMPTY;
  }

  get isActive() {
    return [...this.#runs.values()].some(isActive);
  }

  /** Begin an answer in place of the one before, whose work on the server ends now. */
  start(key, body, afterMs = 0) {
    const before = this.get(key);
    before.controller?.abort();
    clearTimeout(before.timer);
    const run = {
      ...EMPTY,
      status: "waiting",
      body,
      controller: new AbortController(),
      // What stands there stays, faded, until there is something new to read.
      tokens: before.tokens,
      summary: before.summary,
      isStale: true,
    };
    this.#runs.set(key, run);
    run.timer = setTimeout(() => this.#write(run), afterMs);
    this.#tell();
  }

  /** Keep what came of asking why, if that answer still stands there. */
  explain(run, why) {
    run.why = why;
    this.#tell();
  }

  stop(key) {
    const run = this.get(key);
    if (!isActive(run)) return;
    clearTimeout(run.timer);
    run.controller.abort();
    run.status = "stopped";
    this.#tell();
  }

  stopAll() {
    for (const key of this.#runs.keys()) this.stop(key);
  }

  drop(key) {
    this.stop(key);
    this.#runs.delete(key);
    this.#tell();
  }

  async #write(run) {
    run.status = "running";
    this.#tell();
    try {
      for await (const { kind, value } of stream("api/generate", run.body, run.controller.signal)) {
        if (run.controller.signal.aborted) return;
        if (run.isStale) Object.assign(run, { tokens: [], summary: null, isStale: false });
        if (kind === "token") {
          run.status = "streaming";
          run.tokens.push(value);
        } else {
          Object.assign(run, { status: "done", summary: value });
        }
        this.#tell();
      }
    } catch (error) {
      if (run.controller.signal.aborted) return; // it was replaced or stopped
      if (!(error instanceof CallError)) throw error;
      Object.assign(run, { status: "failed", error });
      if (run.isStale) Object.assign(run, { tokens: [], summary: null });
      this.#tell();
    }
  }

  #tell() {
    if (this.#isTold) return;
    this.#isTold = true;
    requestAnimationFrame(() => {
      this.#isTold = false;
      this.onChange();
    });
  }
}
