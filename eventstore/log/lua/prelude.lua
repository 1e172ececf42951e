-- Shared by all scripts: which log it is, whether it may be written, how an event is appended and
-- how slots are counted. A script is this text followed by its own.
--
-- KEYS[1]  <base>meta    hash: generation, seq, ts, clock, free, waiting, epoch, term, scaling,
--                       closed, halted, recovering
-- KEYS[2]  <base>events, or the catalogue's stream
-- Other keys of the pool are built from the hash tag of KEYS[1]. All scripts have these two.
--
-- Reply of every script: {status, generation, seq, ts, ...}. Status OK wrote; any other wrote
-- nothing: MISSING, LAYOUT, HALTED, ROLLED_BACK, RECOVERED, FENCED, CONFLICT, CLOSED, FULL, KNOWN.
-- (ROLLED_BACK halts the log: every later call is refused until the log is recovered.)
--
-- SCRIPT, the script's name, is set in front of this text. All scripts but `init` and `recover` get
-- the caller's high-water mark, ARGV 1 generation (0: any) and 2 seq, and end here if the log is
-- below it or accepts no writes.
--
-- Log time (ts) is this server's clock, and never goes back. If that clock is set back, log time
-- continues at half its speed until the clock has caught up, so that deadlines (back-offs,
-- time-outs, orders) are still reached. meta.clock is the server's clock at meta.ts.
--
-- Invariants: seq is dense; ts never goes back; meta.free is the sum of the scores of
-- <base>processes; meta.waiting counts the unclaimed commands, meta.alone the workers that run one
-- isolated agent.

-- An error of a command names the command and its key, which Redis leaves out. (`server.call` is
-- for a command without a key.)
local server = redis
local redis = { pcall = server.pcall, error_reply = server.error_reply }
function redis.call(command, key, ...)
  local answer = server.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    error({ err = answer.err .. ' (' .. command .. ' on ' .. tostring(key) .. ')' })
  end
  return answer
end

local meta_key, events_key = KEYS[1], KEYS[2]
local base = string.sub(meta_key, 1, -5)
local prefix, tag = string.match(meta_key, '^(.-)pool:(%b{}):meta$')
if events_key ~= base .. 'events' then prefix, tag = nil, nil end -- the catalogue, by any prefix
local commands_key = base .. 'commands'
local GROUP = 'workers'
local PLACER = 'placer'
local INBOX_MS = 600000
local LAYOUT = 1
local RESTORING = SCRIPT == 'restore' -- by a recovery, which writes a halted log

local generation, seq, ts, clock
local stamp -- the ids that entries of this time get
local waiting, free -- counters of the meta hash; what changes is written by `write_head`
local stored_waiting, stored_free
local stored = {} -- fields of the meta hash that are read or written more than once
local last_entry = '' -- the stream id of the last event that was appended

-- An integer with all its digits: Lua writes large ones as 1.7e+15. (+ 0: never '-0'.) A reply and
-- an argument of a command need none of this: Redis writes integers so by itself.
local function number(n) return string.format('%.0f', n + 0) end
local function agent_key(id) return prefix .. 'agent:' .. tag .. ':' .. id end
local function process_key(id) return prefix .. 'process:' .. tag .. ':' .. id end

local function reply(status, ...) return { status, generation or '0', seq or 0, ts or 0, ... } end

local function error_text(why) return type(why) == 'table' and why.err or tostring(why) end

-- The time of a log that was last written at `last_ts`, when the clock was at `last_clock`.
local function read_clock(last_ts, last_clock)
  local time = server.call('TIME')
  clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if clock >= last_ts then return clock end
  return last_ts + math.floor(math.max(clock - (last_clock or clock), 0) / 2)
end

-- Reads the log's head. Returns a refusal if the log accepts no writes, if the caller's high-water
-- mark is above it, or if it was recovered since the caller last used it.
local function read_head(mark_generation, mark_seq)
  local meta = redis.call('HMGET', meta_key, 'generation', 'seq', 'ts', 'halted', 'layout',
    'clock', 'waiting', 'free', 'closed', 'created', 'placed')
  if not meta[1] or redis.call('EXISTS', events_key, tag and commands_key or events_key) < 2 then
    return reply('MISSING')
  end
  generation, seq = meta[1], tonumber(meta[2])
  if (tonumber(meta[5] or '1') or LAYOUT + 1) > LAYOUT then
    return reply('LAYOUT', meta[5], number(LAYOUT))
  end
  ts = read_clock(tonumber(meta[3]), tonumber(meta[6]))
  stamp = number(ts) .. '-*'
  waiting, free = tonumber(meta[7]) or 0, tonumber(meta[8]) or 0
  stored_waiting, stored_free = waiting, free
  stored.closed, stored.created, stored.placed = tonumber(meta[9]), tonumber(meta[10]), meta[11]
  if meta[4] and not RESTORING then return reply('HALTED', meta[4]) end
  if mark_generation == '0' then return nil end
  local generations_ahead = tonumber(generation) - tonumber(mark_generation)
  if generations_ahead > 0 then return reply('RECOVERED') end
  if generations_ahead < 0 or seq < tonumber(mark_seq) then
    -- (A read-only script may not write this: the next one that writes halts the log.)
    redis.pcall('HSET', meta_key, 'halted', 'rolled back to generation ' .. generation .. ', seq '
      .. number(seq) .. '; generation ' .. mark_generation .. ', seq ' .. mark_seq
      .. ' was acknowledged')
    return reply('ROLLED_BACK')
  end
  return nil
end

local function parse_id(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- Creates the streams, the consumer group and the counters.
local function create_log(new_generation, last_seq, last_ts, epoch)
  redis.call('XGROUP', 'CREATE', events_key, 'muster-init', '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', events_key, 'muster-init')
  if tag then redis.call('XGROUP', 'CREATE', commands_key, GROUP, '0', 'MKSTREAM') end
  redis.call('HSET', meta_key, 'generation', new_generation, 'seq', last_seq, 'ts', last_ts,
    'layout', '1', 'free', '0', 'waiting', '0', 'epoch', epoch, 'term', '0', 'scaling', '0')
end

-- event: type, version, event_id, subject, incarnation, worker_id, epoch, correlation_id,
-- causation_id, traceparent, actor, data
local function append(event)
  last_entry = redis.call('XADD', events_key, stamp,
    'type', event[1], 'version', event[2], 'seq', seq + 1, 'event_id', event[3],
    'subject', event[4], 'incarnation', event[5], 'worker_id', event[6], 'epoch', event[7],
    'correlation_id', event[8], 'causation_id', event[9], 'traceparent', event[10],
    'actor', event[11], 'ts', ts, 'data', event[12])
  seq = seq + 1
end

-- (A counter that is no number stays as it is: `muster verify` reports it.)
local function write_head()
  redis.call('HSET', meta_key, 'seq', seq, 'ts', ts, 'clock', clock)
  if waiting ~= stored_waiting then
    redis.pcall('HINCRBY', meta_key, 'waiting', waiting - stored_waiting)
  end
  if free ~= stored_free then redis.pcall('HINCRBY', meta_key, 'free', free - stored_free) end
  stored_waiting, stored_free = waiting, free
end

-- Workers, each read once. `left`: how many agents have left its slots since then (negative: have
-- entered them); `settle` subtracts it from `agent_count`. `rescored`: false if its free slots have
-- changed: a script that does so ends with `rescore_changed`. Whoever writes other fields of a
-- worker settles and forgets it.
local workers = {}
local function worker_of(id)
  local worker = workers[id]
  if not worker then
    local found = redis.call('HMGET', process_key(id), 'epoch', 'status', 'max_agents',
      'agent_count', 'alone', 'cordoned')
    worker = { epoch = tonumber(found[1]), status = found[2], slots = tonumber(found[3]) or 0,
      count = tonumber(found[4]) or 0, alone = found[5] or '', cordoned = found[6] or '',
      left = 0, rescored = true }
    workers[id] = worker
  end
  return worker
end

-- Whether a worker has ended or its epoch was revoked.
local function is_fenced(worker, epoch)
  return worker.epoch ~= epoch or worker.status == 'lost' or worker.status == 'stopped'
end

local function free_slots(worker)
  if worker.status ~= 'active' or worker.alone ~= '' or worker.cordoned ~= '' then return 0 end
  return worker.slots - worker.count
end

local function settle(id)
  local worker = workers[id]
  if worker and worker.left ~= 0 then
    redis.call('HINCRBY', process_key(id), 'agent_count', -worker.left)
    worker.count, worker.left = worker.count - worker.left, 0
  end
end

-- Sets a worker's score to its free slots: 0 unless it is active, not cordoned, and runs no isolated
-- agent. No change if it is not listed, unless `enlist`.
local function rescore(id, enlist)
  settle(id)
  local processes = base .. 'processes'
  local old_score = redis.call('ZSCORE', processes, id)
  if not old_score and not enlist then return end
  local score = free_slots(worker_of(id))
  redis.call('ZADD', processes, score, id)
  free = free + score - tonumber(old_score or '0')
end

local function rescore_changed()
  for id, worker in pairs(workers) do
    if not worker.rescored then pcall(rescore, id) end
  end
end

-- The number of a renewal, from the clock, so that it was never used before. A counter could return
-- to an old value after the server lost its last writes; a renewed lease would then look unrenewed.
local function unique_number()
  local time = server.call('TIME')
  return number(tonumber(time[1]) * 1000000 + tonumber(time[2]))
end

-- (A message that was just sent and not read yet is not repeated.)
local function push_inbox(worker_id, message)
  local inbox = base .. 'inbox:' .. worker_id
  if redis.call('LINDEX', inbox, 0) == message then return end
  redis.call('LPUSH', inbox, message)
  redis.call('LTRIM', inbox, 0, 99)
  redis.call('PEXPIRE', inbox, INBOX_MS)
end

-- Whether an agent in a slot was placed there and not fetched by its worker: its fields `placed`, the
-- seq of the claim that placed it, and `claim_seq`.
local function is_unfetched(fields) return fields[1] and fields[1] == fields[2] end

local function signal(kind, value)
  redis.call('XADD', base .. 'signals', 'MAXLEN', '~', 1000, '*', 'kind', kind, 'value', value)
end

-- Workers whose event loop does not turn, as a set, and how many they are. They have no room,
-- although their scores and meta.free count their free slots.
local function stalled_workers()
  local stalled, ids = {}, redis.call('HKEYS', base .. 'stalled')
  for _, id in ipairs(ids) do stalled[id] = true end
  return stalled, #ids
end

local function first_not_in(set, ids)
  for _, id in ipairs(ids) do
    if not set[id] then return id end
  end
end

-- Wakes the emptiest worker and the supervisors if isolated agents wait.
local function wake_for_isolated(stalled, count)
  local waiting = redis.call('ZCARD', base .. 'alone')
  if waiting == 0 then return end
  local emptiest = first_not_in(stalled, redis.call('ZREVRANGE', base .. 'processes', 0, count))
  if emptiest then push_inbox(emptiest, 'work') end
  signal('need', waiting)
end

-- If commands wait: wakes the fullest worker with room, unless the pool has a placer, and the
-- supervisors if there is too little.
local function wake()
  local stalled, count = stalled_workers()
  wake_for_isolated(stalled, count)
  if waiting <= 0 then return end
  local room = free
  for id in pairs(stalled) do
    room = room - tonumber(redis.call('ZSCORE', base .. 'processes', id) or '0')
  end
  if room > 0 and stored.placed ~= '1' then
    local fullest = first_not_in(stalled,
      redis.call('ZRANGEBYSCORE', base .. 'processes', 1, '+inf', 'LIMIT', 0, count + 1))
    if fullest then push_inbox(fullest, 'work') end
  end
  if waiting > room then signal('need', waiting - room) end
end

-- Lets a worker that ran one isolated agent accept others again.
local function end_isolation(id)
  if worker_of(id).alone ~= '' then
    redis.call('HSET', process_key(id), 'alone', '')
    redis.call('HINCRBY', meta_key, 'alone', -1)
    workers[id].alone, workers[id].rescored = '', false
  end
end

-- Frees an agent's slot in a worker.
local function vacate(id, worker_id)
  if redis.call('SREM', base .. 'held:' .. worker_id, id) == 1 then
    local worker = worker_of(worker_id)
    worker.left, worker.rescored = worker.left + 1, false
    if worker.alone == id then end_isolation(worker_id) end
  end
end

-- Parks an agent whose hash cannot be read: it is on no schedule until it is retried or dropped.
-- Returns whether it was not parked yet. (Older gateways also need source and subject.)
local function park_agent(id, reason)
  for _, schedule in ipairs({ 'due', 'timeouts', 'alone' }) do
    redis.call('ZREM', base .. schedule, id)
  end
  local record = { source = 'agent', subject = id, reason = reason, at_ms = ts }
  local key = 'agent:' .. id
  if redis.call('HSETNX', base .. 'parked', key, cjson.encode(record)) == 0 then return false end
  signal('parked', key)
  return true
end

if SCRIPT ~= 'init' and SCRIPT ~= 'recover' then
  local refusal = read_head(ARGV[1], ARGV[2])
  if refusal then return refusal end
end
