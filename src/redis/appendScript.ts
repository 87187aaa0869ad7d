/** Lua that appends to outboxes. For what the keys hold, see partitions.ts. */
import { luaScript } from "./connection.ts"
import { nudging, numbers, publishKeys, settling } from "./lua.ts"

/**
 * KEYS: totals, publish keys, committed, claimed, writers, the writer's batch (or totals again when there is no stamp),
 * fates of all. ARGV: tag, channel prefix, node, writer (optional), sequence; then for each request session, count,
 * bytes, enqueuedAt, expiresAt, maxMessages, maxBytes, body, publish key's id ("" without), the key, fingerprint
 * (optional), forgottenBefore, maxKeys, known epoch and last ("" without), unsettled, generation. Answers {'S', newest
 * sequence} if the writer's newest is newer than this, else {'R', results…}. A result is {'A', epoch, first, lost}
 * (appended), {'M'} (missing), {'U', node} (not settled), {'F', limit, messages, bytes} (full), {'D', receipt…}
 * (duplicate), {'X', …} (mismatch), {'I', until} (in flight) or {'K'} (keys full).
 */
export const append = luaScript(`${numbers}${nudging}${publishKeys}${settling}
local totals, keys, committed, claimed, writers, batch, fates = unpack(KEYS)
history = historyNow()
local tag, channel, node, writer, sequence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if writer ~= '' then
  local newest = redis.call('HMGET', batch, 's', 'r')
  if newest[1] then
    if newest[1] == sequence then return cmsgpack.unpack(newest[2]) end
    if num(newest[1]) > num(sequence) then return {'S', newest[1]} end
  end
end

local addedMessages, addedBytes = 0, 0
local results = {'R'}

local function knownOf(outbox, i)
  return ARGV[i + 14] ~= '' and ARGV[i + 13] == outbox[1] and num(ARGV[i + 14]) or 0
end

local function fits(outbox, i)
  return outbox[7] == history and num(ARGV[i + 16]) <= num(outbox[8])
end

-- What was appended in this history, and perhaps has to be moved, comes after this.
local function firstOf(outbox)
  local first = outbox[9]
  if outbox[7] == history then first = outbox[10] end
  return first and math.max(num(first), num(outbox[11])) or math.huge
end

local function settles(outbox, i)
  if fits(outbox, i) or num(ARGV[i + 16]) ~= num(outbox[8]) then return false end
  if ARGV[i + 15] == 'moved' then return num(outbox[2]) <= knownOf(outbox, i) end
  return ARGV[i + 15] == 'settle' and firstOf(outbox) == math.huge
end

local function refusal(outbox, i)
  if not outbox[1] then return {'M'} end
  if not fits(outbox, i) and ARGV[i + 15] ~= 'allow' and not settles(outbox, i) then return {'U', outbox[6]} end
  local id, enqueuedAt = ARGV[i + 8], ARGV[i + 3]
  if id ~= '' then
    local key = liveKey(keys, id, num(ARGV[i + 11]), num(enqueuedAt))
    if key then return usedKey(key, ARGV[i + 10]) end
  end
  local messages, bytes = num(outbox[3]), num(outbox[4])
  if messages + num(ARGV[i + 1]) > num(ARGV[i + 5]) then return {'F', 'messages', outbox[3], outbox[4]} end
  if bytes + num(ARGV[i + 2]) > num(ARGV[i + 6]) then return {'F', 'bytes', outbox[3], outbox[4]} end
  if id ~= '' and keysFull(committed, claimed, ARGV[i + 11], enqueuedAt, num(ARGV[i + 12])) then return {'K'} end
  return nil
end

for i = 6, #ARGV, 17 do
  local session = ARGV[i]
  local outboxKey = tag .. ':o:' .. session
  local outbox = redis.call('HMGET', outboxKey, 'e', 'l', 'm', 'b', 'x', 'n', 'i', 'g', 'y', 'z', 'a')
  local refused = refusal(outbox, i)
  if refused then
    results[#results + 1] = refused
  else
    local count, bytes = num(ARGV[i + 1]), num(ARGV[i + 2])
    local known, stored, lost = knownOf(outbox, i), num(outbox[2]), 0
    if settles(outbox, i) then
      local from = firstOf(outbox)
      if ARGV[i + 15] == 'moved' then
        if from < known then
          local messages, freed = dropAfter(tag, session, from, stored, known)
          outbox[3], outbox[4] = str(num(outbox[3]) - messages), str(num(outbox[4]) - freed)
          addedMessages, addedBytes = addedMessages - messages, addedBytes - freed
          stored = known
        end
        from = known
      end
      redis.call('HSET', outboxKey, 'i', history, 'z', str(math.min(from, math.max(stored, known))))
      redis.call('HDEL', outboxKey, 'y', 'v')
    elseif outbox[7] ~= history then
      redis.call('HSETNX', outboxKey, 'y', outbox[2])
      redis.call('HSET', outboxKey, 'v', history)
    end
    if known > stored then
      lost = known - stored
      takeLost(tag, session, fates, stored, stored + lost, ARGV[i + 3])
    end
    local first, last = str(stored + lost + 1), str(stored + lost + count)
    redis.call('XADD', tag .. ':c:' .. session, last .. '-0', 'f', first, 'n', ARGV[i + 2], 't', ARGV[i + 3],
      'x', ARGV[i + 4], 'd', ARGV[i + 7])
    redis.call('HSET', outboxKey, 'l', last, 'm', str(num(outbox[3]) + count), 'b', str(num(outbox[4]) + bytes),
      'x', str(math.min(num(outbox[5]), num(ARGV[i + 4]))))
    addedMessages = addedMessages + count
    addedBytes = addedBytes + bytes
    local id = ARGV[i + 8]
    if id ~= '' then
      local at = ARGV[i + 3]
      redis.call('HSET', keys, id, cmsgpack.pack({'', ARGV[i + 10], at, at, ARGV[i + 9], outbox[1], first, at}))
      redis.call('ZADD', committed, at, id)
      redis.call('ZREM', claimed, id)
    end
    if outbox[6] ~= node then nudge(tag, channel, outbox[6], session) end
    results[#results + 1] = {'A', outbox[1], first, str(lost)}
  end
end

if addedMessages ~= 0 or addedBytes ~= 0 then
  redis.call('HINCRBY', totals, 'm', str(addedMessages))
  redis.call('HINCRBY', totals, 'b', str(addedBytes))
end
if writer ~= '' then
  redis.call('HSET', batch, 's', sequence, 'r', cmsgpack.pack(results))
  redis.call('ZADD', writers, 0, string.sub(writer, 2))
end
return results
`)
