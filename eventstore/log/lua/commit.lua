-- Commits steps, one after the other: checks that the state that a step was decided on is unchanged,
-- then writes all of it.
-- ARGV  3… for each step the MessagePack of {checks, writes}: each clause is an array of a
--       function's name, below, and its arguments.
--       eventstore/steps/clauses.py describes each clause and the refusal of each check.
-- Returns {OK, generation, seq, ts, {the reply to each step}}; that to a step which was written is
--       {OK, seq, stream id of its last event ('' if it has none)}; to one that was refused
--       {status, seq, …}.
-- Invariant: either all writes of a step are made, or none.

local function refuse(status, ...) return { status, seq, ... } end

local HOUR_MS = 3600000
local isolated -- how many isolated agents wait; nil: it is to be asked

local checks = {}

function checks.WorkerActs(id, epoch, lost)
  local worker = worker_of(id)
  if worker.epoch ~= epoch or (worker.status == 'lost') ~= lost or worker.status == 'stopped' then
    return refuse('FENCED')
  end
end

function checks.AgentUnchanged(id, version, incarnation)
  local found = redis.call('HMGET', agent_key(id), 'version', 'incarnation')
  if tonumber(found[1] or 0) == version then return end
  if found[2] and tonumber(found[2]) ~= incarnation then return refuse('FENCED') end
  return refuse('CONFLICT')
end

-- (A version that cannot be read counts as 0.)
function checks.WorkerUnchanged(id, version)
  local found = redis.pcall('HGET', process_key(id), 'version')
  if type(found) ~= 'string' or not string.match(found, '^%d+$') then found = '0' end
  if tonumber(found) ~= version then return refuse('CONFLICT') end
end

function checks.LeaseNotRenewed(id, renewal)
  if tonumber(redis.call('HGET', process_key(id), 'renewal') or 0) ~= renewal then
    return refuse('CONFLICT')
  end
end

function checks.WorkerIdle(id, nothing_pending)
  if redis.call('SCARD', base .. 'held:' .. id) > 0
    or (nothing_pending and #redis.call('XPENDING', commands_key, GROUP, '-', '+', 1, id) > 0) then
    return refuse('CONFLICT')
  end
end

function checks.Leads(host, term)
  local leader = redis.call('HMGET', base .. 'leader', 'host', 'term')
  if leader[1] ~= host or tonumber(leader[2]) ~= term then return refuse('FENCED') end
end

function checks.MetaIs(field, value)
  if type(value) == 'number' then value = number(value) end
  if (redis.call('HGET', meta_key, field) or '') ~= value then return refuse('CONFLICT') end
end

function checks.PoolVacant()
  if redis.call('SCARD', base .. 'agents') > 0 then return refuse('CONFLICT') end
end

function checks.PoolIs(created, takes_spawns)
  if takes_spawns then
    if stored.closed == created then return refuse('CLOSED') end
  elseif (stored.created or 0) > created then
    return refuse('FENCED')
  end
end

function checks.BacklogBelow(limit)
  isolated = isolated or redis.call('ZCARD', base .. 'alone')
  local backlog = waiting + isolated
  if backlog >= limit then return refuse('FULL', backlog) end
end

function checks.OperationNew(id)
  local known = redis.call('HMGET', base .. 'operation:' .. id, 'digest', 'answer', 'seq')
  if known[1] then return refuse('KNOWN', known[1], known[2], known[3] or '0') end
end

function checks.IsParked(id)
  if redis.call('HEXISTS', base .. 'parked', id) == 0 then return refuse('CONFLICT') end
end

local writes = {}
local function state_key(id) return prefix .. 'state:' .. tag .. ':' .. id end

function writes.AppendEvent(values) append(values) end

-- Removes an agent from the queue: its command is acknowledged and deleted. Returns its command_id
-- from then on: '', or nil if it had none.
local function leave_queue(id)
  local entry = redis.call('HMGET', agent_key(id), 'command_id', 'claimed')
  if not entry[1] or entry[1] == '' then
    redis.call('ZREM', base .. 'alone', id)
    isolated = nil
    return nil
  end
  redis.call('XACK', commands_key, GROUP, entry[1])
  if redis.call('XDEL', commands_key, entry[1]) == 1 and entry[2] ~= '1' then
    waiting = waiting - 1
  end
  return ''
end

-- Adds an agent to what waits for workers. Returns the id of its command, '' if it needs none.
local function enter_queue(id, incarnation, reason)
  if incarnation == 0 then
    redis.call('ZADD', base .. 'alone', ts, id)
    isolated = nil
    return ''
  end
  local entry = redis.call('XADD', commands_key, stamp,
    'type', 'agent.spawn', 'agent_id', id, 'incarnation', incarnation, 'reason', reason)
  waiting = waiting + 1
  return entry
end

local wrote, wakes = false, false -- whether any step did; workers are woken once, for all steps

function writes.PutAgent(id, fields, leaves, enters, listed, ended_ms, replace)
  local command
  if replace then redis.call('DEL', agent_key(id)) end
  if listed then redis.call('SADD', base .. 'agents', id) end
  if leaves then
    if leaves[1] then command = leave_queue(id) end
    if leaves[2] ~= '' then vacate(id, leaves[2]) end
    if leaves[3] then redis.call('ZREM', base .. 'due', id) end
    if leaves[4] then redis.call('ZREM', base .. 'timeouts', id) end
    if leaves[5] ~= '' then
      end_isolation(leaves[5])
      wakes = true
    end
  end
  if enters then
    if enters[1] ~= 0 or enters[3] then
      command, wakes = enter_queue(id, enters[1], enters[2]), true
    end
    if enters[4] ~= 0 then redis.call('ZADD', base .. 'timeouts', enters[4], id) end
    if enters[5] ~= 0 then redis.call('ZADD', base .. 'due', enters[5], id) end
  end
  if command then
    for _, text in ipairs({ 'command_id', command, 'claimed', '' }) do fields[#fields + 1] = text end
  end
  if #fields > 0 then redis.call('HSET', agent_key(id), unpack(fields)) end
  if ended_ms ~= 0 then
    redis.call('SREM', base .. 'agents', id)
    redis.call('PEXPIRE', agent_key(id), ended_ms)
    redis.call('DEL', base .. 'spec:' .. id)
  end
end

function writes.PutSpec(id, spec) redis.call('SET', base .. 'spec:' .. id, spec) end

function writes.PutState(id, state) redis.call('SET', state_key(id), state) end

function writes.DropState(id, after_ms)
  if after_ms == 0 then redis.call('DEL', state_key(id))
  else redis.call('PEXPIRE', state_key(id), after_ms) end
end

-- Replaces a worker's unreadable hash; its counters are derived from its slots.
local function recount(id)
  local held, isolated = redis.call('SMEMBERS', base .. 'held:' .. id), ''
  for _, agent in ipairs(held) do
    if redis.pcall('HGET', agent_key(agent), 'alone') == '1' then isolated = agent end
  end
  redis.call('DEL', process_key(id))
  redis.call('HSET', process_key(id), 'agent_count', #held, 'alone', isolated,
    'renewal', '0', 'last_heartbeat', ts)
end

-- (All free slots are added up: a name that another program listed was not counted.)
local function delist(id)
  local processes = base .. 'processes'
  redis.call('HDEL', base .. 'stalled', id)
  if redis.call('ZREM', processes, id) == 0 then return end
  local scores = redis.call('ZRANGE', processes, 0, -1, 'WITHSCORES')
  free = 0
  for i = 2, #scores, 2 do free = free + tonumber(scores[i]) end
end

function writes.PutWorker(id, fields, listed, order_ms, lost, forget_ms, replace)
  settle(id)
  workers[id] = nil
  if replace then recount(id) end
  if #fields > 0 then redis.call('HSET', process_key(id), unpack(fields)) end
  if order_ms ~= 0 then redis.call('ZADD', base .. 'orders', order_ms, id)
  else redis.call('ZREM', base .. 'orders', id) end
  if listed then rescore(id, true) else delist(id) end
  if lost then redis.call('SADD', base .. 'lost', id) end
  if forget_ms ~= 0 then
    redis.call('XGROUP', 'DELCONSUMER', commands_key, GROUP, id)
    redis.call('SREM', base .. 'lost', id)
    redis.call('DEL', base .. 'inbox:' .. id, base .. 'held:' .. id)
    redis.call('PEXPIRE', process_key(id), forget_ms)
  end
end

function writes.RecordOperation(id, digest, answer, ttl_ms)
  local key = base .. 'operation:' .. id
  local event_seq = RESTORING and 0 or seq
  redis.call('HSET', key, 'digest', digest, 'answer', answer, 'seq', event_seq)
  redis.call('PEXPIRE', key, ttl_ms)
end

function writes.DropEntry(entry)
  redis.call('XACK', commands_key, GROUP, entry)
  redis.call('XDEL', commands_key, entry)
end

function writes.Message(id, message) push_inbox(id, message) end
function writes.AskToMove(id, agent, busy)
  local moves = base .. 'moves'
  push_inbox(id, (busy and 'move-busy:' or 'move:') .. agent)
  local old = redis.call('ZRANGEBYSCORE', moves, '-inf', ts - HOUR_MS, 'LIMIT', 0, 100)
  if #old > 0 then redis.call('ZREM', moves, unpack(old)) end
  redis.call('ZADD', moves, ts, agent .. ':' .. number(ts))
  redis.call('PEXPIRE', moves, HOUR_MS)
end
function writes.Signal(kind, value) signal(kind, value) end
function writes.WakeWorkers() wakes = true end
function writes.SetMeta(field, value)
  if value == '' then redis.call('HDEL', meta_key, field)
  elseif stored[field] ~= value then redis.call('HSET', meta_key, field, value) end
  stored[field] = value
end
function writes.Resign() redis.call('HSET', base .. 'leader', 'host', '') end
function writes.Unpark(key) redis.call('HDEL', base .. 'parked', key) end

local function named(functions, clause)
  return functions[clause[1]] or error({ err = 'ERR unknown clause ' .. tostring(clause[1]) })
end

local function commit(packed)
  local step = cmsgpack.unpack(packed)
  local conditions, changes = step[1], step[2]
  for i = 1, #changes do changes[i][1] = named(writes, changes[i]) end
  for i = 1, #conditions do
    local refusal = named(checks, conditions[i])(unpack(conditions[i], 2))
    if refusal then return refusal end
  end
  last_entry, wrote = '', true
  for i = 1, #changes do changes[i][1](unpack(changes[i], 2)) end
  return { 'OK', seq, last_entry }
end

-- An error in one step is its reply: the others go on.
local replies = {}
for i = 3, #ARGV do
  local done, answer = pcall(commit, ARGV[i])
  replies[i - 2] = done and answer or redis.error_reply(error_text(answer))
end
rescore_changed()
if wrote then write_head() end
if wakes then pcall(wake) end -- (with the next renewal, workers learn of what waits)
return reply('OK', replies)
