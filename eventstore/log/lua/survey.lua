-- Reads a consistent snapshot of what a supervisor needs to know of a pool.
-- ARGV  3 restarts and time-outs to list at most
--       4 restarts are counted that are due within so many ms
-- Returns {OK, generation, seq, ts, counters, due, timeouts, workers, stalled, forecast} with
--   counters = {waiting, free, restarting, live agents, scaling, closed, isolated agents waiting,
--     config_version, blocked, placed, surplus, consolidation}
--   due, timeouts = {agent id, at_ms, …} of those that are due, else of the next one
--   stalled = {worker id, where, …} of workers whose event loop does not turn
--   forecast: as the projector has published it; nil if it has not
--   workers = { {worker id, hash …}, … }: live, ordered, and lost ones that are not yet removed

local meta = redis.call('HMGET', meta_key, 'scaling', 'closed', 'config_version', 'blocked',
  'surplus', 'consolidation')

local function upcoming(key)
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', ts, 'WITHSCORES', 'LIMIT', 0, ARGV[3])
  if #due == 0 then due = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES') end
  return due
end

local workers = {}
local function list(ids)
  for _, id in ipairs(ids) do
    local hash = redis.pcall('HGETALL', process_key(id))
    if hash.err then hash = { 'status', 'not a hash' } end
    workers[#workers + 1] = { id, unpack(hash) }
  end
end
list(redis.call('ZRANGE', base .. 'processes', 0, -1))
list(redis.call('ZRANGE', base .. 'orders', 0, -1))
list(redis.call('SMEMBERS', base .. 'lost'))
return reply('OK',
  { waiting, free, redis.call('ZCOUNT', base .. 'due', '-inf', ts + ARGV[4]), redis.call('SCARD', base .. 'agents'),
    meta[1] or 0, meta[2] or '', redis.call('ZCARD', base .. 'alone'), meta[3] or '0:0',
    meta[4] or '', stored.placed or '', meta[5] or '', meta[6] or '' },
  upcoming(base .. 'due'), upcoming(base .. 'timeouts'), workers,
  redis.call('HGETALL', base .. 'stalled'), redis.call('GET', base .. 'forecast'))
