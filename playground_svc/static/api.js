// What the page asks of its server. Every failure is a CallError with words for a person.

export class CallError extends Error {
  constructor({ code, title, message = "", hint = "", retry_after_s = null, request_id = "" }) {
    super(title);
    Object.assign(this, { code, title, detail: message, hint, request_id });
    this.retryAfterS = retry_after_s;
  }
}

const GONE = {
  code: "playground_gone",
  title: "The playground does not answer",
  hint: "Is `pad playground` still running? Start it again, then try once more.",
};

/** Return what a route answers; `body` makes it a POST. */
export async function call(path, body, signal) {
  return (await open(path, body, signal)).json();
}

/** Yield an answer's events as {kind, value}; aborting the signal cancels it on the server. */
export async function* stream(path, body, signal) {
  const response = await open(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isComplete = false;
  while (true) {
    const { value, done } = await read(reader, signal);
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [kind, data] = event.split("\n").map((line) => line.slice(line.indexOf(": ") + 2));
      if (kind === "error") throw new CallError(JSON.parse(data));
      isComplete = kind === "summary";
      yield { kind, value: JSON.parse(data) };
    }
  }
  if (!isComplete) throw new CallError({ ...GONE, title: "The answer broke off" });
}

async function open(path, body, signal) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...options, signal });
  } catch (error) {
    throw signal?.aborted ? error : new CallError(GONE);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new CallError(told.error ?? { code: "other", title: `The playground answered ${response.status}` });
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    throw signal.aborted ? error : new CallError({ ...GONE, title: "The answer broke off" });
  }
}
