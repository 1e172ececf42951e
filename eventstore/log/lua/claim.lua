-- Claims spawn commands for the free slots of a worker.
-- ARGV  3 worker id, 4 its epoch, 5 '1': also return the agents in its slots (a reply was lost),
--       6 how many workers may run an isolated agent, 7 the role whose agents have nothing to do
--       before they run ('': none): they are started in the same step, unless they have saved a
--       state, 8 how many agents at most,
--       9 the id of the first event; the ids of the next ones follow it
-- Returns {OK, generation, seq, ts, agents, foreign} with
--       agents = { {agent id, spec or '', {field, value …}, {field, value …} changed since}, … },
--       without fields that had their default
--       foreign = { {entry id, reason, field, value …}, … }
--       An agent whose termination was requested is returned but not claimed: the worker ends it.
--       A foreign entry, which is not Muster's, is deleted and counted in meta.overlooked; the
--       first ten of a claim are returned.
-- Invariant: a worker never has more agents than slots, an isolated agent has all slots of its
-- worker, and every entry that was read is booked, returned for its end, or deleted in the same
-- step: because its agent no longer waits for it or is parked, or because it is foreign.

local worker_id, epoch, isolation_limit = ARGV[3], ARGV[4], tonumber(ARGV[6])
local role = ARGV[7]
local id_start, id_end = string.match(ARGV[9], '^(.-)(%x+)$')
local id_number, id_form = tonumber(id_end, 16), '%0' .. #id_end .. 'x'
local FOREIGN_MAX = 10
local held_key = base .. 'held:' .. worker_id

local worker = worker_of(worker_id)
if is_fenced(worker, tonumber(epoch)) then return reply('FENCED') end

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

local answer = {}
local function add_agent(id, flat, changes)
  local spec = redis.pcall('GET', base .. 'spec:' .. id)
  if type(spec) ~= 'string' then spec = spec and 'not a string' or '' end
  answer[#answer + 1] = { id, spec, flat, changes or {} }
end

local room = math.min(free_slots(worker), tonumber(ARGV[8]))
local booked = {} -- agents
local done_with = {} -- entries, to be deleted

local function append_event(kind, id, agent, cause, data)
  local event_id = id_start .. string.sub(string.format(id_form, id_number), -#id_end)
  id_number = id_number + 1
  append({ kind, 1, event_id, id, agent.incarnation, worker_id, epoch,
    agent.correlation_id or '', cause, '', 'worker:' .. worker_id, data })
  return event_id
end

-- Books a slot for an agent, and starts it if that is all it takes. (What its hash does not have has
-- its default.)
local function book(id, agent, flat)
  booked[#booked + 1] = id
  local version, status, claimed, more = tonumber(agent.version) + 1, 'starting', '1', {}
  local last_event = append_event('agent.claimed', id, agent, agent.last_event_id or '', '{}')
  local claim_seq = number(seq)
  if agent.role_type == role and (agent.state_sha256 or '') == '' then
    local now, well_ms = number(ts), agent.well_ms or '0'
    last_event = append_event('agent.started', id, agent, last_event, '{"at_ms":' .. now .. '}')
    if (agent.command_id or '') ~= '' then done_with[#done_with + 1] = agent.command_id end
    version, status, claimed = version + 1, 'running', ''
    more = { 'has_run', '1', 'well_ms', well_ms == '0' and now or well_ms, 'command_id', '' }
  end
  if agent.expires_ms ~= '0' then
    redis.call('ZREM', base .. 'timeouts', id)
    more[#more + 1], more[#more + 2] = 'expires_ms', '0'
  end
  if agent.reason ~= '' then more[#more + 1], more[#more + 2] = 'reason', '' end
  local changes = { 'status', status, 'process_id', worker_id, 'epoch', epoch, 'version',
    number(version), 'claim_seq', claim_seq, 'last_event_id', last_event, 'claimed', claimed,
    unpack(more) }
  redis.call('HSET', agent_key(id), unpack(changes))
  add_agent(id, flat, changes)
end

-- First an isolated agent, if the worker is empty. It is chosen at random: in a fixed order the
-- last of the agents that were lost together, perhaps the one that killed them, would never be
-- chosen if few workers may run isolated agents.
local function claim_isolated()
  for _ = 1, 100 do
    local id = redis.call('ZRANDMEMBER', base .. 'alone')
    if not id then return end
    local agent, flat, reason = read(id)
    if agent and agent.status == 'pending' and agent.stop == '' then
      redis.call('ZREM', base .. 'alone', id)
      book(id, agent, flat)
      redis.call('HSET', process_key(worker_id), 'alone', id)
      redis.call('HINCRBY', meta_key, 'alone', 1)
      worker.alone = id
      return
    elseif agent and agent.status == 'pending' then
      return add_agent(id, flat)
    end
    redis.call('ZREM', base .. 'alone', id)
    if not agent then park_agent(id, reason) end
  end
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
  if is_current then waiting = waiting - 1 end
  local is_waiting = agent.status == 'pending' and is_current
  if is_waiting and fields.type == 'agent.spawn' and agent.incarnation == fields.incarnation then
    return agent, id, flat
  elseif is_waiting then
    park_agent(id, 'its command is not the one that it waits for')
  end
  return nil
end

local function delete_entries()
  if #done_with == 0 then return end
  redis.call('XACK', commands_key, GROUP, unpack(done_with))
  redis.call('XDEL', commands_key, unpack(done_with))
  done_with = {}
end

local function hold_booked()
  if #booked > 0 then redis.call('SADD', held_key, unpack(booked)) end
  delete_entries()
end

local function claim_queued()
  local rounds, more = 0, true
  while more and #booked < room and rounds < 500 do
    rounds = rounds + 1
    local batch = redis.call('XREADGROUP', 'GROUP', GROUP, worker_id, 'COUNT', room - #booked,
      'STREAMS', commands_key, '>')
    more = batch and batch[1]
    for _, entry in ipairs(more and batch[1][2] or {}) do
      local agent, id, flat = resolve_command(entry)
      if not agent then
        done_with[#done_with + 1] = entry[1]
      elseif agent.stop ~= '' then
        redis.call('HSET', agent_key(id), 'claimed', '1')
        add_agent(id, flat)
      else
        book(id, agent, flat)
      end
    end
    delete_entries()
  end
  if rounds == 500 then push_inbox(worker_id, 'work') end
end

local function claim()
  for _, id in ipairs(ARGV[5] == '1' and redis.call('SMEMBERS', held_key) or {}) do
    local agent, flat = read(id)
    if agent then add_agent(id, flat) end
  end
  if room == worker.slots and room > 0 and worker.count == 0
    and tonumber(redis.call('HGET', meta_key, 'alone') or '0') < isolation_limit then
    claim_isolated()
  end
  if #booked == 0 then claim_queued() end
end

-- (Events that were appended before an error are recorded: the head must not be left behind.)
local done, why = pcall(claim)
local held, refusal = pcall(hold_booked)
if #booked > 0 then
  worker.left, worker.rescored = -#booked, false
  rescore_changed()
end
if #booked > 0 or waiting ~= stored_waiting then write_head() end
if not (done and held) then return redis.error_reply(error_text(why or refusal)) end
if #booked > 0 then wake() end
return reply('OK', answer, foreign)
