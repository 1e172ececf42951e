// Small pieces that most pages are made of.
import { html, useState } from "../html.js";
import { age, dateTime, short } from "../format.js";
import { now } from "../signal.js";

// Each state has a shape of its own: they differ without colour, too.
const SHAPES = {
  running: "●", busy: "●", idle: "◉", pending: "○", starting: "◐", stopping: "◌", restarting: "↻",
  terminated: "–", failed: "✕", active: "●", requested: "◐", suspect: "?", draining: "◌", lost: "✕",
  stopped: "–", cordoned: "⊘", paused: "‖", warning: "▲", critical: "◆",
};

export function State({ of, children }) {
  return html`<span class=${`state state-${of}`}><span class="shape" aria-hidden="true">${SHAPES[of] || "·"}</span>${children || of}</span>`;
}

// How long ago, growing older; the exact time on hover.
export function Ago({ at, none = "–" }) {
  const time = now.use();
  if (!at) return html`<span class="soft">${none}</span>`;
  return html`<time class="number" title=${dateTime(at)} datetime=${new Date(at).toISOString()}>${age(time - at)}</time>`;
}

export function Id({ of, href }) {
  const text = html`<span class="mono" title=${of}>${short(of)}</span>`;
  return href ? html`<a href=${href}>${text}</a>` : text;
}

// A text to copy: a command, an id.
export function Copy({ text, children }) {
  const [done, setDone] = useState(false);
  const label = done ? "copied" : "copy";
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="quiet small" onClick=${copy} aria-label=${children ? undefined : `${label} ${text}`}>
    ${done || !children ? label : children}</button>`;
}

export function Command({ text }) {
  return html`<div class="command"><code tabindex="0">${text}</code><${Copy} text=${text} /></div>`;
}

// Text in which commands are set between backticks.
export function Prose({ text }) {
  return text.split("`").map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));
}

export function Failure({ problem }) {
  return html`<p class="notice bad" role="alert"><${State} of="failed">${problem.title}<//> ${problem.message}</p>`;
}

// How much of something is used. `label` says it in words.
export function Bar({ used, total, label }) {
  const share = total ? Math.min(used / total, 1) : 0;
  return html`<div class="bar" role="img" aria-label=${label}>
    <div class=${share >= 1 ? "full" : ""} style=${{ width: `${share * 100}%` }}></div></div>`;
}
