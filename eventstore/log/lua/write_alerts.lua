-- Writes events of alerts, and which alerts are open after them.
-- KEYS  1 meta, 2 the open alerts, 3 the stream
-- ARGV  1 who, 2 its term, 3 id of this call, then for each change: 4 the alert's id, 5 its state
--       ('': it is not open any more), 6 type, 7 version, 8 event id, 9 data; a type '' is no event
-- Returns 1; 0 where another leads.
-- Invariant: only who leads writes, each call once however often it is repeated; all or nothing.

local meta = redis.call('HMGET', KEYS[1], 'leader', 'term', 'call', 'ts')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] then
  return 0
end
if meta[3] == ARGV[3] then
  return 1
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local ts = string.format('%.0f', math.max(tonumber(now), tonumber(meta[4] or '0')))
for at = 4, #ARGV, 6 do
  local id, state, kind = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if kind ~= '' then
    redis.call('XADD', KEYS[3], '*', 'type', kind, 'version', ARGV[at + 3],
      'seq', redis.call('HINCRBY', KEYS[1], 'seq', 1), 'event_id', ARGV[at + 4], 'subject', id,
      'incarnation', '', 'worker_id', '', 'epoch', '', 'correlation_id', '', 'causation_id', '',
      'traceparent', '', 'actor', ARGV[1], 'ts', ts, 'data', ARGV[at + 5])
  end
  if state == '' then
    redis.call('HDEL', KEYS[2], id)
  else
    redis.call('HSET', KEYS[2], id, state)
  end
end
redis.call('HSET', KEYS[1], 'call', ARGV[3], 'ts', ts)
return 1
