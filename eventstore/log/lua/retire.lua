-- Deletes the keys of a deleted pool whose events are archived, in two steps.
-- ARGV  3 token, 4 generation and 5 last seq of the archive, 6 '1' to delete, '' to prepare that
-- Prepared: returns {OK, generation, seq, ts, fields and values of the meta hash}. CONFLICT if the
-- archive ends elsewhere, or if an agent, a worker or a command is left.
-- Deleted: CONFLICT unless the log is as it was when it was prepared with this token, and was not
-- created again since.
-- Invariant: between the two steps the catalogue stores the fields, from which `init` continues the
-- log, so that its seq, generation and epochs never go back.

local NEVER_EMPTY = { 'events', 'commands', 'heartbeats', 'signals', 'leader', 'meta' }
local IN_USE = { 'processes', 'agents', 'due', 'timeouts', 'orders', 'lost', 'alone', 'parked',
  'stalled' }

local function keys_of(names)
  local keys = {}
  for i, name in ipairs(names) do keys[i] = base .. name end
  return unpack(keys)
end

if generation ~= ARGV[4] or number(seq) ~= ARGV[5] then return reply('CONFLICT') end
if redis.call('EXISTS', keys_of(IN_USE)) > 0 or redis.call('XLEN', commands_key) > 0 then
  return reply('CONFLICT')
end
if ARGV[6] ~= '1' then
  redis.call('HSET', meta_key, 'retiring', ARGV[3])
  return reply('OK', redis.call('HGETALL', meta_key))
end
if redis.call('HGET', meta_key, 'retiring') ~= ARGV[3] then return reply('CONFLICT') end
redis.call('UNLINK', keys_of(NEVER_EMPTY))
return reply('OK')
