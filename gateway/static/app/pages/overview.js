// What is wrong first, then how the pools are doing.
import { html, useMemo } from "../html.js";
import { age, count } from "../format.js";
import { href } from "../router.js";
import { now } from "../signal.js";
import { link } from "../live.js";
import { sections, version } from "../store.js";
import { Ago, Bar, Command, Id, Prose, State } from "../parts/words.js";
import { Chart } from "../parts/chart.js";

const AGENT_ID = /^[0-9a-f]{8}-[0-9a-f]{4}-/;
const OF_WORKERS = new Set(["worker-lost", "leases-lost"]);
const FAILURES = new Set(["agent-failed", "failure-rate", "crash-looping"]);
const WAITING = new Set(["pending-too-long", "pool-at-maximum", "role-unavailable"]);

// The page where the cause of an alert is.
function causeOf(alert) {
  if (FAILURES.has(alert.name)) return href("agents", "", { pool_name: alert.pool_name, status: ["failed", "restarting"] });
  if (WAITING.has(alert.name)) return href("agents", "", { pool_name: alert.pool_name, status: "pending" });
  if (alert.pool_name) return href("workers", "", { pool: alert.pool_name });
  return "";
}

function Case({ alert, one }) {
  const isAgent = AGENT_ID.test(one.subject) && !OF_WORKERS.has(alert.name);
  const place = isAgent ? href("agent", one.subject) : href("workers", "", { worker: one.subject });
  return html`<li><${Id} of=${one.subject} href=${place} />
    ${one.text && html`<span class="clip" title=${one.text}>${one.text}</span>`}
    ${one.since ? html`<span class="soft nowrap"><${Ago} at=${one.since} /> ago</span>` : null}</li>`;
}

function Alert({ alert }) {
  const cause = causeOf(alert);
  const cases = alert.newest || [];
  return html`<li class=${`alert ${alert.severity}`}>
    <div class="alert-head"><${State} of=${alert.severity}>${alert.severity}<//>
      <b class="message"><${Prose} text=${alert.message} /></b>
      <span class="soft nowrap">${alert.since ? html`for <${Ago} at=${alert.since} />` : ""}</span></div>
    ${cases.length > 0 && html`<ul class="cases">${cases.map((one) => html`<${Case} key=${one.subject} alert=${alert} one=${one} />`)}</ul>`}
    <p class="soft"><${Prose} text=${alert.action} />${cause && html` <a class="nowrap" href=${cause}>Show ${
      alert.pool_name ? `them in ${alert.pool_name}` : "them"} →</a>`}</p></li>`;
}

function Alerts() {
  version("alerts").use();
  const alerts = Object.values(sections.alerts || {});
  const ranked = alerts.sort((one, other) =>
    (one.severity !== "critical") - (other.severity !== "critical") || (other.since || 0) - (one.since || 0));
  if (!ranked.length) {
    return html`<p class="calm"><span class="shape good" aria-hidden="true">✓</span>Nothing needs attention.</p>`;
  }
  return html`<section aria-labelledby="attention"><h2 id="attention">Needs attention <span class="pill">${ranked.length}</span></h2>
    <ul class="alerts">${ranked.map((alert) => html`<${Alert} key=${alert.name + alert.pool_name + alert.subject} alert=${alert} />`)}</ul></section>`;
}

function Figures({ pools }) {
  const sum = (field) => pools.reduce((total, pool) => total + pool[field], 0);
  const failed = pools.reduce((total, pool) => total + (pool.counts.failed || 0), 0);
  const shown = [
    ["agents", sum("agent_count"), href("agents")],
    ["waiting", sum("pending_count"), href("agents", "", { status: "pending" })],
    ["failed", failed, href("agents", "", { status: "failed" })],
    ["workers", sum("process_count"), href("workers")],
  ];
  return html`<ul class="figures">${shown.map(([name, value, place]) => html`
    <li key=${name} class=${name === "failed" && value ? "bad" : ""}><a href=${place}><b class="number">${value.toLocaleString()}</b>${name}</a></li>`)}
    <li><span><b class="number">${sum("used_capacity").toLocaleString()}<span class="of"> / ${sum("total_capacity").toLocaleString()}</span></b>slots used</span></li></ul>`;
}

const LINES = [
  { label: "slots", ink: "soft", stepped: true, dash: [4, 3] },
  { label: "used", ink: "accent", fill: true, stepped: true },
  { label: "waiting", ink: "warn", stepped: true },
];

const most = (list) => Math.max(...list);

function Hour({ name, hour }) {
  const waits = most(hour.pending) > 0;
  const data = useMemo(() => {
    const times = hour.slots.map((_, at) => hour.until / 1000 - (hour.slots.length - 1 - at) * 60);
    return [times, hour.slots, hour.slots_used, ...(waits ? [hour.pending] : [])];
  }, [hour]);
  const label = `${name}, the last hour: ${most(hour.slots_used)} slots used at most of ${most(hour.slots)}, ` +
    `${most(hour.pending)} agents waiting at most`;
  return html`<${Chart} key=${waits} data=${data} lines=${waits ? LINES : LINES.slice(0, 2)} label=${label} />`;
}

function Waiting({ pool }) {
  const time = now.use();
  if (!pool.pending_count) return null;
  const since = pool.waiting?.since;
  return html`<p class="waiting"><${State} of="pending">${count(pool.pending_count, "agent")} waiting<//>
    ${since ? html`<span class="number nowrap">${age(time - since)}</span>` : null} <span>${pool.waiting?.reason || ""}</span></p>`;
}

function Pool({ name, pool, hour }) {
  const sum = (field) => (hour ? hour[field].reduce((total, n) => total + n, 0) : 0);
  const states = Object.entries(pool.counts).filter(([state]) => state !== "pending");
  const failures = sum("failures") + sum("losses");
  return html`<article class="card pool" aria-labelledby=${`pool-${name}`}>
    <header><h3 id=${`pool-${name}`}><a href=${href("agents", "", { pool_name: name })}>${name}</a></h3>
      <span class="soft">${pool.role_type}</span>
      ${pool.paused && html`<${State} of="paused">paused: ${pool.paused}<//>`}
      ${pool.replacing && html`<${State} of="starting">replacing workers<//>`}</header>
    <div class="use"><${Bar} used=${pool.used_capacity} total=${pool.total_capacity}
      label=${`${pool.used_capacity} of ${pool.total_capacity} slots used`} />
      <span class="number">${pool.used_capacity} / ${pool.total_capacity} slots</span></div>
    <dl class="facts">
      <div><dt>workers</dt><dd class="number">${pool.process_count}<span class="soft"> of ${pool.max_workers}</span></dd></div>
      <div><dt>arrivals, 1 h</dt><dd class="number">${sum("arrivals")}</dd></div>
      <div class=${failures ? "bad" : ""}><dt>failures, 1 h</dt><dd class="number">${failures}</dd></div>
    </dl>
    <${Waiting} pool=${pool} />
    <p class="states">${states.length ? states.map(([state, number]) => html`
      <a key=${state} href=${href("agents", "", { pool_name: name, status: state })}><${State} of=${state}>${number} ${state}<//></a>`)
      : html`<span class="soft">no agents</span>`}</p>
    ${hour && html`<${Hour} name=${name} hour=${hour} />`}
  </article>`;
}

function First({ pool }) {
  const name = pool || "developer_pool";
  return html`<section class="card first"><h2>${pool ? "No agents yet" : "No pools yet"}</h2>
    ${pool ? html`<p>The pool <b>${name}</b> is ready. Ask for its first agent:</p>`
      : html`<p>A pool runs agents of one role. Declare one in <code>muster.toml</code> and start <code>muster up</code> again, or create it now:</p>
        <${Command} text=${`curl ${location.origin}/api/v1/agents/pools -H 'Content-Type: application/json' -d '{"pool_name": "${name}", "role_type": "developer"}'`} /><p>Then ask for an agent:</p>`}
    <${Command} text=${`muster spawn ${name} --project demo`} />
    <p class="soft">It starts within a second on a worker of its pool and appears here by itself.
      ${" "}The <a href="/docs">API</a> does the same for programs.</p></section>`;
}

export function Overview() {
  version("pools").use();
  version("hour").use();
  const { state } = link.use();
  const names = Object.keys(sections.pools || {}).sort();
  const pools = names.map((name) => sections.pools[name]);
  const lives = pools.some((pool) => pool.agent_count || Object.keys(pool.counts).length);
  if (state === "refused") {
    return html`<h1>Overview</h1><p class="card">Your token is for some projects only: it sees their <a href=${href("agents")}>agents</a>, and
      nothing of the pools that these are in.</p>`;
  }
  if (!sections.pools) return html`<h1>Overview</h1><p class="soft">Waiting for the first picture…</p>`;
  return html`<h1>Overview</h1>
    <${Alerts} />
    <${Figures} pools=${pools} />
    ${!lives && html`<${First} pool=${names[0]} />`}
    ${names.length > 0 && html`<section aria-labelledby="pools"><h2 id="pools">Pools <span class="pill">${names.length}</span></h2>
    <div class="pools">${names.map((name) => html`
      <${Pool} key=${name} name=${name} pool=${sections.pools[name]} hour=${sections.hour?.[name]} />`)}</div></section>`}`;
}
