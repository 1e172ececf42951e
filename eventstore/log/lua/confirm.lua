-- Proves that what was acknowledged is in this data set, and writes once more behind it, so that
-- a WAIT that follows on the same connection covers it.
-- KEYS  meta, events
-- ARGV  1 floor generation, 2 floor seq, then proofs of three values each:
--         event <stream id> <event id>   that entry is that event
--         operation <id> <answer>        that operation was carried out and answered so
--         ending <agent id> ''           the agent was told to end, or has left
--         log '' ''                      the log itself, as the floor demands it
-- Returns {OK, generation, seq, ts, {1 or 0 for each proof}}.
-- Invariant: nothing changes but the log's time; an event that is not there halts the log, since it
-- is another history than the one that was acknowledged.

local function position(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end

-- Only what the archive has is trimmed: an event before the first one is not lost.
local function trimmed(id)
  local first = redis.call('XRANGE', events_key, '-', '+', 'COUNT', 1)[1]
  if not first then return false end
  local ms, n = position(id)
  local first_ms, first_n = position(first[1])
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
    .. ' was acknowledged and is not there')
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

local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end
local found = {}
for at = 3, #ARGV, 3 do
  local proof = proofs[ARGV[at]]
  if not proof then return redis.error_reply('ERR unknown proof ' .. ARGV[at]) end
  found[#found + 1] = proof(ARGV[at + 1], ARGV[at + 2]) and 1 or 0
end
close_log()
return reply('OK', found)
