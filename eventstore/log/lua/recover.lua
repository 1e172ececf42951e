-- Halts a log, begins it anew as another generation, and opens it again.
-- KEYS  meta, events
-- ARGV  1 a word, 2 the claim of whoever recovers it, then
--         close  3 reason, 4 generation: nobody may write that log until it is recovered. Without a
--                claim; of another generation, or halted, nothing is changed
--         halt   3 reason: from here on nobody else may write, or create, this log
--         drop   3… keys of the pool, to be removed
--         begin  3 generation, 4 seq and 5 ts to go on from, 6 epochs to go on from, 7 whether it is
--                a pool's (1) or the catalogue's (0). What stood is dropped
--         refill 3… archived events as they stood: stream id, how many names and values, and these
--         open   3 generation: of the log that was begun. Takes back the halt, and forgets what was
--                reported of what it lost
-- Returns {OK, generation, seq, ts}: for halt of the log that was found, zeroes where there is none;
--       CONFLICT also where the log was opened, or halted by another one, since that claim was made.
-- Invariant: between halt and open nobody writes the log but the last who halted it, and a generation
-- that was begun never had another first event.

-- Readers go on from ids, also from those of events that were lost: whatever comes next lies after them.
-- They lie before the clock, but where log time runs ahead of it; then this long after what is known.
local LOST_MS = 60000

local word, claim = ARGV[1], ARGV[2]
local found = redis.call('HMGET', meta_key, 'generation', 'seq', 'ts', 'halted', 'recovering')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
generation, seq, ts = found[1], tonumber(found[2] or '0'), math.max(now, tonumber(found[3] or '0'))

if word == 'close' then
  if generation ~= ARGV[4] or found[4] then return reply('CONFLICT') end
  redis.call('HSET', meta_key, 'halted', ARGV[3])
elseif word == 'halt' then
  redis.call('HSET', meta_key, 'halted', found[4] or ARGV[3], 'recovering', claim)
elseif not found[4] or found[5] ~= claim then
  return reply('CONFLICT')
elseif word == 'drop' then
  for i = 3, #ARGV do redis.call('UNLINK', ARGV[i]) end
elseif word == 'begin' then
  redis.call('DEL', meta_key, events_key)
  redis.call('XGROUP', 'CREATE', events_key, 'muster-init', '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', events_key, 'muster-init')
  if ARGV[7] == '1' then
    redis.call('DEL', commands_key)
    redis.call('XGROUP', 'CREATE', commands_key, GROUP, '0', 'MKSTREAM')
  end
  local last = math.max(tonumber(found[3] or '0'), tonumber(ARGV[5]))
  generation, seq, ts = ARGV[3], tonumber(ARGV[4]), last < now and now or last + LOST_MS
  redis.call('HSET', meta_key, 'generation', generation, 'seq', ARGV[4], 'ts', number(ts),
    'layout', '1', 'free', '0', 'waiting', '0', 'epoch', ARGV[6], 'term', '0', 'scaling', '0',
    'recovered_seq', ARGV[4], 'halted', found[4], 'recovering', claim)
elseif word == 'refill' then
  local at = 3
  while at <= #ARGV do
    local last = at + 1 + tonumber(ARGV[at + 1])
    redis.call('XADD', events_key, 'NOMKSTREAM', ARGV[at], unpack(ARGV, at + 2, last))
    at = last + 1
  end
elseif word == 'open' then
  if generation ~= ARGV[3] then return reply('CONFLICT') end
  redis.call('HDEL', meta_key, 'halted', 'recovering')
  redis.call('DEL', base .. 'salvage')
else
  return redis.error_reply('ERR unknown word ' .. word)
end
return reply('OK')
