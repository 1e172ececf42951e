-- Trims a pool's streams, a bounded piece of each: events that the archive has, by age and number;
-- heartbeats and signals by age.
-- KEYS  meta, events
-- ARGV  1 floor generation, 2 floor seq, 3 generation of the archive, 4 the last seq that it has,
--       5 age in ms from which on events go, 6 how many events stay, 7 age in ms from which on
--       heartbeats and signals go, 8 about how many entries of a stream may go at once
-- Returns {OK, generation, seq, ts, events trimmed, others trimmed, '1' if there is more or ''}.
-- Invariant: no event goes that the archive of this very log has not taken, and the last one never
-- goes (the projector holds it against its own). What goes is chosen by seq, not by length.

local most = tonumber(ARGV[8])
local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end

-- The first entry at or after an id, and its seq. What has none is no event: it never goes.
local function entry_at(from)
  local entry = redis.call('XRANGE', events_key, from, '+', 'COUNT', 1)[1]
  if not entry then return nil, math.huge end
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'seq' then return entry[1], tonumber(fields[i + 1]) or math.huge end
  end
  return entry[1], math.huge
end

local function parts(id)
  local ms, count = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(count)
end

-- An id below which every event's seq is below `wanted`: seq grows with time, so halve the time.
local function id_of(wanted, first_id)
  local newest = redis.call('XREVRANGE', events_key, '+', '-', 'COUNT', 1)[1]
  local low, high = parts(first_id), parts(newest[1])
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local _, found = entry_at(number(middle))
    if found <= wanted then low = middle else high = middle - 1 end
  end
  local id, found = entry_at(number(low))
  -- Within a millisecond ids count up as seq does.
  local ms, count = parts(id)
  local exact = number(ms) .. '-' .. number(count + wanted - found)
  local exact_id, exact_seq = entry_at(exact)
  if exact_id == exact and exact_seq == wanted then return exact end
  return id
end

-- Whole nodes first, which is cheap and bounded; then what is left of one.
local function trim(key, cut)
  local gone = redis.call('XTRIM', key, 'MINID', '~', cut, 'LIMIT', most)
  if gone * 2 >= most then return gone, true end
  return gone + redis.call('XTRIM', key, 'MINID', '=', cut), false
end

local function before(age) return number(math.max(ts - tonumber(age), 0)) end

local events, more = 0, false
local first_id, first_seq = entry_at('-')
if first_id and ARGV[3] == generation then
  local _, young = entry_at(before(ARGV[5]))
  local old = math.max(math.min(young - 1, seq), seq - tonumber(ARGV[6]))
  local last = math.min(old, tonumber(ARGV[4]), seq - 1)
  if last >= first_seq then events, more = trim(events_key, id_of(last + 1, first_id)) end
end
local others = 0
for _, name in ipairs({ base .. 'heartbeats', base .. 'signals' }) do
  local gone, left = trim(name, before(ARGV[7]))
  others, more = others + gone, more or left
end
return reply('OK', number(events), number(others), more and '1' or '')
