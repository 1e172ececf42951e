-- Shared by `claim` and `place`, after the prelude: reading what waits, and booking slots.
--
-- Invariant: every entry that was read is booked, left pending for an agent that waits, or deleted
-- in the same step: because its agent no longer waits for it or is parked, or because it is foreign.

local FOREIGN_MAX = 10
local id_start, id_form, id_digits, id_number

-- The id of the first event that the script appends; the ids of the next ones follow it.
local function number_events_from(first_id)
  local start, digits = string.match(first_id, '^(.-)(%x+)$')
  id_start, id_digits, id_number = start, #digits, tonumber(digits, 16)
  id_form = '%0' .. id_digits .. 'x'
end

-- Reads an agent's hash. Returns it as a table, or nil if it is damaged; as a list of the names and
-- values that differ from the default; and what is wrong with it. `unreadable_field`, set in front of
-- this text, knows what Python can read: an agent that Python cannot read is never booked.
local function read(id)
  local flat = redis.pcall('HGETALL', agent_key(id))
  if flat.err then return nil, {}, 'its key is not a hash' end
  if #flat == 0 then return nil, flat, 'there is no such agent' end
  local hash = {}
  for i = 1, #flat, 2 do hash[flat[i]] = flat[i + 1] end
  local differing = {}
  local name = unreadable_field(hash, differing)
  if not name then return hash, differing end
  local problem = hash[name] and 'it has an unreadable field ' or 'its hash has no field '
  return nil, flat, problem .. name
end

local function append_event(kind, id, agent, holder, cause, data)
  local event_id = id_start .. string.sub(string.format(id_form, id_number), -id_digits)
  id_number = id_number + 1
  append({ kind, 1, event_id, id, agent.incarnation, holder.id, holder.epoch,
    agent.correlation_id or '', cause, '', holder.actor, data })
  return event_id
end

local done_with = {} -- entries, to be deleted

-- Whether an agent is of the role whose agents have nothing to do before they run. What has saved a
-- state is to be given that first.
local function starts_at_once(agent, role)
  return agent.role_type == role and (agent.state_sha256 or '') == ''
end

-- Starts an agent that has nothing to do before it runs. Returns what changes.
local function start_at_once(id, agent, holder, last_event, version)
  local now, well_ms = number(ts), agent.well_ms or '0'
  last_event = append_event('agent.started', id, agent, holder, last_event,
    '{"at_ms":' .. now .. '}')
  if (agent.command_id or '') ~= '' then done_with[#done_with + 1] = agent.command_id end
  return { 'status', 'running', 'version', number(version + 1), 'last_event_id', last_event,
    'claimed', '', 'has_run', '1', 'well_ms', well_ms == '0' and now or well_ms, 'command_id', '' }
end

-- Books a slot of a worker for an agent, and starts it if it is of the role `starts`. Returns what
-- changes. (What its hash does not have has its default.) `holder`: id, epoch and actor, and the
-- data of agent.claimed if it has any. The caller adds the agent to the worker's slots.
local function book(id, agent, holder, starts)
  local version = tonumber(agent.version) + 1
  local last_event = append_event('agent.claimed', id, agent, holder, agent.last_event_id or '',
    holder.data or '{}')
  local changes = { 'status', 'starting', 'version', number(version), 'last_event_id', last_event,
    'claimed', '1' }
  local claim_seq = number(seq)
  if starts_at_once(agent, starts) then
    changes = start_at_once(id, agent, holder, last_event, version)
  end
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3] = 'process_id', holder.id, 'epoch'
  changes[n + 4], changes[n + 5], changes[n + 6] = holder.epoch, 'claim_seq', claim_seq
  if agent.expires_ms ~= '0' then
    redis.call('ZREM', base .. 'timeouts', id)
    changes[#changes + 1], changes[#changes + 2] = 'expires_ms', '0'
  end
  if agent.reason ~= '' then changes[#changes + 1], changes[#changes + 2] = 'reason', '' end
  redis.call('HSET', agent_key(id), unpack(changes))
  return changes
end

local foreign = {}
local function drop_foreign(entry, reason)
  redis.call('HINCRBY', meta_key, 'overlooked', 1)
  if #foreign == FOREIGN_MAX then return end
  local found = { entry[1], reason }
  for i = 1, math.min(#entry[2], 20) do found[i + 2] = string.sub(entry[2][i], 1, 200) end
  foreign[#foreign + 1] = found
end

-- A command whose agent cannot be read: parks the agent; if there is none, the command is foreign.
-- (`waiting` counts only commands that a step has queued.)
local function park_unreadable(id, entry, flat, reason)
  local command_id = redis.pcall('HGET', agent_key(id), 'command_id')
  local live = redis.call('SISMEMBER', base .. 'agents', id) == 1
  if command_id == entry[1] or (live and type(command_id) ~= 'string') then
    waiting = waiting - 1
  end
  if live or #flat > 0 then
    park_agent(id, reason)
  else
    drop_foreign(entry, reason)
  end
end

-- The agent that waits for an entry, which `waiting` counts; else nil: the entry is done with.
-- (The id of an agent is printable ASCII.)
local function resolve_command(entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  local id = fields.agent_id
  if not string.match(id or '', '^[!-~]+$') then
    drop_foreign(entry, 'it is not a spawn command')
    return nil
  end
  local agent, flat, reason = read(id)
  if not agent then
    park_unreadable(id, entry, flat, reason)
    return nil
  end
  if agent.command_id ~= entry[1] then return nil end
  if agent.status == 'pending' then
    if fields.type == 'agent.spawn' and agent.incarnation == fields.incarnation then
      return agent, id, flat
    end
    park_agent(id, 'its command is not the one that it waits for')
  end
  waiting = waiting - 1
  return nil
end

local function delete_entries()
  if #done_with == 0 then return end
  redis.call('XACK', commands_key, GROUP, unpack(done_with))
  redis.call('XDEL', commands_key, unpack(done_with))
  done_with = {}
end
