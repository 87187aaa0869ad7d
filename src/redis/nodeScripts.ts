/** Lua of what nodes share: who lives, nudges, writers, and how the store is laid out. */
import { luaScript } from "./connection.ts"
import { evenWhenFull, nudging, numbers, settling } from "./lua.ts"

/** KEYS: totals of the first partition, whose server answers. Answers {seconds, microseconds}. */
export const readClock = luaScript(`
return redis.call('TIME')
`)

/** KEYS: totals of a partition. Answers the history of its server. */
export const readHistory = luaScript(`${numbers}${settling}
return historyNow()
`)

/**
 * KEYS: format. ARGV: version, number of partitions ("" for what suits the server). Answers '<version>:<partitions>',
 * which the first caller decides.
 */
export const readFormat = luaScript(`
local format = redis.call('GET', KEYS[1])
if format then return format end
local partitions = ARGV[2]
if partitions == '' then
  local info = redis.pcall('INFO', 'cluster')
  local isAlone = type(info) == 'string' and string.find(info, 'cluster_enabled:0', 1, true)
  partitions = isAlone and '1' or '16'
end
format = ARGV[1] .. ':' .. partitions
redis.call('SET', KEYS[1], format)
return format
`)

/** KEYS: nodes, totals. ARGV: node, at. */
export const touchNode = luaScript(`${evenWhenFull("KEYS[2]")}
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return '1'
`)

/** KEYS: nodes. Answers each node, followed by when it was seen. */
export const readNodes = luaScript(`
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
`)

/** KEYS: nodes, totals. ARGV: node. */
export const dropNode = luaScript(`${evenWhenFull("KEYS[2]")}
redis.call('ZREM', KEYS[1], ARGV[1])
return '1'
`)

/**
 * KEYS: nudges of the node, writers, totals. ARGV: tag, node, limit.
 * Forgets the nudges and at most `limit` writers. Answers '1' when there may be more of them. Writers are in the order
 * of their names; "0" comes after "/".
 */
export const forgetNode = luaScript(`${evenWhenFull("KEYS[3]")}
redis.call('UNLINK', KEYS[1])
local writers = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[2] .. '/', '(' .. ARGV[2] .. '0', 'LIMIT', 0, ARGV[3])
local more = #writers == tonumber(ARGV[3]) and '1' or '0'
writers[#writers + 1] = ARGV[2]
for _, writer in ipairs(writers) do
  redis.call('ZREM', KEYS[2], writer)
  redis.call('UNLINK', ARGV[1] .. ':w:' .. writer)
end
return more
`)

/** KEYS: totals. ARGV: tag, channel prefix, node, session. */
export const addNudge = luaScript(`${nudging}${evenWhenFull("KEYS[1]")}
nudge(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return '1'
`)

/** KEYS: nudges of the node. ARGV: limit. Answers those taken. */
export const takeNudges = luaScript(`
return redis.call('SPOP', KEYS[1], ARGV[1])
`)

/** KEYS: totals. Answers the sections of INFO that say how durable the server is, and who it is. */
export const readInfo = luaScript(`
return {redis.call('INFO', 'server'), redis.call('INFO', 'memory'), redis.call('INFO', 'persistence')}
`)
