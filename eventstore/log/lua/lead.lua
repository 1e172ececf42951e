-- Takes, keeps or observes the lead of a pool's scaling.
-- KEYS  meta, events
-- ARGV  1 floor generation, 2 floor seq, 3 host, 4 the term it holds (0: none), 5 and 6 term and
--       renewal of a leader that the caller saw stand still for a whole lease ('' : none)
-- Returns {OK, generation, seq, ts, leading host, term, renewal}.
-- Invariant: terms only grow, and a term belongs to one host. Whether a leader is dead is judged by
-- the caller's own monotonic clock; this script only checks that nothing has moved since.

local leader_key = base .. 'leader'
local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end
local leader = redis.call('HMGET', leader_key, 'host', 'term', 'renewal')
local host, term, renewal = leader[1], leader[2], leader[3]
local mine = host == ARGV[3] and term == ARGV[4]
local vacant = not host or host == '' or (host == ARGV[3] and ARGV[4] == '0')
local stale = term and term == ARGV[5] and renewal == ARGV[6]
if mine then
  close_log()  -- so that log time goes on in a pool where nothing else is written
  renewal = fresh()
  redis.call('HSET', leader_key, 'renewal', renewal)
elseif vacant or stale then
  host, term, renewal = ARGV[3], number(redis.call('HINCRBY', meta_key, 'term', 1)), fresh()
  redis.call('HSET', leader_key, 'host', host, 'term', term, 'renewal', renewal)
end
return reply('OK', host, term, renewal)
