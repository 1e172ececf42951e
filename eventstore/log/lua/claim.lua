-- Claims spawn commands for the free slots of a worker. In a pool with a placer it gets what was
-- placed with it instead (see `place`), and isolated agents.
-- ARGV  3 worker id, 4 its epoch, 5 '1': also return the agents in its slots (a reply was lost),
--       6 how many workers may run an isolated agent, 7 the role whose agents have nothing to do
--       before they run ('': none): they are started in the same step, unless they have saved a
--       state, 8 how many agents at most,
--       9 the id of the first event; the ids of the next ones follow it
-- Returns {OK, generation, seq, ts, agents, foreign} with
--       agents = { {agent id, spec or '', {field, value …}, {field, value …} changed since}, … },
--       without fields that had their default
--       foreign = { {entry id, reason, field, value …}, … }
--       An agent whose termination was requested is returned but not claimed: the worker ends it.
--       A foreign entry, which is not Muster's, is deleted and counted in meta.overlooked; the
--       first ten of a claim are returned.
-- Invariant: a worker never has more agents than slots, an isolated agent has all slots of its
-- worker, and of every entry that was read what `booking` says.

local worker_id, epoch, isolation_limit = ARGV[3], ARGV[4], tonumber(ARGV[6])
local role = ARGV[7]
local holder = { id = worker_id, epoch = epoch, actor = 'worker:' .. worker_id }
local held_key = base .. 'held:' .. worker_id

local worker = worker_of(worker_id)
if is_fenced(worker, tonumber(epoch)) then return reply('FENCED') end
number_events_from(ARGV[9])

local answer = {}
local function add_agent(id, flat, changes)
  local spec = redis.pcall('GET', base .. 'spec:' .. id)
  if type(spec) ~= 'string' then spec = spec and 'not a string' or '' end
  answer[#answer + 1] = { id, spec, flat, changes or {} }
end

local room = math.min(free_slots(worker), tonumber(ARGV[8]))
local booked = {} -- agents
local appended = seq

local function claim_agent(id, agent, flat)
  booked[#booked + 1] = id
  add_agent(id, flat, book(id, agent, holder, role))
end

-- First an isolated agent, if the worker is empty. It is chosen at random: in a fixed order the
-- last of the agents that were lost together, perhaps the one that killed them, would never be
-- chosen if few workers may run isolated agents.
local function claim_isolated()
  for _ = 1, 100 do
    local id = redis.call('ZRANDMEMBER', base .. 'alone')
    if not id then return end
    local agent, flat, reason = read(id)
    if agent and agent.status == 'pending' and agent.stop == '' then
      redis.call('ZREM', base .. 'alone', id)
      claim_agent(id, agent, flat)
      redis.call('HSET', process_key(worker_id), 'alone', id)
      redis.call('HINCRBY', meta_key, 'alone', 1)
      worker.alone = id
      return
    elseif agent and agent.status == 'pending' then
      return add_agent(id, flat)
    end
    redis.call('ZREM', base .. 'alone', id)
    if not agent then park_agent(id, reason) end
  end
end

local function hold_booked()
  if #booked > 0 then redis.call('SADD', held_key, unpack(booked)) end
  delete_entries()
end

local function claim_queued()
  local rounds, more = 0, true
  while more and #booked < room and rounds < 500 do
    rounds = rounds + 1
    local batch = redis.call('XREADGROUP', 'GROUP', GROUP, worker_id, 'COUNT', room - #booked,
      'STREAMS', commands_key, '>')
    more = batch and batch[1]
    for _, entry in ipairs(more and batch[1][2] or {}) do
      local agent, id, flat = resolve_command(entry)
      if agent then waiting = waiting - 1 end
      if not agent then
        done_with[#done_with + 1] = entry[1]
      elseif agent.stop ~= '' then
        redis.call('HSET', agent_key(id), 'claimed', '1')
        add_agent(id, flat)
      else
        claim_agent(id, agent, flat)
      end
    end
    delete_entries()
  end
  if rounds == 500 then push_inbox(worker_id, 'work') end
end

-- An agent in a slot of the worker: it is returned if it was placed and not fetched yet, or if
-- `again`. What nothing has to be done for before it runs is started.
local function return_held(id, again)
  local unfetched = is_unfetched(redis.pcall('HMGET', agent_key(id), 'placed', 'claim_seq'))
  if not (unfetched or again) then return end
  local agent, flat = read(id)
  if not agent then return end
  local changes = {}
  if unfetched then
    redis.call('HDEL', agent_key(id), 'placed')
    if starts_at_once(agent, role) and agent.status == 'starting' and agent.stop == '' then
      changes = start_at_once(id, agent, holder, agent.last_event_id or '', tonumber(agent.version))
      redis.call('HSET', agent_key(id), unpack(changes))
    end
  end
  add_agent(id, flat, changes)
end

local function claim()
  local again = ARGV[5] == '1'
  for _, id in ipairs((again or stored.placed) and redis.call('SMEMBERS', held_key) or {}) do
    return_held(id, again)
  end
  if room == worker.slots and room > 0 and worker.count == 0
    and tonumber(redis.call('HGET', meta_key, 'alone') or '0') < isolation_limit then
    claim_isolated()
  end
  if #booked == 0 and stored.placed ~= '1' then claim_queued() end
end

-- (Events that were appended before an error are recorded: the head must not be left behind.)
local done, why = pcall(claim)
local held, refusal = pcall(hold_booked)
if #booked > 0 then
  worker.left, worker.rescored = -#booked, false
  rescore_changed()
end
if seq > appended or waiting ~= stored_waiting then write_head() end
if not (done and held) then return redis.error_reply(error_text(why or refusal)) end
if #booked > 0 then wake() end
return reply('OK', answer, foreign)
