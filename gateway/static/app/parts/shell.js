// What is around each page: the head with the pages, whether what is shown is live, and the reader.
import { html, useEffect, useRef, useState } from "../html.js";
import { age, clock } from "../format.js";
import { link, trust } from "../live.js";
import { href } from "../router.js";
import { now, Signal } from "../signal.js";
import { session, signOut } from "../session.js";
import { sections, version } from "../store.js";

const THEMES = ["system", "light", "dark"];
const KEY = "muster-theme";
export const theme = new Signal(stored());

function stored() {
  try {
    return THEMES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system";
  } catch {
    return "system";
  }
}

export function showTheme() {
  document.documentElement.dataset.theme = theme.value;
}

function Theme() {
  const chosen = theme.use();
  const next = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
  const change = () => {
    theme.value = next;
    showTheme();
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // it is kept for this page only
    }
  };
  const signs = { system: "◐", light: "☀", dark: "☾" };
  return html`<button type="button" class="quiet icon" onClick=${change} title=${`Theme: ${chosen}`}
    aria-label=${`Theme: ${chosen}. Change to ${next}`}>${signs[chosen]}</button>`;
}

// "live" is only said while it is true; the age is that of the newest proof.
function Live() {
  const found = trust(link.use(), now.use());
  const shape = { good: "●", late: "▲", bad: "✕" }[found.kind];
  const since = found.age === null || (found.kind === "good" && found.age < 3000) ? "" : age(found.age);
  return html`<span class=${`live ${found.kind}`} title=${found.why || ""}>
    <span class="shape" aria-hidden="true">${shape}</span><span role="status">${found.text}</span>
    ${since && html`<span class="number soft">${since}</span>`}</span>`;
}

let known = ""; // the version that this page is of

function Banner() {
  const state = link.use();
  const found = trust(state, now.use());
  version("service").use();
  const { fallback, version: running = "" } = sections.service || {};
  known ||= running;
  useEffect(() => {
    document.body.dataset.trust = found.kind;
  }, [found.kind]);
  const asOf = state.at && found.age !== null ? clock(Date.now() - found.age) : "";
  return html`
    ${running !== known && html`<p class="banner late"><b>Muster ${running} runs now.</b> This page is of ${known}: <a href="" onClick=${() => location.reload()}>reload it</a>.</p>`}
    ${fallback && html`<p class="banner late"><b>Fallback.</b> ${fallback}</p>`}
    ${found.kind === "bad" && asOf && html`<p class="banner bad"><b>Not live.</b> ${found.text}: ${found.why || ""}
      what is shown is as of <span class="number">${asOf}</span> and may have changed since.</p>`}`;
}

function Reader() {
  const who = session.use();
  const [busy, setBusy] = useState(false);
  if (!who?.signed_in) return null;
  const leave = async () => {
    setBusy(true);
    await signOut().catch(() => {});
    setBusy(false);
  };
  return html`<span class="reader"><span class="soft" title=${`may ${who.scopes.join(", ")}`}>${who.name || "service token"}</span>
    <button type="button" class="quiet small" disabled=${busy} onClick=${leave}>Sign out</button></span>`;
}

// `pages`: those of the head, with their titles. The heading has the focus after a change of page.
export function Shell({ pages, page, name, title, children }) {
  const main = useRef(null);
  const first = useRef(true);
  useEffect(() => {
    document.title = `${title} · Muster`;
    if (!first.current) main.current?.focus({ preventScroll: true });
    if (!first.current) window.scrollTo(0, 0);
    first.current = false;
  }, [page, name]);
  const section = page === "agent" ? "agents" : page;
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      main.current?.focus();
    }}>Skip to the content</a>
    <header class="head">
      <a class="brand" href=${href("overview")} aria-label="Muster: overview"><span class="logo" aria-hidden="true"></span>Muster</a>
      <nav aria-label="Pages">
        ${Object.entries(pages).map(([key, text]) => html`
          <a key=${key} href=${href(key)} aria-current=${key === section ? "page" : undefined}>${text}</a>`)}
        <a href="/docs">API</a>
      </nav>
      <div class="tools"><${Live} /><${Theme} /><${Reader} /></div>
    </header>
    <${Banner} />
    <main id="main" tabindex="-1" ref=${main}>${children}</main>`;
}
