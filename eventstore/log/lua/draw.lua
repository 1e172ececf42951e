-- Draws the next epoch of a pool. A number that is drawn and not used does no harm.
-- KEYS  meta, events
-- ARGV  1 floor generation, 2 floor seq
-- Returns {OK, generation, seq, ts, epoch}.

local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end
return reply('OK', number(redis.call('HINCRBY', meta_key, 'epoch', 1)))
