-- Halts a log, begins it anew as another generation, and opens it again.
-- KEYS  meta, events
-- ARGV  1 a word, then
--         halt   2 reason: from here on nobody else may write, or create, this log
--         begin  2 generation, 3 seq and 4 ts to go on from, 5 epochs to go on from, 6 whether it is
--                a pool's (1) or the catalogue's (0). Of a halted log only; what stood is dropped
--         open   2 generation: of the log that was begun. Takes back the halt
-- Returns {OK, generation, seq, ts}: for halt of the log that was found, zeroes where there is none.
-- Invariant: between halt and open nobody writes the log but who restores it, and a generation
-- that was begun never had another first event.

local word = ARGV[1]
local found = redis.call('HMGET', meta_key, 'generation', 'seq', 'ts', 'halted')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
generation, seq, ts = found[1], tonumber(found[2] or '0'), math.max(now, tonumber(found[3] or '0'))

if word == 'halt' then
  if not found[4] then redis.call('HSET', meta_key, 'halted', ARGV[2]) end
elseif not found[4] then
  return reply('CONFLICT')
elseif word == 'begin' then
  redis.call('DEL', meta_key, events_key)
  redis.call('XGROUP', 'CREATE', events_key, 'muster-init', '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', events_key, 'muster-init')
  if ARGV[6] == '1' then
    redis.call('DEL', commands_key)
    redis.call('XGROUP', 'CREATE', commands_key, GROUP, '0', 'MKSTREAM')
  end
  generation, seq, ts = ARGV[2], tonumber(ARGV[3]), math.max(ts, tonumber(ARGV[4]))
  redis.call('HSET', meta_key, 'generation', generation, 'seq', ARGV[3], 'ts', number(ts),
    'layout', '1', 'free', '0', 'waiting', '0', 'epoch', ARGV[5], 'term', '0', 'scaling', '0',
    'recovered_seq', ARGV[3], 'halted', found[4])
elseif word == 'open' then
  if generation ~= ARGV[2] then return reply('CONFLICT') end
  redis.call('HDEL', meta_key, 'halted')
else
  return redis.error_reply('ERR unknown word ' .. word)
end
return reply('OK')
