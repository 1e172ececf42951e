// The dashboard: everything in one request, again whenever the log grows.
"use strict";

const EVENTS_SHOWN = 100;
const CALM_MS = 250; // however fast the log grows, the page is drawn no more often
const QUIET_MS = 5000; // heartbeats are not in the log: draw again without an event
const byId = (id) => document.getElementById(id);
const time = (ms) => new Date(ms).toLocaleTimeString();
let scheduled = null;
let asOf = null; // the point in time that is shown, in ms; null: now

function setState(text, kind) {
  if (asOf !== null) return; // the state of the live log does not matter then
  byId("state").textContent = text;
  byId("state").className = `state ${kind}`;
}

function drawFigures(pools) {
  const sum = (field) => pools.reduce((total, pool) => total + pool[field], 0);
  const used = sum("used_capacity");
  const total = sum("total_capacity");
  const shown = [
    ["agents", sum("agent_count")],
    ["waiting", sum("pending_count")],
    ["workers", sum("process_count")],
    ["slots used", `${used} / ${total}`],
  ];
  byId("figures").replaceChildren(
    ...shown.map(([name, value]) =>
      element("div", {}, element("b", {}, String(value)), element("span", { class: "soft" }, name))),
  );
}

function drawWorker(worker) {
  const title = `${worker.worker_id}\n${worker.status}, pid ${worker.pid} on ${worker.host}\n` +
    `${worker.agent_count} of ${worker.max_agents} slots${worker.cordoned ? `, cordoned: ${worker.cordoned}` : ""}`;
  const busy = worker.status === "requested" ? "starting" : worker.status === "draining" ? "stopping" : "running";
  const slots = Array.from({ length: Math.min(worker.max_agents, 60) }, (_, n) =>
    element("span", { class: `slot ${n < worker.agent_count ? busy : ""}` }));
  return element("div", { class: `worker ${worker.cordoned ? "cordoned" : worker.status}`, title }, ...slots);
}

function drawPool(pool, workers, counts) {
  const states = Object.entries(counts || {}).map(([state, n]) => `${n} ${state}`).join(", ");
  return element("div", { class: "pool" },
    element("div", {},
      element("div", { class: "name" }, pool.pool_name),
      element("div", { class: "soft" }, `${pool.role_type} · ${Math.round(pool.utilization * 100)}% used`),
      element("div", { class: "soft" }, states || "no agents")),
    element("div", { class: "workers" }, ...workers.map(drawWorker)));
}

function drawAlerts(alerts) {
  byId("alerts-card").hidden = alerts.length === 0;
  byId("alerts").replaceChildren(...alerts.map((alert) =>
    element("div", { class: `alert ${alert.severity}` },
      element("div", {}, alert.message),
      element("div", { class: "soft" }, `${alert.since ? `${time(alert.since)} · ` : ""}${alert.action}`))));
}

function drawDecisions(decisions) {
  byId("decisions").replaceChildren(...decisions.map((event) => {
    const made = JSON.parse(event.data);
    const held = made.limit ? `; ${made.wanted} called for, held back by ${made.limit}` : "";
    const text = `${event.pool}: ${made.current} → ${made.desired} workers (${made.reason}${held}; ` +
      `${made.pending} pending, ${made.running} running, ${made.free} free)`;
    return element("li", {}, element("time", {}, time(event.ts)), text);
  }));
}

// Pools and workers as they were; alerts, events and decisions still show the present.
async function drawPast(ms) {
  const say = (text, kind) => {
    byId("state").textContent = text;
    byId("state").className = `state ${kind}`;
  };
  try {
    const [{ pools }, { workers }] = await Promise.all(
      ["pools", "workers"].map((what) => ask.json(`/api/v1/agents/${what}?as_of=${ms}`)));
    if (asOf !== ms) return; // another one was chosen meanwhile
    drawFigures(pools);
    byId("pools").replaceChildren(...pools.map((pool) =>
      drawPool(pool, workers.filter((w) => w.pool_name === pool.pool_name), pool.agent_count && {
        [pool.agent_count === 1 ? "agent" : "agents"]: pool.agent_count, pending: pool.pending_count })));
    say(`as of ${new Date(ms).toLocaleString()}`, "");
  } catch (error) {
    if (error instanceof ask.Unauthorized) byId("gate").hidden = false;
    else if (asOf === ms) say("that point in time cannot be shown", "lost");
  }
}

async function draw() {
  scheduled = null;
  if (asOf !== null) return drawPast(asOf);
  try {
    const all = await ask.json("/api/v1/agents/monitor/dashboard");
    if (asOf !== null) return;
    byId("version").textContent = all.version;
    byId("gate").hidden = true;
    byId("fallback").textContent = all.fallback;
    byId("fallback").hidden = !all.fallback;
    drawFigures(all.pools);
    byId("pools").replaceChildren(...all.pools.map((pool) =>
      drawPool(pool, all.workers.filter((w) => w.pool_name === pool.pool_name), all.agents[pool.pool_name])));
    drawAlerts(all.alerts);
    drawDecisions(all.decisions);
    if (!byId("events").children.length) {
      for (const event of all.events.reverse()) addEvent({ ...event, data: JSON.parse(event.data) });
    }
  } catch (error) {
    if (error instanceof ask.Unauthorized) byId("gate").hidden = false;
    else setState("no answer; trying again", "lost");
  }
}

function drawSoon() {
  if (asOf === null) scheduled ??= setTimeout(draw, CALM_MS);
}

function addEvent(event) {
  const about = event.subject.length > 12 ? `…${event.subject.slice(-8)}` : event.subject;
  const reason = event.data.reason ? ` (${event.data.reason})` : "";
  byId("events").prepend(element("li", { title: `${event.pool}:${event.seq} ${event.subject}` },
    element("time", {}, time(event.ts)),
    element("span", {}, `${event.type}${reason} `, element("span", { class: "soft mono" }, about))));
  while (byId("events").children.length > EVENTS_SHOWN) byId("events").lastChild.remove();
}

// EventSource cannot send a token, so the stream is read with fetch.
async function follow() {
  let last = "";
  for (;;) {
    try {
      const response = await ask.response("/api/v1/events", { headers: last ? { "Last-Event-ID": last } : {} });
      setState("live", "live");
      drawSoon();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const messages = (rest + value).split("\n\n");
        rest = messages.pop();
        for (const message of messages) {
          for (const line of message.split("\n")) {
            if (line.startsWith("id: ")) last = line.slice(4);
            if (line.startsWith("data: ")) addEvent(JSON.parse(line.slice(6)));
          }
        }
        drawSoon();
      }
    } catch (error) {
      if (error instanceof ask.Unauthorized) {
        byId("gate").hidden = false;
        setState("a token is needed", "lost");
        return;
      }
    }
    setState("no answer; trying again", "lost");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("muster-token", byId("token").value);
  drawSoon();
  follow();
});
function showAsOf(ms) {
  asOf = ms;
  byId("now").hidden = ms === null;
  if (ms === null) {
    byId("as-of").value = "";
    setState("live", "live");
  }
  draw();
}

byId("as-of").addEventListener("change", () => {
  const ms = new Date(byId("as-of").value).getTime();
  showAsOf(Number.isNaN(ms) ? null : ms);
});
byId("now").addEventListener("click", () => showAsOf(null));
byId("past").addEventListener("submit", (event) => event.preventDefault());
draw();
follow();
setInterval(drawSoon, QUIET_MS);
