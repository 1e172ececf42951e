-- Halts a log, rebuilds it as another generation, and opens it again.
-- ARGV  1 action, 2 token of the recovery, then
--         close  3 reason, 4 generation: no process may write this log until it is recovered. Needs
--                no token. CONFLICT if the generation is another or the log is halted already
--         halt   3 reason: from now on only this recovery may write or create the log
--         drop   3… keys of the pool to delete
--         start  3 generation, 4 seq, 5 ts and 6 epoch to continue from. The old log is deleted
--         refill 3… archived events, unchanged: stream id, number of names and values, and these
--         open   3 generation of the new log. Ends the halt and deletes the loss reports
-- Returns {OK, generation, seq, ts}: for halt those of the log that was found, zeroes if there was
--       none. CONFLICT also if the log was opened, or halted by another recovery, since the halt.
-- Invariant: between halt and open only the last recovery that halted the log writes it, and two
-- logs of the same generation never have different first events.

-- Readers continue from stream ids, also from those of lost events, so new entries must come after
-- them. Lost ids are below the clock, unless log time is ahead of it: then this much is added.
local LOST_IDS_MS = 60000

local action, token = ARGV[1], ARGV[2]
local found = redis.call('HMGET', meta_key, 'generation', 'seq', 'ts', 'halted', 'recovering')
local time = server.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
generation, seq, ts = found[1], tonumber(found[2] or '0'), math.max(now, tonumber(found[3] or '0'))

if action == 'close' then
  if generation ~= ARGV[4] or found[4] then return reply('CONFLICT') end
  redis.call('HSET', meta_key, 'halted', ARGV[3])
elseif action == 'halt' then
  redis.call('HSET', meta_key, 'halted', found[4] or ARGV[3], 'recovering', token)
elseif not found[4] or found[5] ~= token then
  return reply('CONFLICT')
elseif action == 'drop' then
  for i = 3, #ARGV do redis.call('UNLINK', ARGV[i]) end
elseif action == 'start' then
  redis.call('DEL', meta_key, events_key, commands_key, base .. 'snapshot')
  local last_ts = math.max(tonumber(found[3] or '0'), tonumber(ARGV[5]))
  generation, seq = ARGV[3], tonumber(ARGV[4])
  ts = last_ts < now and now or last_ts + LOST_IDS_MS
  create_log(generation, ARGV[4], number(ts), ARGV[6])
  redis.call('HSET', meta_key, 'recovered_seq', ARGV[4], 'halted', found[4], 'recovering', token)
elseif action == 'refill' then
  local index = 3
  while index <= #ARGV do
    local last_index = index + 1 + tonumber(ARGV[index + 1])
    redis.call('XADD', events_key, 'NOMKSTREAM', ARGV[index], unpack(ARGV, index + 2, last_index))
    index = last_index + 1
  end
elseif action == 'open' then
  if generation ~= ARGV[3] then return reply('CONFLICT') end
  redis.call('HDEL', meta_key, 'halted', 'recovering')
  redis.call('DEL', base .. 'salvage')
else
  return redis.error_reply('ERR unknown action ' .. action)
end
return reply('OK')
