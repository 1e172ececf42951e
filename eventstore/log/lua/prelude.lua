-- Shared by every script that writes a log: which log it is, whether it may be written, and how
-- an event is appended and a slot is booked. A script is this text followed by its own.
--
-- KEYS[1]  <base>meta    hash: generation, seq, ts, clock, free, waiting, epoch, term, scaling,
--                       closed, halted, recovering
-- KEYS[2]  <base>events, or the catalogue's stream
-- Other keys of the pool are built from the hash tag of KEYS[1].
--
-- Reply of every script: {status, generation, seq, ts, ...}. Status OK wrote; any other wrote
-- nothing: MISSING, LAYOUT, HALTED, ROLLED_BACK, RECOVERED, FENCED, CONFLICT, CLOSED, FULL, KNOWN.
-- (ROLLED_BACK halts the log: from then on everybody is refused until it was recovered.)
--
-- RESTORING, set in front of this text, is true for the one who rebuilds a halted log.
--
-- Log time (ts) is this server's clock, and never goes back. Where that clock was set back, log time
-- goes on from where it was at half its pace, until the clock has caught up: what waits for a time
-- to come (back-offs, time-outs, orders) still comes. meta.clock is what the clock said at meta.ts.
--
-- Invariants: seq is dense; ts never goes back; meta.free is the sum of the scores of
-- <base>processes; meta.waiting counts the commands that nobody has claimed, meta.alone the workers
-- that an agent has for itself.

local meta_key, events_key = KEYS[1], KEYS[2]
local base = string.sub(meta_key, 1, -5)
local prefix, tag = string.match(meta_key, '^(.-)pool:(%b{}):meta$')
local commands_key = base .. 'commands'
local GROUP = 'workers'
local INBOX_MS = 600000
local LAYOUT = 1

local generation, seq, ts, clock
local last_entry = '' -- the stream id of the event that was appended last

-- Whole numbers in full: Lua's own way of writing large ones is 1.7e+15. (+ 0: never '-0'.)
local function number(n) return string.format('%.0f', n + 0) end
local function agent_key(id) return prefix .. 'agent:' .. tag .. ':' .. id end
local function process_key(id) return prefix .. 'process:' .. tag .. ':' .. id end

local function reply(status, ...)
  return { status, generation or '0', number(seq or 0), number(ts or 0), ... }
end

-- What time it is in a log that was last written at `last`, when the clock said `clock_then`.
local function read_clock(last, clock_then)
  local time = redis.call('TIME')
  clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if clock >= last then return clock end
  return last + math.floor(math.max(clock - (clock_then or clock), 0) / 2)
end

-- Reads the log's head; returns a refusal where it takes no writes, where the caller's floor is
-- above it, and where it was recovered since the caller last heard of it.
local function open_log(floor_generation, floor_seq)
  local meta = redis.call('HMGET', meta_key, 'generation', 'seq', 'ts', 'halted', 'layout',
    'clock')
  if not meta[1] or redis.call('EXISTS', events_key) == 0
    or (tag and redis.call('EXISTS', commands_key) == 0) then
    return reply('MISSING')
  end
  generation, seq = meta[1], tonumber(meta[2])
  if (tonumber(meta[5] or '1') or LAYOUT + 1) > LAYOUT then
    return reply('LAYOUT', meta[5], number(LAYOUT))
  end
  ts = read_clock(tonumber(meta[3]), tonumber(meta[6]))
  if meta[4] and not RESTORING then return reply('HALTED', meta[4]) end
  if floor_generation == '0' then return nil end
  local older = tonumber(generation) - tonumber(floor_generation)
  if older > 0 then return reply('RECOVERED') end
  if older < 0 or seq < tonumber(floor_seq) then
    -- (Refused in a script that only reads: then the next one that writes halts it.)
    redis.pcall('HSET', meta_key, 'halted', 'rolled back to generation ' .. generation .. ', seq '
      .. number(seq) .. '; generation ' .. floor_generation .. ', seq ' .. floor_seq
      .. ' was acknowledged')
    return reply('ROLLED_BACK')
  end
  return nil
end

-- event: type, version, event_id, subject, incarnation, worker_id, epoch, correlation_id,
-- causation_id, traceparent, actor, data
local function append(event)
  seq = seq + 1
  last_entry = redis.call('XADD', events_key, 'NOMKSTREAM', number(ts) .. '-*',
    'type', event[1], 'version', event[2], 'seq', number(seq), 'event_id', event[3],
    'subject', event[4], 'incarnation', event[5], 'worker_id', event[6], 'epoch', event[7],
    'correlation_id', event[8], 'causation_id', event[9], 'traceparent', event[10],
    'actor', event[11], 'ts', number(ts), 'data', event[12])
end

local function close_log()
  redis.call('HSET', meta_key, 'seq', number(seq), 'ts', number(ts), 'clock', number(clock))
end

-- Sets a worker's score to its free slots: those of an active one that is not isolated, else none.
-- Not listed: no change.
local function rescore(worker_id, enlist)
  local processes = base .. 'processes'
  local before = redis.call('ZSCORE', processes, worker_id)
  if not before and not enlist then return end
  local process = redis.call('HMGET', process_key(worker_id), 'status', 'max_agents', 'agent_count',
    'alone')
  local free = 0
  if process[1] == 'active' and (process[4] or '') == '' then
    free = (tonumber(process[2]) or 0) - (tonumber(process[3] or '0') or 0)
  end
  redis.call('ZADD', processes, number(free), worker_id)
  redis.call('HINCRBY', meta_key, 'free', number(free - tonumber(before or '0')))
end

-- A number that was never there before: that of a renewal. One that is counted comes to where it was
-- when a server that lost its last writes is written again, and a lease that is renewed seems to stand.
local function fresh()
  local time = redis.call('TIME')
  return number(tonumber(time[1]) * 1000000 + tonumber(time[2]))
end

local function push_inbox(worker_id, word)
  local inbox = base .. 'inbox:' .. worker_id
  redis.call('LPUSH', inbox, word)
  redis.call('LTRIM', inbox, 0, 99)
  redis.call('PEXPIRE', inbox, INBOX_MS)
end

local function signal(kind, value)
  redis.call('XADD', base .. 'signals', 'MAXLEN', '~', 1000, '*', 'kind', kind, 'value', value)
end

-- An agent waits for a worker of its own: wake the emptiest worker, and the supervisors.
local function wake_empty()
  local waiting = redis.call('ZCARD', base .. 'alone')
  if waiting == 0 then return end
  local emptiest = redis.call('ZREVRANGE', base .. 'processes', 0, 0)
  if emptiest[1] then push_inbox(emptiest[1], 'work') end
  signal('need', number(waiting))
end

-- Work waits: wake the fullest worker that has room, and the supervisors if room is short.
local function wake()
  wake_empty()
  local counts = redis.call('HMGET', meta_key, 'waiting', 'free')
  local waiting, free = tonumber(counts[1] or '0'), tonumber(counts[2] or '0')
  if waiting <= 0 then return end
  if free > 0 then
    local fullest = redis.call('ZRANGEBYSCORE', base .. 'processes', 1, '+inf', 'LIMIT', 0, 1)
    if fullest[1] then push_inbox(fullest[1], 'work') end
  end
  if waiting > free then signal('need', number(waiting - free)) end
end

-- A worker is not taken by one agent any more.
local function share(worker_id)
  if (redis.call('HGET', process_key(worker_id), 'alone') or '') ~= '' then
    redis.call('HSET', process_key(worker_id), 'alone', '')
    redis.call('HINCRBY', meta_key, 'alone', -1)
    rescore(worker_id)
  end
end

-- Gives back the slot that an agent has in a worker.
local function vacate(id, worker_id)
  if redis.call('SREM', base .. 'held:' .. worker_id, id) == 1 then
    redis.call('HINCRBY', process_key(worker_id), 'agent_count', -1)
    if redis.call('HGET', process_key(worker_id), 'alone') == id then share(worker_id) end
    rescore(worker_id)
  end
end

-- Parks an agent whose hash cannot be read: it is on no schedule until it is retried or dropped.
-- Returns whether it is new. (The previous version's gateways also need source and subject.)
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
