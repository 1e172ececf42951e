-- Places waiting agents: hands each over to the worker that the pool's placer chose, with a slot.
-- ARGV  3 host, 4 term of the leader, which is the placer, 5 the id of the first event; the ids of
--       the next ones follow it, 6… for each: agent id, incarnation, worker id, its epoch, and the
--       data (JSON) of its agent.claimed
-- Returns {OK, generation, seq, ts, {outcome, …}, foreign}; foreign as `claim` does
--       outcome: placed; agent: it does not wait at that incarnation; unread: its command was not
--       read yet; worker: it has ended, or another epoch, or no room now
-- Invariant: only the pool's leader places; a worker never has more agents than slots. Commands are
-- pending for PLACER, which is no worker and has no owner, until they are handed over: whoever
-- leads next goes on with them.

local BATCH = 1000
local leader = redis.call('HMGET', base .. 'leader', 'host', 'term')
if leader[1] ~= ARGV[3] or leader[2] ~= ARGV[4] then return reply('FENCED') end
number_events_from(ARGV[5])

-- Reads commands on behalf of all leaders.
local function read_commands()
  local batch = redis.call('XREADGROUP', 'GROUP', GROUP, PLACER, 'COUNT', BATCH,
    'STREAMS', commands_key, '>')
  for _, entry in ipairs(batch and batch[1] and batch[1][2] or {}) do
    if not resolve_command(entry) then done_with[#done_with + 1] = entry[1] end
  end
  delete_entries()
end

local stalled = stalled_workers()

-- What claims do with an agent that cannot be read: it waits no more.
local function park_damaged(id, flat, reason)
  if redis.call('SISMEMBER', base .. 'agents', id) == 0 then return end
  local command_id = redis.pcall('HGET', agent_key(id), 'command_id')
  if type(command_id) ~= 'string' then command_id = '' end
  park_unreadable(id, { command_id, {} }, flat, reason)
  if parse_id(command_id) then done_with[#done_with + 1] = command_id end
end

local function place(id, incarnation, worker_id, epoch, data)
  local worker = worker_of(worker_id)
  local has_room = free_slots(worker) + worker.left > 0 and not stalled[worker_id]
  if is_fenced(worker, tonumber(epoch)) or not has_room then return 'worker' end
  local agent, flat, reason = read(id)
  if not agent then park_damaged(id, flat, reason) end
  local waits = agent and agent.status == 'pending' and agent.stop == ''
    and agent.incarnation == incarnation and (agent.command_id or '') ~= ''
  if not waits then return 'agent' end
  local command_id = agent.command_id
  if #redis.call('XCLAIM', commands_key, GROUP, worker_id, 0, command_id, 'JUSTID') == 0 then
    return 'unread'
  end
  book(id, agent, { id = worker_id, epoch = epoch, actor = 'supervisor:' .. ARGV[3], data = data })
  redis.call('HSET', agent_key(id), 'placed', number(seq))
  redis.call('SADD', base .. 'held:' .. worker_id, id)
  worker.left, worker.rescored, waiting = worker.left - 1, false, waiting - 1
  push_inbox(worker_id, 'work')
  return 'placed'
end

-- (An error in one is its outcome: the others are placed.)
local appended, outcomes = seq, {}
local done, why = pcall(read_commands)
for i = 6, #ARGV, 5 do
  local placed, outcome = pcall(place, unpack(ARGV, i, i + 4))
  outcomes[#outcomes + 1] = placed and outcome or 'error: ' .. error_text(outcome)
end
pcall(delete_entries)
rescore_changed()
if seq > appended or waiting ~= stored_waiting then write_head() end
if not done then return redis.error_reply(error_text(why)) end
return reply('OK', outcomes, foreign)
