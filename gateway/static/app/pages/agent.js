// One agent: how it is, what went wrong last, its life with causes, and what one may do with it.
import { html, useEffect, useState } from "../html.js";
import { get, request } from "../api.js";
import { age, clock, count, dateTime, short, size } from "../format.js";
import { href, route } from "../router.js";
import { may, session } from "../session.js";
import { agents as living, version } from "../store.js";
import { Confirm } from "../parts/confirm.js";
import { Ago, Copy, Failure, Id, Prose, State } from "../parts/words.js";

const LINES_MAX = 200;
const ENDED = ["failed", "terminated"];

// The agent and its explanation, read again when the live feed says that it has changed.
function useAgent(id) {
  version("agents").use();
  const live = living.get(id);
  const changed = live ? `${live.status} ${live.incarnation} ${live.process_id} ${live.activity}` : "not alive";
  const [found, setFound] = useState({ id: "", agent: null, life: null, problem: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    const path = `/api/v1/agents/${encodeURIComponent(id)}`;
    Promise.all([get(path, { signal: stop.signal }), get(`${path}/explain?limit=${LINES_MAX}`, { signal: stop.signal })])
      .then(([agent, life]) => setFound({ id, agent, life, problem: null }))
      .catch((problem) => problem.name !== "AbortError" && setFound((old) => ({ ...old, id, problem })));
    return () => stop.abort();
  }, [id, changed, turn]);
  useEffect(() => {
    const timer = setInterval(() => setTurn((n) => n + 1), 10000);
    return () => clearInterval(timer);
  }, [id]);
  return { ...found, live, again: () => setTurn((n) => n + 1), loading: found.id !== id };
}

function Facts({ agent, live }) {
  const heartbeat = Math.max(live?.last_heartbeat || 0, agent.last_heartbeat || 0);
  const labels = Object.entries(agent.labels);
  const facts = [
    ["Pool", html`<a href=${href("agents", "", { pool_name: agent.pool_name })}>${agent.pool_name}</a>`],
    ["Project", html`<a href=${href("agents", "", { project_id: agent.project_id })}>${agent.project_id}</a>`],
    ["Role", agent.role_type],
    ["Worker", agent.process_id ? html`<${Id} of=${agent.process_id} href=${href("workers", "", { worker: agent.process_id })} />` : "none"],
    ["Incarnation", agent.incarnation],
    ["Requested", html`<${Ago} at=${agent.created_at} /> ago`],
    ["Started", agent.started_at ? html`<${Ago} at=${agent.started_at} /> ago` : "not yet"],
    agent.ended_at ? ["Ended", html`<${Ago} at=${agent.ended_at} /> ago`]
      : ["Heartbeat", heartbeat ? html`<${Ago} at=${heartbeat} /> ago` : "none yet"],
    ["Failures in a row", agent.failures],
    ["Saved state", agent.saved_at ? html`${size(agent.state_size)}, <${Ago} at=${agent.saved_at} /> old` : "none"],
    ["Labels", labels.length ? labels.map(([name, value]) => html`<a key=${name} class="label" href=${href("agents", "", { label: `${name}:${value}` })}>${name}: ${value}</a>`) : "none"],
  ];
  return html`<dl class="card fact-list">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function LastError({ agent }) {
  const error = agent.last_error;
  if (!error) return null;
  return html`<section class="card" aria-labelledby="error"><h2 id="error">Last error</h2>
    <p class="error"><b>${error.type}</b>: ${error.message}</p>
    ${error.traceback && html`<pre tabindex="0" aria-label="Stack trace">${error.traceback}</pre>`}
    ${error.traceback && html`<${Copy} text=${error.traceback}>copy the stack trace<//>`}</section>`;
}

// Who wrote an event, with the end of an id only.
function by(actor) {
  const [kind, id] = actor.split(/:(.*)/s);
  return id ? ` by ${kind} ${short(id)}` : actor && ` by ${actor}`;
}

// The cause is said where it is not the event right before.
function Line({ line, before }) {
  const cause = line.cause?.event === before?.event ? null : line.cause;
  const failed = line.type.endsWith(".failed") || line.type.endsWith(".lost");
  return html`<li class=${failed ? "failed" : ""}>
    <time class="number soft" title=${dateTime(line.ts)}>${clock(line.ts)}</time>
    <div><span><${Prose} text=${line.text} /></span>
      ${cause && html`<div class="cause soft"><span aria-hidden="true">↳ </span>because: <${Prose} text=${cause.text || cause.type || "an event that is not near"} />${
        cause.ts && line.ts - cause.ts > 1000 ? `, ${age(line.ts - cause.ts)} before` : ""}</div>`}
      <div class="event mono soft">${line.type} · <span title=${line.event}>${line.position}</span>${by(line.actor)}</div></div></li>`;
}

function Life({ life }) {
  const lines = [...life.lines].reverse();
  return html`<section class="card" aria-labelledby="life"><h2 id="life">Life</h2>
    <ol class="timeline">${lines.map((line, at) => html`<${Line} key=${line.event} line=${line} before=${lines[at + 1]} />
      ${life.left_out > 0 && at === lines.length - 2 && html`<li class="soft">… ${count(life.left_out, "event")} between …</li>`}`)}</ol></section>`;
}

function outcome(status, agent) {
  const where = agent.process_id ? ` on worker ${short(agent.process_id)}` : "";
  const accepted = status === 202 ? " It is accepted and goes on." : "";
  return `It is ${agent.status}, incarnation ${agent.incarnation}${where}.${accepted}`;
}

const wait = { Prefer: "wait=10" };

function restartOf(agent) {
  const touches = [
    ENDED.includes(agent.status) || agent.status === "restarting"
      ? `Incarnation ${agent.incarnation + 1} starts at once${agent.status === "restarting" ? ", without waiting for its back-off" : ""}.`
      : `Incarnation ${agent.incarnation}${agent.process_id ? ` on worker ${short(agent.process_id)}` : ""} is stopped in good order, then the next one starts.`,
    agent.saved_at ? `What it saved last (${size(agent.state_size)}) is restored; what it did since is lost.`
      : "It has saved nothing: it starts from its input.",
    "No other agent is touched.",
  ];
  const act = async (reason) => {
    const path = `/api/v1/agents/${agent.agent_id}/restart?pool_name=${agent.pool_name}`;
    const { status, content } = await request("POST", path, { body: reason ? { reason } : {}, headers: wait });
    return outcome(status, content);
  };
  return { title: `Restart agent ${short(agent.agent_id)}?`, verb: "Restart", asksReason: true, touches, act };
}

function terminationOf(agent) {
  const touches = [
    `Agent ${short(agent.agent_id)} of project ${agent.project_id} ends${agent.process_id ? ` on worker ${short(agent.process_id)}` : ""} and never runs again.`,
    agent.process_id ? "Its stop method runs first, within the pool's grace time." : "It holds no slot: it ends at once.",
    "Its history stays; no other agent is touched.",
  ];
  const act = async () => {
    const path = `/api/v1/agents/${agent.agent_id}?pool_name=${agent.pool_name}`;
    const { status, content } = await request("DELETE", path, { headers: wait });
    return outcome(status, content);
  };
  return { title: `Terminate agent ${short(agent.agent_id)}?`, verb: "Terminate", danger: true, touches, act };
}

// Only what applies to the agent as it is, and what the reader's token allows.
function Actions({ agent, again }) {
  session.use();
  const [chosen, setChosen] = useState(null);
  const restarts = may("operate") && agent.status !== "terminated";
  const ends = may("spawn") && !ENDED.includes(agent.status);
  if (!restarts && !ends) return null;
  const close = () => {
    setChosen(null);
    again();
  };
  return html`<p class="buttons">
    ${restarts && html`<button type="button" class="quiet" onClick=${() => setChosen(restartOf(agent))}>Restart…</button>`}
    ${ends && html`<button type="button" class="quiet danger" onClick=${() => setChosen(terminationOf(agent))}>Terminate…</button>`}
    ${chosen && html`<${Confirm} ...${chosen} onClose=${close} />`}</p>`;
}

export function Agent() {
  const { name } = route.use();
  const { agent, life, problem, live, loading, again } = useAgent(name);
  if (problem?.status === 404) {
    return html`<h1>No such agent</h1><p class="card">There is no agent <span class="mono">${name}</span>, or your token may not see it.
      <a href=${href("agents")}>All agents</a></p>`;
  }
  if (!agent || loading) return html`<h1>Agent <span class="mono">${short(name)}</span></h1>${problem && html`<${Failure} problem=${problem} />`}`;
  return html`<p class="path"><a href=${href("agents")}>Agents</a> / <a href=${href("agents", "", { pool_name: agent.pool_name })}>${agent.pool_name}</a></p>
    <div class="title"><h1><${State} of=${agent.status} /> <span class="mono id">${agent.agent_id}</span> <${Copy} text=${agent.agent_id} /></h1>
      <${Actions} agent=${agent} again=${again} /></div>
    ${problem && html`<${Failure} problem=${problem} />`}
    <p class="now"><${Prose} text=${life.now} /></p>
    <div class="agent-page"><div class="main">
      <${LastError} agent=${agent} /><${Life} life=${life} /></div>
      <aside aria-label="Facts"><${Facts} agent=${agent} live=${live} />
      ${agent.input && Object.keys(agent.input).length > 0 && html`<details class="card"><summary>Input</summary><pre tabindex="0">${JSON.stringify(agent.input, null, 2)}</pre></details>`}</aside></div>`;
}
