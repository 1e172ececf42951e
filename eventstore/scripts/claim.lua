-- Claims spawn commands for the free slots of the worker that asks.
-- KEYS  meta, events
-- ARGV  1 floor generation, 2 floor seq, 3 worker id, 4 its epoch, 5 '1': tell again what it
--       holds and has not settled (a reply was lost), 6… event ids, one for each agent at most
-- Returns {OK, generation, seq, ts, told} with told = { {agent id, spec or '', hash …}, … }.
--       An agent whose end was asked for is told without being claimed: the worker ends it.
-- Invariant: a worker never holds more agents than it has slots, and every entry that it was
-- given is booked, told for its end, or deleted in the same step.

local worker, epoch = ARGV[3], ARGV[4]
local held_key = base .. 'held:' .. worker

local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end
local process = redis.call('HMGET', process_key(worker), 'epoch', 'status', 'max_agents',
  'agent_count')
if process[1] ~= epoch or process[2] == 'lost' or process[2] == 'stopped' then
  return reply('FENCED')
end

local told = {}
local function tell(id)
  local hash = redis.call('HGETALL', agent_key(id))
  told[#told + 1] = { id, redis.call('GET', base .. 'spec:' .. id) or '', unpack(hash) }
end

if ARGV[5] == '1' then
  for _, id in ipairs(redis.call('SMEMBERS', held_key)) do
    if redis.call('HGET', agent_key(id), 'status') == 'starting' then tell(id) end
  end
end

local free = 0
if process[2] == 'active' then free = tonumber(process[3]) - tonumber(process[4] or '0') end
free = math.min(free, #ARGV - 5)
local booked, rounds = 0, 0
while booked < free and rounds < 100 do
  rounds = rounds + 1
  local batch = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', free - booked,
    'STREAMS', commands_key, '>')
  if not batch or not batch[1] then break end
  for _, entry in ipairs(batch[1][2]) do
    redis.call('HINCRBY', meta_key, 'waiting', -1)
    local fields = {}
    for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
    local id = fields.agent_id
    local agent = redis.call('HMGET', agent_key(id), 'status', 'incarnation', 'stop', 'version')
    if agent[1] ~= 'pending' or agent[2] ~= fields.incarnation then
      redis.call('XACK', commands_key, GROUP, entry[1])
      redis.call('XDEL', commands_key, entry[1])
    elseif agent[3] ~= '' then
      redis.call('HSET', agent_key(id), 'claimed', '1')
      tell(id)
    else
      booked = booked + 1
      append({ 'agent.claimed', '1', ARGV[5 + booked], id, agent[2], worker, epoch, '', '', '',
        'worker:' .. worker, '{}' })
      redis.call('HSET', agent_key(id), 'status', 'starting', 'reason', '',
        'process_id', worker, 'epoch', epoch, 'claim_seq', number(seq), 'claimed', '1',
        'expires_ms', '0', 'version', number(tonumber(agent[4]) + 1))
      redis.call('SADD', held_key, id)
      redis.call('ZREM', base .. 'timeouts', id)
      tell(id)
    end
  end
end
if booked > 0 then
  redis.call('HINCRBY', process_key(worker), 'agent_count', booked)
  rescore(worker)
  close_log()
  wake()
end
return reply('OK', told)
