// The picture of the system that the live feed sends, and what is derived from it.
//
// `sections` has the entries as they are sent, by section and name. Agents and workers are lists of
// values there; here they are objects, made once when they change. An object that has not changed
// stays the same object, so that what draws it need not be drawn again.
import { Signal } from "./signal.js";

export const sections = {};
export const agents = new Map(); // by id
export const workers = new Map();

// By worker: a signal of its agents, null where one has left; what draws a worker follows its own.
const slots = new Map();
export function slotsOf(worker) {
  if (!slots.has(worker)) slots.set(worker, new Signal([]));
  return slots.get(worker);
}

// Changes with each message that changed something of a section.
const versions = new Map();
export function version(name) {
  if (!versions.has(name)) versions.set(name, new Signal(0));
  return versions.get(name);
}

// Applies a message of the feed.
export function apply(kind, content) {
  const changes = content.sections || {};
  if (kind === "picture") {
    for (const [name, entries] of Object.entries(sections)) {
      const gone = Object.keys(entries).filter((key) => !(key in (changes[name] || {})));
      if (gone.length) changes[name] = { ...changes[name], ...Object.fromEntries(gone.map((key) => [key, null])) };
    }
  }
  const names = Object.keys(changes).sort((one) => (one === "names" ? -1 : 0));
  for (const name of names) {
    const entries = (sections[name] ??= {});
    for (const [key, entry] of Object.entries(changes[name])) {
      if (entry === null) delete entries[key];
      else entries[key] = entry;
    }
    if (name === "agents") update(agents, name, changes[name], place);
    if (name === "workers") update(workers, name, changes[name], (before, after) => after || slots.delete(before?.worker_id));
  }
  for (const name of names) version(name).value += 1;
}

function update(map, section, changes, onChange) {
  const names = sections.names[section];
  for (const [key, entry] of Object.entries(changes)) {
    const before = map.get(key);
    const after = entry && Object.fromEntries(names.map((name, at) => [name, entry[at]]));
    if (after) map.set(key, after);
    else map.delete(key);
    onChange(before, after);
  }
}

// An agent keeps its slot for as long as it is on its worker.
function place(before, after) {
  const held = after && after.process_id;
  if (before?.process_id && before.process_id !== held) replace(before.process_id, before.agent_id, null);
  if (held) replace(held, after.agent_id, after);
}

function replace(worker, agentId, agent) {
  const list = [...slotsOf(worker).value];
  let at = list.findIndex((one) => one?.agent_id === agentId);
  if (at < 0) at = list.indexOf(null);
  if (at < 0) at = list.length;
  list[at] = agent;
  while (list.length && list.at(-1) === null) list.pop();
  slotsOf(worker).value = list;
  if (!list.length && !workers.has(worker)) slots.delete(worker);
}
