-- Creates a log if there is none: its streams, the consumer group and the counters.
-- KEYS  meta, events
-- ARGV  1 whether it is a pool's (1) or the catalogue's (0), 2 its generation: 1, or for a pool
--       that of the catalogue, which is above that of a log of this name under an older catalogue
-- Returns {OK, generation, seq, ts}; an existing log is left as it is.
-- Invariant: only this script and a recovery create streams or groups. Streams without their
-- counters are never adopted: that is a damaged log (MISSING), to be recovered.

if redis.call('HEXISTS', meta_key, 'halted') == 1 then return reply('MISSING') end
if redis.call('HEXISTS', meta_key, 'generation') == 0 then
  if redis.call('EXISTS', events_key) == 1 then return reply('MISSING') end
  redis.call('XGROUP', 'CREATE', events_key, 'muster-init', '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', events_key, 'muster-init')
  if ARGV[1] == '1' then
    redis.call('XGROUP', 'CREATE', commands_key, GROUP, '0', 'MKSTREAM')
  end
  redis.call('HSET', meta_key, 'generation', ARGV[2], 'seq', '0', 'ts', '0', 'layout', '1',
    'free', '0', 'waiting', '0', 'epoch', '0', 'term', '0', 'scaling', '0')
elseif redis.call('EXISTS', events_key) == 0 or
  (ARGV[1] == '1' and redis.call('EXISTS', commands_key) == 0) then
  return reply('MISSING')
end
-- The time returned is now, not that of the last event: callers set their clock by it.
return read_head('0', '0') or reply('OK')
