-- Creates a log if there is none: its streams, the consumer group and the counters.
-- ARGV  1 its generation: 1, or for a pool that of the catalogue, which is above that of a log of
--       this name under an older catalogue
--       2… fields and values of the meta hash with which an earlier log of this name was retired:
--       this one continues it
-- Returns {OK, generation, seq, ts}; an existing log is left as it is.
-- Invariant: only this script and a recovery create streams or groups. Streams without their
-- counters are never adopted: that is a damaged log (MISSING), to be recovered.

if redis.call('HEXISTS', meta_key, 'halted') == 1 then return reply('MISSING') end
if redis.call('HEXISTS', meta_key, 'generation') == 0 then
  if redis.call('EXISTS', events_key) == 1 then return reply('MISSING') end
  create_log(ARGV[1], '0', '0', '0')
  if ARGV[2] then redis.call('HSET', meta_key, unpack(ARGV, 2)) end
end
redis.call('HDEL', meta_key, 'retiring')
-- The time returned is now, not that of the last event: callers set their clock by it.
return read_head('0', '0') or reply('OK')
