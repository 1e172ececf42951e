-- Parks an agent whose hash cannot be read, so that it blocks no other.
-- ARGV  3 agent id, 4 reason, 5 the worker whose slot it has ('' : none)
-- Returns {OK, generation, seq, ts, '1' if it was not parked before}.
-- Invariant: a parked agent is on no schedule, in no queue and in no slot of that worker; its hash
-- is not changed.

local id, reason, holder = ARGV[3], ARGV[4], ARGV[5]
local entry = redis.pcall('HGET', agent_key(id), 'command_id')
if type(entry) == 'string' and string.match(entry, '^%d+%-%d+$') then
  local was_waiting = redis.call('HGET', agent_key(id), 'claimed') ~= '1'
  redis.call('XACK', commands_key, GROUP, entry)
  if redis.call('XDEL', commands_key, entry) == 1 and was_waiting then
    waiting = waiting - 1
  end
end
if holder ~= '' then vacate(id, holder) end
rescore_changed()
write_head()
return reply('OK', park_agent(id, reason) and '1' or '')
