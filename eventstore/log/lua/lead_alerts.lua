-- Acquires, renews, reads or releases the lead over alerts, and exchanges what gateways observe.
-- KEYS  1 meta, 2 the open alerts, 3 what gateways report
-- ARGV  1 who, 2 its term (0: it does not lead), 3 and 4 term and renewal of a leader that did not
--       renew for a whole lease ('': none), 5 what it reports ('': nothing), 6 for how many ms that
--       stays, 7 '1': it ends and leads no more
-- Returns {leading who, term, renewal, open alerts, reports}; the last two as in HGETALL.
-- Invariant: terms only grow, and a term belongs to one gateway. The caller decides by its monotonic
-- clock whether a leader is dead; this script only checks that term and renewal are unchanged.

local leader = redis.call('HMGET', KEYS[1], 'leader', 'term', 'renewal')
local who, term, renewal = leader[1] or '', leader[2] or '0', leader[3] or '0'
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[3], ARGV[1])
else
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[5])
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
local leads = who == ARGV[1] and term == ARGV[2]
if ARGV[7] == '1' then
  if leads then
    redis.call('HSET', KEYS[1], 'leader', '')
    who = ''
  end
elseif leads then
  renewal = redis.call('HINCRBY', KEYS[1], 'renewal', 1)
elseif who == '' or who == ARGV[1] or (term == ARGV[3] and renewal == ARGV[4]) then
  who = ARGV[1]
  term = redis.call('HINCRBY', KEYS[1], 'term', 1)
  renewal = redis.call('HINCRBY', KEYS[1], 'renewal', 1)
  redis.call('HSET', KEYS[1], 'leader', who)
end
return {
  who, tostring(term), tostring(renewal),
  redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3]),
}
