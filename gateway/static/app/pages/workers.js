// Workers as rows of slots, by pool; each slot is an agent, with its state as colour and letter.
import { html, memo, useEffect, useRef, useState } from "../html.js";
import { count, short, size } from "../format.js";
import { go, href, route } from "../router.js";
import { agents, sections, slotsOf, version, workers } from "../store.js";
import { Ago, Id, State } from "../parts/words.js";

const SLOTS_MAX = 60;
const LETTERS = { busy: "B", idle: "I", running: "R", starting: "S", stopping: "X", free: "", failed: "F" };

function stateOf(agent) {
  return agent.status === "running" ? agent.activity || "running" : agent.status;
}

const Slot = memo(({ agent, first }) => {
  if (!agent) return html`<span class="slot free" aria-hidden="true"></span>`;
  const state = stateOf(agent);
  return html`<a class=${`slot ${state}`} data-agent=${agent.agent_id} href=${href("agent", agent.agent_id)} tabindex=${first ? 0 : -1}
    aria-label=${`${state}, ${agent.role_type}, project ${agent.project_id}, ${short(agent.agent_id)}`}>${LETTERS[state] || "?"}</a>`;
});

function Slots({ id, capacity }) {
  const held = slotsOf(id).use();
  const shown = Math.max(Math.min(capacity, SLOTS_MAX), held.length);
  const firstHeld = held.findIndex(Boolean);
  return Array.from({ length: shown }, (_, at) => html`<${Slot} key=${at} agent=${held[at] || null} first=${at === firstHeld} />`);
}

// Which rows are near the window: only of these the slots are drawn.
const watched = new WeakMap();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) watched.get(entry.target)?.(entry.isIntersecting);
}, { rootMargin: "500px 0px" });

function useNear(place) {
  const [near, setNear] = useState(false);
  useEffect(() => {
    const row = place.current;
    if (!row) return undefined;
    watched.set(row, setNear);
    observer.observe(row);
    return () => observer.unobserve(row);
  }, []);
  return near;
}

const Worker = memo(({ id, state, count: held, capacity }) => {
  const row = useRef(null);
  const near = useNear(row);
  return html`<li ref=${row} class=${`worker ${state}`} id=${`worker-${id}`}>
    <span class="worker-name"><span class="mono" data-worker=${id} tabindex="0">${short(id)}</span>
      ${state === "active" ? null : html`<${State} of=${state} />`}</span>
    <span class="slots" role="group" aria-label=${`Agents of worker ${short(id)}`}>${near && html`<${Slots} id=${id} capacity=${capacity} />`}</span>
    <span class="number soft">${held}/${capacity}</span></li>`;
});

function Pool({ name, list }) {
  const pool = sections.pools?.[name];
  const busy = list.reduce((total, worker) => total + worker.agent_count, 0);
  return html`<section class="worker-pool" aria-labelledby=${`workers-${name}`}>
    <h2 id=${`workers-${name}`}>${name} <span class="soft">${count(list.length, "worker")}, ${count(busy, "agent")}${
      pool ? `, ${Math.round(pool.utilization * 100)} % used` : ""}</span></h2>
    <ul class="workers">${list.map((worker) => html`
      <${Worker} key=${worker.worker_id} id=${worker.worker_id} state=${worker.cordoned ? "cordoned" : worker.status}
        count=${worker.agent_count} capacity=${worker.max_agents} />`)}</ul></section>`;
}

function AgentDetail({ agent }) {
  return html`<b><${State} of=${stateOf(agent)} /></b>
    <dl><dt>agent</dt><dd class="mono">${short(agent.agent_id)}</dd><dt>role</dt><dd>${agent.role_type}</dd>
      <dt>project</dt><dd>${agent.project_id}</dd><dt>incarnation</dt><dd>${agent.incarnation}</dd>
      <dt>running for</dt><dd><${Ago} at=${agent.started_at} /></dd>
      <dt>heartbeat</dt><dd><${Ago} at=${agent.last_heartbeat} none="none yet" /></dd></dl>
    <a href=${href("agent", agent.agent_id)} tabindex="-1">Open →</a>`;
}

function WorkerDetail({ worker }) {
  return html`<b><${State} of=${worker.cordoned ? "cordoned" : worker.status} /></b>
    <dl><dt>worker</dt><dd class="mono">${short(worker.worker_id)}</dd><dt>host</dt><dd>${worker.host}</dd>
      <dt>process</dt><dd>${worker.pid || "none yet"}</dd><dt>running for</dt><dd><${Ago} at=${worker.started_at} /></dd>
      <dt>heartbeat</dt><dd><${Ago} at=${worker.last_heartbeat} none="none yet" /></dd>
      <dt>loop lag</dt><dd>${worker.loop_lag_ms.toFixed(1)} ms</dd><dt>memory</dt><dd>${size(worker.memory_bytes)}</dd>
      ${(worker.cordoned || worker.reason) && html`<dt>reason</dt><dd>${worker.cordoned || worker.reason}</dd>`}</dl>`;
}

// What the pointer, the focus or a touch is on.
function Detail({ on }) {
  version("agents").use();
  version("workers").use();
  const agent = on && agents.get(on.agent);
  const worker = on && workers.get(on.worker);
  if (!agent && !worker) return null;
  const left = Math.max(8, Math.min(on.box.left, window.innerWidth - 268));
  const below = on.box.bottom + 230 < window.innerHeight;
  const place = below ? { left: `${left}px`, top: `${on.box.bottom + 6}px` }
    : { left: `${left}px`, bottom: `${window.innerHeight - on.box.top + 6}px` };
  return html`<div class="detail" role="tooltip" style=${place}>
    ${agent ? html`<${AgentDetail} agent=${agent} />` : html`<${WorkerDetail} worker=${worker} />`}</div>`;
}

function target(event) {
  const found = event.target.closest?.("[data-agent], [data-worker]");
  return found && { agent: found.dataset.agent, worker: found.dataset.worker, box: found.getBoundingClientRect() };
}

// Within a worker the arrows move from slot to slot: each row is one stop of the tab key.
function move(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const row = event.target.closest?.(".slots");
  if (!step || !row) return;
  const all = [...row.querySelectorAll("a")];
  all[(all.indexOf(event.target) + step + all.length) % all.length]?.focus();
  event.preventDefault();
}

export function Workers() {
  version("workers").use();
  version("pools").use();
  const { parameters } = route.use();
  const [on, setOn] = useState(null);
  const only = parameters.get("pool") || "";
  const wanted = parameters.get("worker") || "";
  useEffect(() => {
    document.getElementById(`worker-${wanted}`)?.scrollIntoView({ block: "center" });
  }, [wanted, workers.size > 0]);
  const byPool = new Map();
  for (const worker of workers.values()) {
    if (only && worker.pool_name !== only) continue;
    if (!byPool.has(worker.pool_name)) byPool.set(worker.pool_name, []);
    byPool.get(worker.pool_name).push(worker);
  }
  for (const list of byPool.values()) list.sort((one, other) => (one.worker_id < other.worker_id ? -1 : 1));
  const pools = Object.keys(sections.pools || {}).sort();
  const touch = (event) => {
    const found = target(event);
    if (event.pointerType === "touch" && found?.agent && on?.agent !== found.agent) event.preventDefault();
    setOn(found);
  };
  return html`<div class="title"><h1>Workers</h1>
      <label>Pool <select value=${only} onChange=${(event) => go(href("workers", "", { pool: event.target.value }))}>
        <option value="">all</option>${pools.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></label></div>
    <p class="legend">${["busy", "idle", "running", "starting", "stopping"].map((state) => html`
      <span key=${state}><span class=${`slot ${state}`} aria-hidden="true">${LETTERS[state]}</span>${state === "running" ? "not reported yet" : state}</span>`)}
      <span><span class="slot free" aria-hidden="true"></span>free</span></p>
    ${sections.bounds?.cut_off && html`<p class="notice">There are more workers or agents than are shown.</p>`}
    ${wanted && !workers.has(wanted) && workers.size > 0 && html`<p class="notice">Worker <span class="mono">${wanted}</span> has ended: it is not shown.</p>`}
    <div onPointerOver=${(event) => event.pointerType !== "touch" && setOn(target(event))} onPointerLeave=${() => setOn(null)}
      onFocusIn=${(event) => setOn(target(event))} onFocusOut=${() => setOn(null)} onClick=${touch} onKeyDown=${(event) => {
        if (event.key === "Escape") setOn(null);
        move(event);
      }}>
      ${[...byPool.keys()].sort().map((name) => html`<${Pool} key=${name} name=${name} list=${byPool.get(name)} />`)}</div>
    ${sections.workers && !byPool.size && html`<p class="card soft">No worker runs${only ? ` in ${only}` : ""}. One is started as soon as an agent is asked for.</p>`}
    <${Detail} on=${on} />`;
}
