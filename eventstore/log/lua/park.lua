-- Puts something aside that cannot be processed, so that it holds up nobody else.
-- KEYS  meta, events
-- ARGV  1 floor generation, 2 floor seq, 3 source ('agent', 'worker', 'heartbeat'), 4 its id,
--       5 why, 6 the worker that holds the agent ('' : none does), 7 content where it is not in Redis
-- Returns {OK, generation, seq, ts, '1' if it was not parked before}.
-- Invariant: an agent that is parked is on no schedule, in no queue and in no slot of that worker, a
-- worker that is parked has no free slots; both stay as they stood.

local source, id, why, holder = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end

local new
if source == 'agent' then
  local content = redis.pcall('HGETALL', agent_key(id))
  local entry = redis.pcall('HGET', agent_key(id), 'command_id')
  if type(entry) == 'string' and string.match(entry, '^%d+%-%d+$') then
    local waited = redis.call('HGET', agent_key(id), 'claimed') ~= '1'
    redis.call('XACK', commands_key, GROUP, entry)
    if redis.call('XDEL', commands_key, entry) == 1 and waited then
      redis.call('HINCRBY', meta_key, 'waiting', -1)
    end
  end
  if holder ~= '' then vacate(id, holder) end
  new = park_agent(id, why, content.err and {} or content)
elseif source == 'worker' then
  local content = redis.pcall('HGETALL', process_key(id))
  local score = tonumber(redis.call('ZSCORE', base .. 'processes', id) or '0')
  if score > 0 then
    redis.call('ZADD', base .. 'processes', 0, id)
    redis.call('HINCRBY', meta_key, 'free', number(0 - score))
  end
  new = park(source, id, why, content.err and {} or content)
else
  new = park(source, id, why, { ARGV[7] })
end
return reply('OK', new and '1' or '')
