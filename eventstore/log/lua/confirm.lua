-- Proves that acknowledged writes are in this data set, then writes once more, so that a WAIT that
-- follows on the same connection covers them.
-- ARGV  from 3 on proofs of three values each:
--         event <stream id> <event id>   this entry is this event
--         operation <id> <answer>        this operation was recorded with this answer
--         ending <agent id> ''           the agent's termination was requested, or it has ended
--         log '' ''                      the log is at or above the high-water mark
-- Returns {OK, generation, seq, ts, {1 or 0 for each proof}}.
-- Invariant: nothing changes but the log's time. A missing event halts the log: its history is not
-- the one that was acknowledged.

-- Only archived events are trimmed: an event before the first one is not lost.
local function trimmed(id)
  local first = redis.call('XRANGE', events_key, '-', '+', 'COUNT', 1)[1]
  if not first then return false end
  local ms, n = parse_id(id)
  local first_ms, first_n = parse_id(first[1])
  return ms < first_ms or (ms == first_ms and n < first_n)
end

local proofs = {}

proofs.event = function(id, event_id)
  local entry = redis.call('XRANGE', events_key, id, id)[1]
  if not entry and trimmed(id) then return true end
  for i = 1, entry and #entry[2] or 0, 2 do
    if entry[2][i] == 'event_id' and entry[2][i + 1] == event_id then return true end
  end
  redis.call('HSET', meta_key, 'halted', 'another history: event ' .. event_id .. ' at ' .. id
    .. ' was acknowledged and is missing')
  return false
end

proofs.operation = function(id, answer)
  return redis.call('HGET', base .. 'operation:' .. id, 'answer') == answer
end

proofs.ending = function(id)
  local agent = redis.call('HMGET', agent_key(id), 'status', 'stop')
  return not agent[1] or (agent[2] and agent[2] ~= '')
    or agent[1] == 'terminated' or agent[1] == 'failed'
end

proofs.log = function() return true end

local found = {}
for index = 3, #ARGV, 3 do
  local proof = proofs[ARGV[index]]
  if not proof then return redis.error_reply('ERR unknown proof ' .. ARGV[index]) end
  found[#found + 1] = proof(ARGV[index + 1], ARGV[index + 2]) and 1 or 0
end
write_head()
return reply('OK', found)
