-- Renews a worker's lease and records its heartbeat.
-- ARGV  3 worker id, 4 its epoch, 5 event id, 6 data (JSON), 7 retention of heartbeats, in ms,
--       8 where its event loop is stalled, '' while it turns, 9 its lease in seconds, 10 the version
--       of the settings that it has, 11 how many of its agents are busy
-- Returns {OK, generation, seq, ts, worker status, {agent id, flag, …} of agents to stop (their stop
--       flag, or 'restart'), version and JSON of the pool's settings: '' if it has them, how many
--       agents wait for a worker; in a pool with a placer, only those that were placed with this
--       one, and isolated ones}.
-- Invariant: a fenced worker renews nothing.

local worker, epoch = ARGV[3], ARGV[4]
if is_fenced(worker_of(worker), tonumber(epoch)) then return reply('FENCED') end
write_head()  -- so that later events and heartbeats have no earlier time than this one
redis.call('HSET', process_key(worker), 'renewal', unique_number(), 'last_heartbeat', ts,
  'lease', ARGV[9], 'busy', ARGV[11] or 0)
redis.call('XADD', base .. 'heartbeats', 'MINID', '~', number(ts - tonumber(ARGV[7])), stamp,
  'type', 'worker.heartbeat', 'version', '1', 'seq', '', 'event_id', ARGV[5],
  'subject', worker, 'incarnation', '', 'worker_id', worker, 'epoch', epoch,
  'correlation_id', '', 'causation_id', '', 'traceparent', '', 'actor', 'worker:' .. worker,
  'ts', ts, 'data', ARGV[6])
local stalled_key, stalled = base .. 'stalled', ARGV[8]
local before = redis.call('HGET', stalled_key, worker) or ''
if stalled ~= before then
  if stalled == '' then redis.call('HDEL', stalled_key, worker)
  else redis.call('HSET', stalled_key, worker, stalled) end
  if stalled == '' or before == '' then wake() end
end
local stops, placed = {}, 0 -- (`placed`: not fetched yet)
local names = { 'stop', 'restart' }
if stored.placed then names = { 'stop', 'restart', 'placed', 'claim_seq' } end
for _, id in ipairs(redis.call('SMEMBERS', base .. 'held:' .. worker)) do
  local flags = redis.pcall('HMGET', agent_key(id), unpack(names))
  local flag = flags[1]
  if is_unfetched({ flags[3], flags[4] }) then placed = placed + 1 end
  if flag == '' and flags[2] == '1' then flag = 'restart' end
  if flag and flag ~= '' then
    stops[#stops + 1] = id
    stops[#stops + 1] = flag
  end
end
local config = redis.call('HMGET', meta_key, 'config_version', 'config')
if stored.placed ~= '1' then placed = placed + waiting end
local backlog = placed + redis.call('ZCARD', base .. 'alone')
if not config[1] or config[1] == ARGV[10] then config = { '', '' } end
return reply('OK', worker_of(worker).status, stops, config[1], config[2], backlog)
