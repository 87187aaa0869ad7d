/** Lua of the sessions. For what the keys hold, see partitions.ts; for how rows are written, sessions.ts. */
import { luaScript } from "./connection.ts"
import { evenWhenFull, numbers } from "./lua.ts"

/**
 * `p`rincipal, `t`oken hash, `u` the one before, `g`eneration, `i`nstance, `a`ttempt, `n`ode, `d`etachedAt, `w`antedBy,
 * `e`nding, `r`evision.
 */
const row = `
local row = {'p', 't', 'u', 'g', 'i', 'a', 'n', 'd', 'w', 'e', 'r'}
`

/** KEYS: sessions. Answers each one's row, or {}. */
export const findSessions = luaScript(`${row}
local rows = {}
for i, key in ipairs(KEYS) do
  local fields = redis.call('HMGET', key, unpack(row))
  rows[i] = fields[1] and fields or {}
end
return rows
`)

/**
 * KEYS: session, totals, detached, tombstone. ARGV: tag, id, then the row.
 * Answers {'C'} (conflict) or {'S', position (optional)}.
 */
export const putSession = luaScript(`${numbers}${row}
local id, revision = ARGV[2], num(ARGV[13])
local old = redis.call('HMGET', KEYS[1], 'r', 'n', 'q', 'p')
if revision ~= num(old[1] or '0') + 1 then return {'C'} end
-- A session that is stored must be let go also when memory is full.
if old[1] then ${evenWhenFull("KEYS[2]")} end
local fields = {}
for i, name in ipairs(row) do
  fields[#fields + 1] = name
  fields[#fields + 1] = ARGV[i + 2]
end
redis.call('HSET', KEYS[1], unpack(fields))
if not old[1] then
  redis.call('HINCRBY', KEYS[2], 's', 1)
  redis.call('UNLINK', KEYS[4])
end
local node, detachedAt = ARGV[9], ARGV[10]
if old[2] ~= node then
  if old[2] and old[2] ~= '' then redis.call('SREM', ARGV[1] .. ':n:' .. string.sub(old[2], 2), id) end
  if node ~= '' then redis.call('SADD', ARGV[1] .. ':n:' .. string.sub(node, 2), id) end
end
local principal = ARGV[3]
local ending = ARGV[12] == '1'
if old[4] and old[4] ~= '' and (ending or old[4] ~= principal) then
  redis.call('ZREM', ARGV[1] .. ':p:' .. string.sub(old[4], 2), id)
end
if principal ~= '' and not ending then
  local since = detachedAt == '' and '+inf' or string.sub(detachedAt, 2)
  redis.call('ZADD', ARGV[1] .. ':p:' .. string.sub(principal, 2), since, id)
end
if detachedAt == '' then
  redis.call('ZREM', KEYS[3], id)
else
  redis.call('ZADD', KEYS[3], string.sub(detachedAt, 2), id)
end
return {'S', old[3] and '=' .. old[3] or ''}
`)

/**
 * KEYS: totals. ARGV: tag, then for each request session, generation, position, epoch, handled, strict ('1' or '0').
 * Answers for each request 'S' (saved), 'B' (behind), 'F' (fenced) or 'M' (missing).
 */
export const savePositions = luaScript(`${numbers}${evenWhenFull("KEYS[1]")}
local results = {}
local function save(i)
  local key = ARGV[1] .. ':r:' .. ARGV[i]
  local stored = redis.call('HMGET', key, 'g', 'k', 'h')
  if not stored[1] then return 'M' end
  if num(stored[1]) > num(ARGV[i + 1]) then return 'F' end
  local handled = num(ARGV[i + 4])
  if stored[2] == ARGV[i + 3] then
    local before = num(stored[3])
    if before > handled or (before == handled and ARGV[i + 5] == '1') then return 'B' end
  end
  redis.call('HSET', key, 'q', ARGV[i + 2], 'k', ARGV[i + 3], 'h', ARGV[i + 4])
  return 'S'
end
for i = 2, #ARGV, 6 do results[#results + 1] = save(i) end
return results
`)

/**
 * KEYS: session, totals, detached, tombstone. ARGV: tag, id, how many ms the tombstone stays (0 for none). Answers '1'
 * if there was a session.
 */
export const deleteSession = luaScript(`${evenWhenFull("KEYS[2]")}
if ARGV[3] ~= '0' then redis.call('SET', KEYS[4], '', 'PX', ARGV[3]) end
local node, principal = unpack(redis.call('HMGET', KEYS[1], 'n', 'p'))
if not node then return '0' end
if principal ~= '' then redis.call('ZREM', ARGV[1] .. ':p:' .. string.sub(principal, 2), ARGV[2]) end
redis.call('UNLINK', KEYS[1])
redis.call('HINCRBY', KEYS[2], 's', -1)
redis.call('ZREM', KEYS[3], ARGV[2])
if node ~= '' then redis.call('SREM', ARGV[1] .. ':n:' .. string.sub(node, 2), ARGV[2]) end
return '1'
`)

/** KEYS: tombstone. Answers '1' if it is there. */
export const wasEnded = luaScript(`
return redis.call('EXISTS', KEYS[1]) == 1 and '1' or '0'
`)

/** KEYS: detached. ARGV: at, limit. Answers sessions, each followed by when it was detached; the oldest first. */
export const detachedBefore = luaScript(`
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
`)

/** KEYS: sessions of a node. ARGV: limit. Answers some of them. */
export const sessionsOf = luaScript(`
return redis.call('SRANDMEMBER', KEYS[1], ARGV[1])
`)

/** KEYS: sessions of a principal. ARGV: limit. Answers the last connected ones, each with its score. */
export const sessionsOfPrincipal = luaScript(`
return redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[1])
`)

/** KEYS: totals, detached. Answers the numbers of sessions and of detached ones. */
export const countSessions = luaScript(`${numbers}
return {redis.call('HGET', KEYS[1], 's') or '0', str(redis.call('ZCARD', KEYS[2]))}
`)
