/** Lua of publish keys. KEYS of all: keys, committed, claimed, totals. The first of ARGV is the key's id. */
import { luaScript } from "./connection.ts"
import { evenWhenFull, numbers, publishKeys } from "./lua.ts"

const names = `
local keys, committed, claimed, totals = unpack(KEYS)
local id = ARGV[1]
`

/** A key that this token has claimed: committed, or with a claim that has not ended by `now`. */
const held = `
local function heldKey(token, now)
  local packed = redis.call('HGET', keys, id)
  if not packed then return nil end
  local key = cmsgpack.unpack(packed)
  if key[1] ~= token then return nil end
  if key[4] == '' and num(key[3]) <= now then return nil end
  return key
end
`

/**
 * ARGV: id, token, fingerprint (optional), now, until, forgottenBefore, maxKeys.
 * Answers {'C'} (claimed), {'D', receipt…}, {'X', receipt…} or {'X'} (mismatch), {'I', until} or {'K'} (full).
 */
export const claimKey = luaScript(`${numbers}${publishKeys}${names}
local token, now = '=' .. ARGV[2], ARGV[4]
local key = liveKey(keys, id, num(ARGV[6]), num(now))
if not key or key[4] ~= '' or key[1] ~= token then
  if key then return usedKey(key, ARGV[3]) end
  if keysFull(committed, claimed, ARGV[6], now, num(ARGV[7])) then return {'K'} end
end
redis.call('HSET', keys, id, cmsgpack.pack({token, ARGV[3], ARGV[5], '', '', '', '', ''}))
redis.call('ZADD', claimed, ARGV[5], id)
redis.call('ZREM', committed, id)
return {'C'}
`)

/** ARGV: id, token, now, until. Answers '1' if the claim was still held. */
export const renewKey = luaScript(`${numbers}${names}${held}${evenWhenFull("totals")}
local key = heldKey('=' .. ARGV[2], num(ARGV[3]))
if not key or key[4] ~= '' then return '0' end
key[3] = ARGV[4]
redis.call('HSET', keys, id, cmsgpack.pack(key))
redis.call('ZADD', claimed, ARGV[4], id)
return '1'
`)

/**
 * ARGV: id, token, now, and the receipt's message, epoch, offset and time. Answers '1' if the claim was still held, or
 * is committed already.
 */
export const commitKey = luaScript(`${numbers}${names}${held}${evenWhenFull("totals")}
local key = heldKey('=' .. ARGV[2], num(ARGV[3]))
if not key then return '0' end
if key[4] ~= '' then return '1' end
key[4], key[5], key[6], key[7], key[8] = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
redis.call('HSET', keys, id, cmsgpack.pack(key))
redis.call('ZADD', committed, ARGV[3], id)
redis.call('ZREM', claimed, id)
return '1'
`)

/** ARGV: id, token. */
export const releaseKey = luaScript(`${numbers}${names}${held}${evenWhenFull("totals")}
local key = heldKey('=' .. ARGV[2], -math.huge)
if key and key[4] == '' then
  redis.call('HDEL', keys, id)
  redis.call('ZREM', claimed, id)
end
return '1'
`)

/** ARGV: id, forgottenBefore. Answers the receipt, or {}. */
export const lookupKey = luaScript(`${numbers}${publishKeys}${names}
local key = liveKey(keys, id, num(ARGV[2]), math.huge)
if not key or key[4] == '' then return {} end
return {key[5], key[6], key[7], key[8]}
`)

/** ARGV: '', forgottenBefore, now, limit. Answers how many keys it removed. */
export const sweepKeys = luaScript(`${numbers}${names}${evenWhenFull("totals")}
local swept = 0
local function sweep(index, border)
  local over = redis.call('ZRANGEBYSCORE', index, '-inf', border, 'LIMIT', 0, str(num(ARGV[4]) - swept))
  for _, key in ipairs(over) do
    redis.call('HDEL', keys, key)
    redis.call('ZREM', index, key)
  end
  swept = swept + #over
end
sweep(committed, '(' .. ARGV[2])
if swept < num(ARGV[4]) then sweep(claimed, ARGV[3]) end
return str(swept)
`)

/** ARGV: '', forgottenBefore, now. Answers the numbers of keys committed and claimed. */
export const countKeys = luaScript(`${numbers}${names}
return {
  str(redis.call('ZCOUNT', committed, ARGV[2], '+inf')),
  str(redis.call('ZCOUNT', claimed, '(' .. ARGV[3], '+inf'))
}
`)
