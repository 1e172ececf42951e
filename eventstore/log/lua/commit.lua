-- Commits one step: checks that what was decided on still holds, then writes all of it at once.
-- KEYS  meta, events
-- ARGV  1 floor generation (0: any), 2 floor seq, then clauses: a word and its values.
--       Checks (all before any write):
--         ?worker id epoch        it lives with that epoch, else FENCED
--         ?fenced id epoch        it was declared lost with that epoch, else FENCED
--         ?agent id version incarnation   version 0: must not exist; CONFLICT, or FENCED where the
--                                         incarnation moved
--         ?process id version     version 0: must not exist; else CONFLICT
--         ?renewal id number      its lease was not renewed since, else CONFLICT
--         ?empty id               it holds no agents, else CONFLICT
--         ?settled id             no entry is pending for it, else CONFLICT
--         ?leader host term       else FENCED
--         ?meta field value       else CONFLICT ('' : absent)
--         ?vacant                 the pool has no live agents, else CONFLICT
--         ?open created_seq       that creation of the pool was not closed since, else CLOSED
--         ?life created_seq       no spawn entered a later creation of the pool, else FENCED
--         ?backlog limit          fewer commands wait, else FULL with their number
--         ?operation id           not seen before, else KNOWN with digest, answer and the seq it was
--                                 written at (0 where a recovery restored it)
--         ?parked id              it is parked, else CONFLICT
--       Writes, in the order given:
--         event (12 values, see prelude)
--         agent id n (field value) * n      process id n (field value) * n
--         live id | ended id expire_ms      spec id json
--         queue id incarnation reason       unqueue id       discard entry
--         vacate id worker                  (gives a slot back)
--         due id at_ms | undue id           timeout id at_ms | untimeout id
--         order id deadline_ms | unorder id
--         enlist id | delist id             lost id | forget id expire_ms
--         isolate id                        (waits for a worker of its own)
--         share worker                      (is not one agent's alone any more)
--         unpark id                         (an agent is not parked any more)
--         mend_agent id                     (its key is deleted, and rebuilt by what follows)
--         mend_process id                   (its key is rebuilt, with what its slots hold)
--         inbox id word | signal kind value | wake
--         operation id digest answer ttl_ms  resign
--         meta field value
-- Returns {OK, generation, seq, ts, stream id of its last event ('' if it has none)}.
-- Invariant: either every write of the step is in the data set, or none.

local ARITY = {
  ['?worker'] = 2, ['?fenced'] = 2, ['?agent'] = 3, ['?process'] = 2, ['?renewal'] = 2, ['?empty'] = 1,
  ['?settled'] = 1, ['?leader'] = 2, ['?meta'] = 2, ['?vacant'] = 0, ['?open'] = 1, ['?life'] = 1,
  ['?backlog'] = 1, ['?operation'] = 1, ['?parked'] = 1,
  isolate = 1, share = 1, unpark = 1, mend_agent = 1, mend_process = 1,
  event = 12, agent = 2, process = 2, live = 1, ended = 2, spec = 2, queue = 3, unqueue = 1, discard = 1,
  vacate = 2, due = 2, undue = 1, timeout = 2, untimeout = 1, order = 2, unorder = 1, enlist = 1,
  delist = 1, lost = 1, forget = 2, inbox = 2, signal = 2, wake = 0, operation = 4, meta = 2, resign = 0,
}

local checks = {}

checks['?worker'] = function(id, epoch)
  local process = redis.call('HMGET', process_key(id), 'epoch', 'status')
  local status = process[2]
  if process[1] ~= epoch or status == 'lost' or status == 'stopped' then return reply('FENCED') end
end

checks['?fenced'] = function(id, epoch)
  local process = redis.call('HMGET', process_key(id), 'epoch', 'status')
  if process[1] ~= epoch or process[2] ~= 'lost' then return reply('FENCED') end
end

checks['?agent'] = function(id, version, incarnation)
  local found = redis.call('HMGET', agent_key(id), 'version', 'incarnation')
  if (found[1] or '0') == version then return end
  if found[2] and found[2] ~= incarnation then return reply('FENCED') end
  return reply('CONFLICT')
end

-- (A version that cannot be read is 0.)
checks['?process'] = function(id, version)
  local found = redis.pcall('HGET', process_key(id), 'version')
  if type(found) ~= 'string' or not string.match(found, '^%d+$') then found = '0' end
  if found ~= version then return reply('CONFLICT') end
end

checks['?renewal'] = function(id, renewal)
  if (redis.call('HGET', process_key(id), 'renewal') or '0') ~= renewal then
    return reply('CONFLICT')
  end
end

checks['?empty'] = function(id)
  if redis.call('SCARD', base .. 'held:' .. id) > 0 then return reply('CONFLICT') end
end

checks['?settled'] = function(id)
  if #redis.call('XPENDING', commands_key, GROUP, '-', '+', 1, id) > 0 then
    return reply('CONFLICT')
  end
end

checks['?leader'] = function(host, term)
  local leader = redis.call('HMGET', base .. 'leader', 'host', 'term')
  if leader[1] ~= host or leader[2] ~= term then return reply('FENCED') end
end

checks['?meta'] = function(field, value)
  if (redis.call('HGET', meta_key, field) or '') ~= value then return reply('CONFLICT') end
end

checks['?vacant'] = function()
  if redis.call('SCARD', base .. 'agents') > 0 then return reply('CONFLICT') end
end

checks['?open'] = function(created)
  if redis.call('HGET', meta_key, 'closed') == created then return reply('CLOSED') end
end

checks['?life'] = function(created)
  local latest = redis.call('HGET', meta_key, 'created') or '0'
  if tonumber(latest) > tonumber(created) then return reply('FENCED') end
end

checks['?backlog'] = function(limit)
  local waiting = tonumber(redis.call('HGET', meta_key, 'waiting') or '0')
    + redis.call('ZCARD', base .. 'alone')
  if waiting >= tonumber(limit) then return reply('FULL', number(waiting)) end
end

checks['?operation'] = function(id)
  local known = redis.call('HMGET', base .. 'operation:' .. id, 'digest', 'answer', 'seq')
  if known[1] then return reply('KNOWN', known[1], known[2], known[3] or '0') end
end

checks['?parked'] = function(id)
  if redis.call('HEXISTS', base .. 'parked', id) == 0 then return reply('CONFLICT') end
end

local writes = {}

writes.event = function(...) append({ ... }) end

writes.agent = function(id, fields) redis.call('HSET', agent_key(id), unpack(fields)) end

writes.process = function(id, fields) redis.call('HSET', process_key(id), unpack(fields)) end

writes.live = function(id) redis.call('SADD', base .. 'agents', id) end

writes.ended = function(id, expire_ms)
  redis.call('SREM', base .. 'agents', id)
  redis.call('PEXPIRE', agent_key(id), expire_ms)
  redis.call('DEL', base .. 'spec:' .. id)
end

writes.spec = function(id, json) redis.call('SET', base .. 'spec:' .. id, json) end

writes.queue = function(id, incarnation, reason)
  local entry = redis.call('XADD', commands_key, 'NOMKSTREAM', number(ts) .. '-*',
    'type', 'agent.spawn', 'agent_id', id, 'incarnation', incarnation, 'reason', reason)
  redis.call('HSET', agent_key(id), 'command_id', entry, 'claimed', '')
  redis.call('HINCRBY', meta_key, 'waiting', 1)
end

writes.isolate = function(id)
  redis.call('ZADD', base .. 'alone', number(ts), id)
  redis.call('HSET', agent_key(id), 'command_id', '', 'claimed', '')
end

writes.unqueue = function(id)
  redis.call('ZREM', base .. 'alone', id)
  local entry = redis.call('HMGET', agent_key(id), 'command_id', 'claimed')
  if not entry[1] or entry[1] == '' then return end
  redis.call('XACK', commands_key, GROUP, entry[1])
  local stood = redis.call('XDEL', commands_key, entry[1]) == 1
  redis.call('HSET', agent_key(id), 'command_id', '', 'claimed', '')
  if stood and entry[2] ~= '1' then redis.call('HINCRBY', meta_key, 'waiting', -1) end
end

writes.discard = function(entry)
  redis.call('XACK', commands_key, GROUP, entry)
  redis.call('XDEL', commands_key, entry)
end

writes.vacate = vacate
writes.share = share
writes.unpark = function(id) redis.call('HDEL', base .. 'parked', id) end
writes.mend_agent = function(id) redis.call('DEL', agent_key(id)) end

writes.mend_process = function(id)
  local held, isolated = redis.call('SMEMBERS', base .. 'held:' .. id), ''
  for _, agent in ipairs(held) do
    if redis.pcall('HGET', agent_key(agent), 'alone') == '1' then isolated = agent end
  end
  redis.call('DEL', process_key(id))
  redis.call('HSET', process_key(id), 'agent_count', number(#held), 'alone', isolated,
    'renewal', '0', 'last_heartbeat', number(ts))
end

writes.due = function(id, at) redis.call('ZADD', base .. 'due', at, id) end
writes.undue = function(id) redis.call('ZREM', base .. 'due', id) end
writes.timeout = function(id, at) redis.call('ZADD', base .. 'timeouts', at, id) end
writes.untimeout = function(id) redis.call('ZREM', base .. 'timeouts', id) end
writes.order = function(id, at) redis.call('ZADD', base .. 'orders', at, id) end
writes.unorder = function(id) redis.call('ZREM', base .. 'orders', id) end
writes.enlist = function(id) rescore(id, true) end

writes.delist = function(id)
  local score = redis.call('ZSCORE', base .. 'processes', id)
  if score then
    redis.call('ZREM', base .. 'processes', id)
    redis.call('HINCRBY', meta_key, 'free', number(0 - tonumber(score)))
  end
end

writes.lost = function(id) redis.call('SADD', base .. 'lost', id) end

writes.forget = function(id, expire_ms)
  redis.call('XGROUP', 'DELCONSUMER', commands_key, GROUP, id)
  redis.call('SREM', base .. 'lost', id)
  redis.call('DEL', base .. 'inbox:' .. id, base .. 'held:' .. id)
  redis.call('PEXPIRE', process_key(id), expire_ms)
end

writes.inbox = push_inbox
writes.signal = signal
writes.wake = wake

writes.operation = function(id, digest, answer, ttl_ms)
  local key = base .. 'operation:' .. id
  local at = RESTORING and 0 or seq
  redis.call('HSET', key, 'digest', digest, 'answer', answer, 'seq', number(at))
  redis.call('PEXPIRE', key, ttl_ms)
end

writes.resign = function() redis.call('HSET', base .. 'leader', 'host', '') end

writes.meta = function(field, value) redis.call('HSET', meta_key, field, value) end

-- Read all clauses before anything is done.
local asked, todo = {}, {}
local at = 3
while at <= #ARGV do
  local word = ARGV[at]
  local arity = ARITY[word]
  if not arity then return redis.error_reply('ERR unknown clause ' .. word) end
  local values = {}
  for i = 1, arity do values[i] = ARGV[at + i] end
  at = at + arity + 1
  if word == 'agent' or word == 'process' then
    local fields = {}
    for i = 0, 2 * tonumber(values[2]) - 1 do fields[i + 1] = ARGV[at + i] end
    at = at + #fields
    values = { values[1], fields }
  end
  local list = checks[word] and asked or todo
  list[#list + 1] = { word, values }
end
if at ~= #ARGV + 1 then return redis.error_reply('ERR a clause is cut short') end

local refusal = open_log(ARGV[1], ARGV[2])
if refusal then return refusal end
for _, clause in ipairs(asked) do
  refusal = checks[clause[1]](unpack(clause[2]))
  if refusal then return refusal end
end
for _, clause in ipairs(todo) do writes[clause[1]](unpack(clause[2])) end
close_log()
return reply('OK', last_entry)
