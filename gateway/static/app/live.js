// The one connection of a browser to the live feed, however many tabs it has.
//
// The tab that has the lock reads the stream and passes each message to the others. When it is
// closed, another tab gets the lock. Where a browser has no locks (they need HTTPS or this machine),
// each tab reads the stream itself.
import { refreshSession, session, isLocked } from "./session.js";
import { Signal } from "./signal.js";
import { apply, sections } from "./store.js";

const FEED = "/api/v1/agents/monitor/live";
const RETRY_MS = [500, 8000];
const SILENT_MS = 8000; // the feed says something every few seconds

// state: connecting, open, lost, refused; at: when the last message came; proof: what it says.
export const link = new Signal({ state: "connecting", at: 0, proof: null });

const channel = "locks" in navigator && "BroadcastChannel" in window ? new BroadcastChannel("muster-live") : null;
let leads = false;
let connection = null;

function take({ kind, content, at }) {
  apply(kind, content);
  link.value = { state: "open", at, proof: content.proof };
}

function report(state) {
  link.value = { ...link.value, state };
  channel?.postMessage({ state });
}

function receive(kind, data) {
  const message = { kind, content: JSON.parse(data), at: Date.now() };
  take(message);
  channel?.postMessage(message);
}

async function read(signal) {
  const response = await fetch(FEED, { signal });
  if (response.status === 401 || response.status === 403) {
    await refreshSession();
    report("refused");
    return false;
  }
  if (!response.ok) throw new Error(`status ${response.status}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return true;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      const lines = Object.fromEntries(message.split("\n").map((line) => line.split(/: (.*)/s)));
      if (lines.data) receive(lines.event, lines.data);
    }
  }
}

async function connect() {
  let delay = RETRY_MS[0];
  for (;;) {
    connection = new AbortController();
    const watch = setInterval(() => {
      if (link.value.state === "open" && Date.now() - link.value.at > SILENT_MS) connection.abort();
    }, 1000);
    const before = link.value.at;
    let refused = false;
    try {
      refused = !(await read(connection.signal));
    } catch {
      // it is lost, and tried again
    }
    clearInterval(watch);
    if (link.value.at !== before) delay = RETRY_MS[0];
    if (!refused) report("lost");
    await rested(refused ? RETRY_MS[1] : delay * (0.75 + Math.random() / 2));
    delay = Math.min(delay * 2, RETRY_MS[1]);
  }
}

// Waits; ends early when the reader comes back, the network does, or someone signs in.
function rested(ms) {
  return new Promise((resolve) => {
    const ends = [
      ["online", window],
      ["visibilitychange", document],
    ];
    const end = () => {
      clearTimeout(timer);
      for (const [name, target] of ends) target.removeEventListener(name, end);
      unsubscribe();
      resolve();
    };
    const timer = setTimeout(end, ms);
    for (const [name, target] of ends) target.addEventListener(name, end);
    const unsubscribe = session.subscribe(end);
  });
}

// Another reader may see other things: the connection is made again.
session.subscribe(() => {
  if (leads) connection?.abort();
});

export function follow() {
  if (!channel) {
    leads = true;
    connect();
    return;
  }
  channel.addEventListener("message", ({ data }) => {
    if (data.wanted && leads && link.value.at) {
      const content = { sections, proof: link.value.proof };
      channel.postMessage({ kind: "picture", content, at: link.value.at });
    } else if (!leads && data.kind) {
      if (data.kind === "picture" || link.value.at) take(data);
    } else if (!leads && data.state) link.value = { ...link.value, state: data.state };
  });
  channel.postMessage({ wanted: true });
  navigator.locks.request("muster-live", () => {
    leads = true;
    return connect();
  });
}

// Whether what is shown is true now, and if not, why: `kind` is good, late or bad.
export function trust({ state, at, proof }, nowMs) {
  const age = at ? Math.max(nowMs - at, 0) : null;
  if (state === "refused") return { kind: "late", text: isLocked(session.value) ? "signed out" : "not live", age };
  if (state === "connecting" && age === null) return { kind: "late", text: "connecting", age };
  if (state !== "open") return { kind: "bad", text: "no connection", age };
  if (age > SILENT_MS) return { kind: "bad", text: "silent", age };
  if (proof.redis_error) return { kind: "bad", text: "Redis does not answer", age: age + (proof.redis_age || 0) };
  if (proof.views_error) return { kind: "bad", text: "views stopped", age, why: proof.views_error };
  if (proof.lag > 2000) return { kind: "late", text: "views are behind", age: age + proof.lag };
  return { kind: "good", text: "live", age };
}
