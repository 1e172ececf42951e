-- Acquires, renews or reads the lead of a pool's scaling.
-- ARGV  3 host, 4 its term (0: it does not lead), 5 and 6 term and renewal of a leader that did not
--       renew for a whole lease ('' : none)
-- Returns {OK, generation, seq, ts, leading host, term, renewal}.
-- Invariant: terms only grow, and a term belongs to one host. The caller decides by its monotonic
-- clock whether a leader is dead; this script only checks that term and renewal are unchanged.

local leader_key = base .. 'leader'
local leader = redis.call('HMGET', leader_key, 'host', 'term', 'renewal')
local host, term, renewal = leader[1], leader[2], leader[3]
local is_leader = host == ARGV[3] and term == ARGV[4]
local vacant = not host or host == '' or (host == ARGV[3] and ARGV[4] == '0')
local stale = term and term == ARGV[5] and renewal == ARGV[6]
if is_leader then
  write_head()  -- so that log time advances in a pool where nothing else is written
  renewal = unique_number()
  redis.call('HSET', leader_key, 'renewal', renewal)
elseif vacant or stale then
  host, term, renewal = ARGV[3], redis.call('HINCRBY', meta_key, 'term', 1), unique_number()
  redis.call('HSET', leader_key, 'host', host, 'term', term, 'renewal', renewal)
end
return reply('OK', host, term, renewal)
