-- Trims a pool's streams, a bounded part of each: archived events by age and number, heartbeats and
-- signals by age.
-- ARGV  3 generation of the archive, 4 its last seq, 5 retention of events in ms, 6 and in number,
--       7 retention of heartbeats and signals in ms, 8 about how many entries of a stream to remove
--       at most, 9 for the catalogue: a snapshot of its fold at the last archived seq
-- Returns {OK, generation, seq, ts, events trimmed, others trimmed, '1' if there is more or ''}.
-- Invariant: only events that the archive of this log has are removed, and never the last one (the
-- projector compares it with its own). Events are chosen by seq, not by length. Where events of the
-- catalogue are removed, a snapshot that has them is stored in the same step, and never an older one.

local entries_max = tonumber(ARGV[8])

-- The first entry at or after an id, and its seq. One without a seq is no event and never removed.
local function entry_at(from)
  local entry = redis.call('XRANGE', events_key, from, '+', 'COUNT', 1)[1]
  if not entry then return nil, math.huge end
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'seq' then return entry[1], tonumber(fields[i + 1]) or math.huge end
  end
  return entry[1], math.huge
end

-- An id below which every seq is below `wanted`, by binary search over time: seq grows with it.
local function cut_before(wanted, first_id)
  local newest = redis.call('XREVRANGE', events_key, '+', '-', 'COUNT', 1)[1]
  local low, high = parse_id(first_id), parse_id(newest[1])
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local _, found = entry_at(number(middle))
    if found <= wanted then low = middle else high = middle - 1 end
  end
  local id, found = entry_at(number(low))
  -- Within a millisecond ids grow by one, as seq does.
  local ms, count = parse_id(id)
  local exact = number(ms) .. '-' .. number(count + wanted - found)
  local exact_id, exact_seq = entry_at(exact)
  if exact_id == exact and exact_seq == wanted then return exact end
  return id
end

-- Complete nodes first, which is cheap and bounded; then the rest of one node.
local function trim(key, cut)
  local removed = redis.call('XTRIM', key, 'MINID', '~', cut, 'LIMIT', entries_max)
  if removed * 2 >= entries_max then return removed, true end
  return removed + redis.call('XTRIM', key, 'MINID', '=', cut), false
end

local function id_before(age) return number(math.max(ts - tonumber(age), 0)) end

local events, more = 0, false
local first_id, first_seq = entry_at('-')
if first_id and ARGV[3] == generation then
  local _, first_recent_seq = entry_at(id_before(ARGV[5]))
  local last_old_seq = math.max(math.min(first_recent_seq - 1, seq), seq - tonumber(ARGV[6]))
  local last = math.min(last_old_seq, tonumber(ARGV[4]), seq - 1)
  local lost = ARGV[9] and first_seq > 1 and tonumber(ARGV[4]) >= first_seq - 1
    and redis.call('EXISTS', base .. 'snapshot') == 0
  if lost or (ARGV[9] and last >= first_seq) then
    redis.call('SET', base .. 'snapshot', ARGV[9])
  end
  if last >= first_seq then
    events, more = trim(events_key, cut_before(last + 1, first_id))
  end
end
local others = 0
for _, name in ipairs({ base .. 'heartbeats', base .. 'signals' }) do
  local removed, more_left = trim(name, id_before(ARGV[7]))
  others, more = others + removed, more or more_left
end
return reply('OK', events, others, more and '1' or '')
