-- Allocates the next epoch of a pool. One that is never used does no harm.
-- Returns {OK, generation, seq, ts, epoch}.

return reply('OK', redis.call('HINCRBY', meta_key, 'epoch', 1))
