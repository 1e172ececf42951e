-- Allocates the next epoch of a pool. One that is never used does no harm.
-- KEYS  meta, events
-- ARGV  1 generation of the high-water mark, 2 its seq
-- Returns {OK, generation, seq, ts, epoch}.

local refusal = read_head(ARGV[1], ARGV[2])
if refusal then return refusal end
return reply('OK', number(redis.call('HINCRBY', meta_key, 'epoch', 1)))
