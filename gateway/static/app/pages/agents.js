// The registry: filters that the address holds, and keyset pages.
import { html, useEffect, useRef, useState } from "../html.js";
import { get, query } from "../api.js";
import { link } from "../live.js";
import { go, href, route } from "../router.js";
import { now } from "../signal.js";
import { agents as living, sections, version } from "../store.js";
import { Ago, Failure, Id, State } from "../parts/words.js";

const STATES = ["pending", "starting", "running", "stopping", "restarting", "failed", "terminated"];
const FILTERS = ["pool_name", "project_id", "role_type", "label", "text"];
const LIMIT = 100;
const REFRESH_MS = 2000;
const POLL_MS = 5000; // where there is no live feed

// What the address asks for.
function wantedOf(parameters) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) || ""]));
  return { ...wanted, status: parameters.getAll("status"), cursor: parameters.get("cursor") || "" };
}

// A page of the registry, read again when something of an agent has changed.
function usePage(wanted) {
  const asked = query({ ...wanted, limit: LIMIT });
  const followed = version("pools").use() + version("agents").use();
  const time = now.use();
  const changed = link.use().state === "open" ? followed : Math.floor(time / POLL_MS);
  const [found, setFound] = useState({ asked: "", agents: [], next: null, problem: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    get(`/api/v1/agents${asked}`, { signal: stop.signal })
      .then((page) => setFound({ asked, agents: page.agents, next: page.next, problem: null }))
      .catch((problem) => problem.name !== "AbortError" && setFound((old) => ({ ...old, asked, problem })));
    return () => stop.abort();
  }, [asked, turn]);
  const newest = useRef(changed);
  newest.current = changed;
  useEffect(() => {
    const timer = setInterval(() => setTurn(newest.current), REFRESH_MS);
    return () => clearInterval(timer);
  }, []);
  return { ...found, loading: found.asked !== asked };
}

// What is typed is kept while the page is drawn again, and asked for when it is entered.
function TextFilter({ name, label, hint, value, onChange }) {
  const [typed, setTyped] = useState(value);
  useEffect(() => setTyped(value), [value]);
  return html`<label class="field">${label}
    <input type="search" name=${name} value=${typed} placeholder=${hint} onInput=${(event) => setTyped(event.target.value)}
      onChange=${(event) => onChange(event.target.value.trim())} /></label>`;
}

function Filter({ wanted }) {
  version("pools").use();
  const show = (changes) => go(href("agents", "", { ...wanted, cursor: "", ...changes }));
  const toggle = (state) => show({ status: wanted.status.includes(state)
    ? wanted.status.filter((one) => one !== state) : [...wanted.status, state] });
  const text = (name, label, hint) => html`<${TextFilter} key=${name} name=${name} label=${label} hint=${hint}
    value=${wanted[name]} onChange=${(value) => show({ [name]: value })} />`;
  return html`<form class="filter" role="search" aria-label="Filter agents" onSubmit=${(event) => event.preventDefault()}>
    <div class="chips" role="group" aria-label="State">${STATES.map((state) => html`
      <button key=${state} type="button" class="chip" aria-pressed=${wanted.status.includes(state)} onClick=${() => toggle(state)}>
        <${State} of=${state} /></button>`)}</div>
    <div class="fields">
      ${text("text", "Search", "id, project, error…")}
      <label class="field">Pool<select value=${wanted.pool_name} onChange=${(event) => show({ pool_name: event.target.value })}>
        <option value="">all</option>${Object.keys(sections.pools || {}).sort().map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label>
      ${text("project_id", "Project", "all")}
      ${text("label", "Label", "name:value")}
      ${(FILTERS.some((name) => wanted[name]) || wanted.status.length > 0) && html`<a class="clear" href=${href("agents")}>Clear</a>`}
    </div></form>`;
}

function why(agent) {
  if (agent.last_error && ["failed", "restarting"].includes(agent.status)) {
    return html`<span class="clip error" title=${agent.last_error.message}><b>${agent.last_error.type}</b> ${agent.last_error.message}</span>`;
  }
  return html`<span class="clip soft" title=${agent.reason}>${agent.reason}</span>`;
}

function Row({ agent }) {
  const live = living.get(agent.agent_id);
  const heartbeat = Math.max(live?.last_heartbeat || 0, agent.last_heartbeat || 0);
  const activity = agent.status === "running" && (live?.activity || agent.activity);
  return html`<tr>
    <td data-label="State"><${State} of=${agent.status} />${activity && html` <span class="soft">${activity}</span>`}</td>
    <td data-label="Agent"><${Id} of=${agent.agent_id} href=${href("agent", agent.agent_id)} /></td>
    <td data-label="Pool">${agent.pool_name}</td>
    <td data-label="Project">${agent.project_id}</td>
    <td data-label="Worker">${agent.process_id ? html`<${Id} of=${agent.process_id} href=${href("workers", "", { worker: agent.process_id })} />` : html`<span class="soft">–</span>`}</td>
    <td data-label="Incarnation" class="right number">${agent.incarnation}</td>
    <td data-label="Age" class="right"><${Ago} at=${agent.created_at} /></td>
    <td data-label="Heartbeat" class="right"><${Ago} at=${heartbeat} /></td>
    <td data-label="Reason">${why(agent)}</td></tr>`;
}

export function Agents() {
  const { parameters } = route.use();
  const wanted = wantedOf(parameters);
  const page = usePage(wanted);
  const next = page.next && new URL(page.next, location.href).searchParams.get("cursor");
  const isEmpty = !page.loading && page.agents.length === 0 && !page.problem;
  return html`<h1>Agents</h1>
    <${Filter} wanted=${wanted} />
    ${page.problem && html`<${Failure} problem=${page.problem} />`}
    ${isEmpty
      ? html`<p class="card soft">No agent matches${wanted.status.length ? "" : "; ended ones are shown only with the states failed and terminated"}.</p>`
      : html`<div class="scroll" aria-busy=${page.loading}><table class="agents">
        <thead><tr><th>State</th><th>Agent</th><th>Pool</th><th>Project</th><th>Worker</th><th class="right"><abbr title="Incarnation">Inc.</abbr></th>
          <th class="right">Age</th><th class="right">Heartbeat</th><th>Reason or error</th></tr></thead>
        <tbody>${page.agents.map((agent) => html`<${Row} key=${agent.agent_id} agent=${agent} />`)}</tbody></table></div>`}
    <nav class="pager" aria-label="Pages of the list">
      ${wanted.cursor ? html`<a href=${href("agents", "", { ...wanted, cursor: "" })}>⇤ First page</a>` : html`<span></span>`}
      <span class="soft number">${page.agents.length ? `${page.agents.length} shown, in the order in which they were requested` : ""}</span>
      ${next ? html`<a href=${href("agents", "", { ...wanted, cursor: next })}>Next page →</a>` : html`<span></span>`}</nav>`;
}
