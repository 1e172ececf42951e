-- Claims spawn commands for the free slots of a worker.
-- ARGV  3 worker id, 4 its epoch, 5 '1': also return the agents in its slots (a reply was lost),
--       6 how many workers may run an isolated agent, 7 the role whose agents have nothing to do
--       before they run ('': none): they are started in the same step, 8 how many agents at most,
--       9 the id of the first event; the ids of the next ones follow it
-- Returns {OK, generation, seq, ts, agents, foreign} with
--       agents = { {agent id, spec or '', hash …}, … }
--       foreign = { {entry id, reason, field, value …}, … }
--       An agent whose termination was requested is returned but not claimed: the worker ends it.
--       A foreign entry, which is not Muster's, is deleted and counted in meta.overlooked; the
--       first ten of a claim are returned.
-- Invariant: a worker never has more agents than slots, an isolated agent has all slots of its
-- worker, and every entry that was read is booked, returned for its end, or deleted in the same
-- step: because its agent no longer waits for it or is parked, or because it is foreign.

local worker, epoch, isolation_limit = ARGV[3], ARGV[4], tonumber(ARGV[6])
local role = ARGV[7]
local id_start, id_end = string.match(ARGV[9], '^(.-)(%x+)$')
local FOREIGN_MAX = 10
local held_key = base .. 'held:' .. worker

local process = redis.call('HMGET', process_key(worker), 'epoch', 'status', 'max_agents',
  'agent_count', 'alone')
if process[1] ~= epoch or process[2] == 'lost' or process[2] == 'stopped' then
  return reply('FENCED')
end
local slots, count = tonumber(process[3]) or 0, tonumber(process[4] or '0') or 0

-- Reads an agent's hash. Returns it as a table, or nil if it is damaged; as a list of names and
-- values; and what is wrong with it. AGENT_FIELDS, set in front of this text, is what Python can
-- read: an agent that Python cannot read is never booked.
local function read(id)
  local flat = redis.pcall('HGETALL', agent_key(id))
  if flat.err then return nil, {}, 'its key is not a hash' end
  if #flat == 0 then return nil, flat, 'there is no such agent' end
  local hash = {}
  for i = 1, #flat, 2 do hash[flat[i]] = flat[i + 1] end
  for _, field in ipairs(AGENT_FIELDS) do
    local name, value = field[1], hash[field[1]]
    local readable = not value and field.later
    for i = 2, #field do readable = readable or value and string.match(value, field[i]) end
    if not readable then
      local problem = value and 'it has an unreadable field ' or 'its hash has no field '
      return nil, flat, problem .. name
    end
  end
  return hash, flat
end

local answer = {}
local function add_agent(id, flat)
  local spec = redis.pcall('GET', base .. 'spec:' .. id)
  if type(spec) ~= 'string' then spec = spec and 'not a string' or '' end
  answer[#answer + 1] = { id, spec, unpack(flat) }
end

if ARGV[5] == '1' then
  for _, id in ipairs(redis.call('SMEMBERS', held_key)) do
    local agent, flat = read(id)
    if agent then add_agent(id, flat) end
  end
end

local free = 0
if process[2] == 'active' and (process[5] or '') == '' then
  free = slots - count
end
free = math.min(free, tonumber(ARGV[8]))
local booked, ids_used = 0, 0

local function next_id()
  local hex = string.format('%0' .. #id_end .. 'x', tonumber(id_end, 16) + ids_used)
  ids_used = ids_used + 1
  return id_start .. string.sub(hex, -#id_end)
end

local function append_event(kind, id, agent, data)
  local event_id = next_id()
  append({ kind, '1', event_id, id, agent.incarnation, worker, epoch,
    agent.correlation_id or '', agent.last_event_id or '', '', 'worker:' .. worker, data })
  agent.version, agent.last_event_id = number(tonumber(agent.version) + 1), event_id
end

-- Books a slot for an agent, and starts it if that is all it takes. (What its hash does not have,
-- an older version wrote.)
local function book(id, agent, flat)
  booked = booked + 1
  append_event('agent.claimed', id, agent, '{}')
  local changes = { status = 'starting', reason = '', process_id = worker, epoch = epoch,
    claim_seq = number(seq), claimed = '1', expires_ms = '0' }
  if agent.role_type == role then
    append_event('agent.started', id, agent, '{"at_ms":' .. number(ts) .. '}')
    changes.status, changes.has_run = 'running', '1'
    if (agent.well_ms or '0') == '0' then changes.well_ms = number(ts) end
    if (agent.command_id or '') ~= '' then
      redis.call('XACK', commands_key, GROUP, agent.command_id)
      redis.call('XDEL', commands_key, agent.command_id)
    end
    changes.command_id, changes.claimed = '', ''
  end
  write_head()
  changes.version, changes.last_event_id = agent.version, agent.last_event_id
  local fields = {}
  for name, value in pairs(changes) do
    fields[#fields + 1], fields[#fields + 2] = name, value
  end
  redis.call('HSET', agent_key(id), unpack(fields))
  redis.call('SADD', held_key, id)
  redis.call('ZREM', base .. 'timeouts', id)
  for i = 1, #flat, 2 do
    flat[i + 1], changes[flat[i]] = changes[flat[i]] or flat[i + 1], nil
  end
  for name, value in pairs(changes) do
    flat[#flat + 1], flat[#flat + 2] = name, value
  end
  add_agent(id, flat)
end

-- First an isolated agent, if the worker is empty. It is chosen at random: in a fixed order the
-- last of the agents that were lost together, perhaps the one that killed them, would never be
-- chosen if few workers may run isolated agents.
local isolated = tonumber(redis.call('HGET', meta_key, 'alone') or '0')
if free == slots and count == 0 and slots > 0 and isolated < isolation_limit then
  for _ = 1, 100 do
    local id = redis.call('ZRANDMEMBER', base .. 'alone')
    if not id then break end
    local agent, flat, reason = read(id)
    if agent and agent.status == 'pending' and agent.stop == '' then
      redis.call('ZREM', base .. 'alone', id)
      book(id, agent, flat)
      redis.call('HSET', process_key(worker), 'alone', id)
      redis.call('HINCRBY', meta_key, 'alone', 1)
      break
    elseif agent and agent.status == 'pending' then
      add_agent(id, flat)
      break
    end
    redis.call('ZREM', base .. 'alone', id)
    if not agent then park_agent(id, reason) end
  end
end

-- How many commands to subtract from meta.waiting. It counts only those that a step has queued, no
-- foreign entries.
local no_longer_waiting = 0

local foreign = {}
local function drop_foreign(entry, reason)
  redis.call('HINCRBY', meta_key, 'overlooked', 1)
  if #foreign == FOREIGN_MAX then return end
  local found = { entry[1], reason }
  for i = 1, math.min(#entry[2], 20) do found[i + 2] = string.sub(entry[2][i], 1, 200) end
  foreign[#foreign + 1] = found
end

-- A command whose agent cannot be read: parks the agent; if there is none, the command is foreign.
local function park_unreadable(id, entry, flat, reason)
  local command_id = redis.pcall('HGET', agent_key(id), 'command_id')
  local live = redis.call('SISMEMBER', base .. 'agents', id) == 1
  if command_id == entry[1] or (live and type(command_id) ~= 'string') then
    no_longer_waiting = no_longer_waiting + 1
  end
  if live or #flat > 0 then
    park_agent(id, reason)
  else
    drop_foreign(entry, reason)
  end
end

-- The agent that waits for an entry, else nil. (The id of an agent is printable ASCII.)
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
  local is_current = agent.command_id == entry[1]
  if is_current then no_longer_waiting = no_longer_waiting + 1 end
  local is_waiting = agent.status == 'pending' and is_current
  if is_waiting and fields.type == 'agent.spawn' and agent.incarnation == fields.incarnation then
    return agent, id, flat
  elseif is_waiting then
    park_agent(id, 'its command is not the one that it waits for')
  end
  return nil
end

local rounds, more = 0, booked == 0
while more and booked < free and rounds < 500 do
  rounds = rounds + 1
  local batch = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', free - booked,
    'STREAMS', commands_key, '>')
  more = batch and batch[1]
  for _, entry in ipairs(more and batch[1][2] or {}) do
    local agent, id, flat = resolve_command(entry)
    if not agent then
      redis.call('XACK', commands_key, GROUP, entry[1])
      redis.call('XDEL', commands_key, entry[1])
    elseif agent.stop ~= '' then
      redis.call('HSET', agent_key(id), 'claimed', '1')
      add_agent(id, flat)
    else
      book(id, agent, flat)
    end
  end
end
if no_longer_waiting > 0 then redis.call('HINCRBY', meta_key, 'waiting', -no_longer_waiting) end
if rounds == 500 then push_inbox(worker, 'work') end
if booked > 0 then
  redis.call('HINCRBY', process_key(worker), 'agent_count', booked)
  rescore(worker)
  wake()
end
return reply('OK', answer, foreign)
