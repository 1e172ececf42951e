// The dashboard: shows the page that the address names, in the session of the reader.
//
// A page is a module of its own in `pages/` with one component, and a line in `PAGES` here; what it
// draws it takes from the store (what lives, several times a second) or asks the API for.
import { html, render, useEffect } from "./html.js";
import { follow } from "./live.js";
import { route } from "./router.js";
import { isLocked, refreshSession, session } from "./session.js";
import { now } from "./signal.js";
import { Shell, showTheme } from "./parts/shell.js";
import { Agent } from "./pages/agent.js";
import { Agents } from "./pages/agents.js";
import { Overview } from "./pages/overview.js";
import { SignIn } from "./pages/sign_in.js";
import { Workers } from "./pages/workers.js";

const PAGES = {
  overview: { title: "Overview", show: Overview, inHead: true },
  workers: { title: "Workers", show: Workers, inHead: true },
  agents: { title: "Agents", show: Agents, inHead: true },
  agent: { title: "Agent", show: Agent },
};
const HEAD = Object.fromEntries(Object.entries(PAGES).filter(([, page]) => page.inHead).map(([key, page]) => [key, page.title]));

function NotFound() {
  return html`<h1>No such page</h1><p class="card"><a href="#/">Overview</a></p>`;
}

function App() {
  const who = session.use();
  const { page, name } = route.use();
  useEffect(() => {
    if (who) return undefined;
    return now.subscribe(() => session.value || refreshSession());
  }, [who]);
  const found = PAGES[page] || { title: "No such page", show: NotFound };
  const locked = isLocked(who);
  const show = locked ? SignIn : found.show;
  return html`<${Shell} pages=${locked ? {} : HEAD} page=${page} name=${name} title=${locked ? "Sign in" : found.title}>
    ${who ? html`<${show} key=${page + name} />` : html`<p class="soft">Connecting…</p>`}<//>`;
}

showTheme();
refreshSession().then(follow);
render(html`<${App} />`, document.getElementById("app"));
