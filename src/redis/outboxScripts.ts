/** Lua of the outboxes, except appending. For what the keys hold, see partitions.ts. */
import { luaScript } from "./connection.ts"
import { evenWhenFull, notingFates, numbers, settling } from "./lua.ts"

/** The last field is the present history, not a field of the outbox. */
const state = `${settling}
local function stateAt(key)
  local fields = redis.call('HMGET', key, 'g', 'e', 'a', 'l', 'm', 'b', 's', 'r', 'x', 'n', 'i', 'y')
  fields[13] = historyNow()
  return fields
end
`

/**
 * KEYS: outbox, totals. ARGV: generation, node, new epoch, whether it is being put back. Answers the state: the
 * outbox's fields, and the history of the store.
 */
export const openOutbox = luaScript(`${numbers}${state}
local stored = redis.call('HMGET', KEYS[1], 'g', 'r')
if not stored[1] then
  redis.call('HSET', KEYS[1], 'g', ARGV[1], 'e', ARGV[3], 'a', '0', 'l', '0', 'm', '0', 'b', '0', 's', '0', 'r', '1',
    'x', 'inf', 'n', ARGV[2], 'i', ARGV[4] == '1' and '-' or historyNow())
  redis.call('HINCRBY', KEYS[2], 'o', 1)
elseif num(stored[1]) <= num(ARGV[1]) then
  ${evenWhenFull("KEYS[2]")}
  redis.call('HSET', KEYS[1], 'g', ARGV[1], 'n', ARGV[2], 'r', str(num(stored[2]) + 1))
end
return stateAt(KEYS[1])
`)

/**
 * KEYS: outbox, chunks, gaps. ARGV: after, maxChunks, maxBytes. Answers {} if there is no outbox, else {state, chunks,
 * gaps, more}; a chunk is last, first, bytes, enqueuedAt, expiresAt and body, one after another. Reads a few entries at
 * a time, as bodies may be large.
 */
export const readOutbox = luaScript(`${numbers}${state}
local outbox = stateAt(KEYS[1])
if not outbox[1] then return {} end
local maxChunks, maxBytes = num(ARGV[2]), num(ARGV[3])
local chunks, taken, size, more = {}, 0, 0, '0'
local from, pageSize, done = str(num(ARGV[1]) + 1) .. '-0', 2, false
while not done do
  local wanted = math.max(math.min(maxChunks - taken + 1, pageSize), 1)
  local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', str(wanted))
  for _, entry in ipairs(page) do
    local values = entry[2]
    size = size + #values[10]
    if taken > 0 and (taken >= maxChunks or size > maxBytes) then
      more, done = '1', true
      break
    end
    taken = taken + 1
    local last = string.sub(entry[1], 1, -3)
    for _, value in ipairs({last, values[2], values[4], values[6], values[8], values[10]}) do
      chunks[#chunks + 1] = value
    end
    from = str(num(last) + 1) .. '-0'
  end
  if #page < wanted then done = true end
  pageSize = math.min(pageSize * 4, 128)
end
return {outbox, chunks, redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[1], '+inf'), more}
`)

/**
 * KEYS: totals, fates of all. ARGV: tag; then for each request session, generation, upTo, number of fates, and the
 * fates. Answers for each request {'M'} (missing), {'F'} (fenced), {'U'} (not settled) or {how many were released, how
 * many lost}.
 */
export const ack = luaScript(`${numbers}${notingFates}${settling}${evenWhenFull("KEYS[1]")}
local totals, index, tag = KEYS[1], KEYS[2], ARGV[1]
local results, goneMessages, goneBytes = {}, 0, 0

-- Offsets in gaps up to upTo, which are cut there.
local function cutGaps(gaps, upTo)
  if redis.call('EXISTS', gaps) == 0 then return 0 end
  local given = 0
  for _, gap in ipairs(redis.call('ZRANGEBYSCORE', gaps, '-inf', upTo)) do
    local first, finish = string.match(gap, '^(%d+):(%d+):')
    given = given + num(finish) - num(first) + 1
  end
  redis.call('ZREMRANGEBYSCORE', gaps, '-inf', upTo)
  local beyond = redis.call('ZRANGEBYSCORE', gaps, '(' .. upTo, '+inf', 'LIMIT', 0, 1)[1]
  if beyond then
    local first, finish, reason = string.match(beyond, '^(%d+):(%d+):(.*)$')
    if num(first) <= num(upTo) then
      given = given + num(upTo) - num(first) + 1
      redis.call('ZREM', gaps, beyond)
      redis.call('ZADD', gaps, finish, str(num(upTo) + 1) .. ':' .. finish .. ':' .. reason)
    end
  end
  return given
end

-- Bytes of the chunks that go.
local function cutChunks(chunks, upTo)
  local freed, from = 0, '-'
  local minimum = str(num(upTo) + 1) .. '-0'
  while true do
    local page = redis.call('XRANGE', chunks, from, upTo .. '-0', 'COUNT', 16)
    for _, entry in ipairs(page) do freed = freed + num(entry[2][4]) end
    if #page < 16 then break end
    from = str(num(string.sub(page[16][1], 1, -3)) + 1) .. '-0'
  end
  redis.call('XTRIM', chunks, 'MINID', '=', minimum)
  return freed
end

local i = 2
while i <= #ARGV do
  local session, generation, upTo, fates = ARGV[i], ARGV[i + 1], num(ARGV[i + 2]), num(ARGV[i + 3])
  local outboxKey = tag .. ':o:' .. session
  local outbox = redis.call('HMGET', outboxKey, 'g', 'a', 'l', 'm', 'b', 'i')
  if not outbox[1] then
    results[#results + 1] = {'M'}
  elseif num(outbox[1]) > num(generation) then
    results[#results + 1] = {'F'}
  elseif upTo > num(outbox[2]) and (outbox[6] ~= historyNow() or num(outbox[1]) ~= num(generation)) then
    results[#results + 1] = {'U'}
  else
    local acked, last, messages, bytes = num(outbox[2]), num(outbox[3]), num(outbox[4]), num(outbox[5])
    if upTo <= acked then
      results[#results + 1] = {'0', '0'}
    else
      local released, freed
      if upTo >= last then
        released, freed = messages, bytes
        redis.call('UNLINK', tag .. ':c:' .. session, tag .. ':g:' .. session)
      else
        released = upTo - acked - cutGaps(tag .. ':g:' .. session, str(upTo))
        freed = cutChunks(tag .. ':c:' .. session, str(upTo))
      end
      redis.call('HSET', outboxKey, 'a', str(upTo), 'm', str(messages - released), 'b', str(bytes - freed))
      goneMessages = goneMessages + released
      goneBytes = goneBytes + freed
      if upTo > last then redis.call('HSET', outboxKey, 'l', str(upTo)) end
      results[#results + 1] = {str(released), str(math.max(0, upTo - last))}
    end
    if fates > 0 then noteFates(tag, session, index, i + 4, fates) end
  end
  i = i + 4 + fates * 5
end
if goneMessages > 0 or goneBytes > 0 then
  redis.call('HINCRBY', totals, 'm', str(-goneMessages))
  redis.call('HINCRBY', totals, 'b', str(-goneBytes))
end
return results
`)

/** Whether the caller may change the outbox KEYS[1]; for the next two scripts. */
const conditional = `
local outbox = redis.call('HMGET', KEYS[1], 'g', 'r', 'a', 'm', 'b', 'l')
local function refusal(generation, revision)
  if not outbox[1] then return {'M'} end
  if generation ~= '' and num(outbox[1]) > num(string.sub(generation, 2)) then return {'F'} end
  if outbox[2] ~= revision then return {'C'} end
  return nil
end
`

/**
 * KEYS: outbox, chunks, gaps, totals, fates of all. ARGV: tag, session, generation (optional), revision, expiresAt
 * (optional), and how many of each follow: gaps to remove (first), gaps to add (first, end, reason), chunks to remove
 * (last), fates (as for `noteFates`). Answers {'D', revision}, {'C'} (conflict), {'F'} (fenced) or {'M'} (missing).
 */
export const giveUp = luaScript(`${numbers}${notingFates}${evenWhenFull("KEYS[4]")}${conditional}
local refused = refusal(ARGV[3], ARGV[4])
if refused then return refused end
local chunks, gaps = KEYS[2], KEYS[3]
local acked, given, freed = num(outbox[3]), 0, 0
local i = 10

local function removeGap(gap)
  local first, finish = string.match(gap, '^(%d+):(%d+):')
  redis.call('ZREM', gaps, gap)
  given = given - (num(finish) - num(first) + 1)
end

-- Gaps are kept by their end and never overlap: the one that begins at \`first\` is the first that ends after it.
for _ = 1, num(ARGV[6]) do
  local gap = redis.call('ZRANGEBYSCORE', gaps, ARGV[i], '+inf', 'LIMIT', 0, 1)[1]
  if gap and string.match(gap, '^%d+') == ARGV[i] then removeGap(gap) end
  i = i + 1
end

-- Acks may have come since the caller read: what is acked is in no gap. They may also have cut one that is to go:
-- then the new one covers what is left of it.
for _ = 1, num(ARGV[7]) do
  local first, finish = math.max(num(ARGV[i]), acked + 1), num(ARGV[i + 1])
  if first <= finish then
    for _, gap in ipairs(redis.call('ZRANGEBYSCORE', gaps, str(first), str(finish))) do
      if num(string.match(gap, '^%d+')) >= first then removeGap(gap) end
    end
    redis.call('ZADD', gaps, ARGV[i + 1], str(first) .. ':' .. ARGV[i + 1] .. ':' .. ARGV[i + 2])
    given = given + finish - first + 1
  end
  i = i + 3
end

for _ = 1, num(ARGV[8]) do
  local id = ARGV[i] .. '-0'
  local entry = redis.call('XRANGE', chunks, id, id)[1]
  if entry then
    freed = freed + num(entry[2][4])
    redis.call('XDEL', chunks, id)
  end
  i = i + 1
end
if freed > 0 and redis.call('XLEN', chunks) == 0 then redis.call('UNLINK', chunks) end

local revision = str(num(ARGV[4]) + 1)
redis.call('HSET', KEYS[1], 'r', revision, 'm', str(num(outbox[4]) - given), 'b', str(num(outbox[5]) - freed))
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'x', string.sub(ARGV[5], 2)) end
redis.call('HINCRBY', KEYS[4], 'm', str(-given))
redis.call('HINCRBY', KEYS[4], 'b', str(-freed))
if num(ARGV[9]) > 0 then noteFates(ARGV[1], ARGV[2], KEYS[5], i, num(ARGV[9])) end
return {'D', revision}
`)

/** KEYS: outbox, totals. ARGV: generation (optional), revision, sent. Answers as \`giveUp\` does. */
export const markSent = luaScript(`${numbers}${evenWhenFull("KEYS[2]")}${conditional}
local refused = refusal(ARGV[1], ARGV[2])
if refused then return refused end
local revision = str(num(ARGV[2]) + 1)
redis.call('HSET', KEYS[1], 'r', revision, 's', ARGV[3])
return {'D', revision}
`)

/**
 * KEYS: outbox, totals, fates of all. ARGV: tag, session, generation, last, at, whether what others appended was moved,
 * and the history in which the caller last settled it ("" for none). Answers {how many were lost, state}, or {} if
 * there is no outbox.
 */
export const advance = luaScript(`${numbers}${state}${evenWhenFull("KEYS[2]")}
local outbox = redis.call('HMGET', KEYS[1], 'g', 'l', 'y', 'i', 'z', 'a', 'v')
if not outbox[1] then return {} end
local stored, last, lost = num(outbox[2]), num(ARGV[4]), 0
if num(outbox[1]) <= num(ARGV[3]) then
  if last > stored then
    lost = last - stored
    takeLost(ARGV[1], ARGV[2], KEYS[3], stored, last, ARGV[5])
  end
  local reach, now = stored + lost, outbox[4] == historyNow()
  local from = outbox[3]
  if ARGV[7] ~= '' and outbox[7] == ARGV[7] then from = false end
  if now then from = outbox[5] end
  from = from and math.max(num(from), num(outbox[6])) or math.huge
  local moved = ARGV[6] == '1' and reach <= last
  if now and num(outbox[1]) == num(ARGV[3]) then
    -- It is settled, for this owner too.
  elseif moved or from >= last then
    redis.call('HSET', KEYS[1], 'i', historyNow(), 'z', str(moved and reach or math.min(from, reach)))
    redis.call('HDEL', KEYS[1], 'y', 'v')
  else
    redis.call('HSET', KEYS[1], 'i', '-', 'y', str(from))
    if now then redis.call('HDEL', KEYS[1], 'v') end
  end
end
return {str(lost), stateAt(KEYS[1])}
`)

/**
 * KEYS: outbox, chunks, gaps, fates, totals, fates of all. ARGV: session, last, revision ("" for any). Answers '1' if
 * the outbox is gone. Of very many fates, some stay in the index of all until they are swept.
 */
export const removeOutbox = luaScript(`${numbers}${evenWhenFull("KEYS[5]")}
local outbox = redis.call('HMGET', KEYS[1], 'l', 'm', 'b', 'r')
if not outbox[1] then return '1' end
if num(outbox[1]) > num(ARGV[2]) then return '0' end
if ARGV[3] ~= '' and num(outbox[4]) ~= num(ARGV[3]) then return '0' end
for _, fate in ipairs(redis.call('ZRANGE', KEYS[4], 0, 999)) do
  redis.call('ZREM', KEYS[6], string.match(fate, '^%d+') .. ':' .. ARGV[1])
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('HINCRBY', KEYS[5], 'o', -1)
redis.call('HINCRBY', KEYS[5], 'm', str(-num(outbox[2])))
redis.call('HINCRBY', KEYS[5], 'b', str(-num(outbox[3])))
return '1'
`)

/** KEYS: outboxes. Answers each one's state, or {}. */
export const outboxStates = luaScript(`${numbers}${state}
local states = {}
for i, key in ipairs(KEYS) do
  local outbox = stateAt(key)
  states[i] = outbox[1] and outbox or {}
end
return states
`)

/**
 * KEYS: outbox, fates. ARGV: first, end. Answers the fates that touch those offsets. 'w' is the length of the longest
 * fate, so none of them begins earlier than that.
 */
export const fatesOf = luaScript(`${numbers}
local longest = num(redis.call('HGET', KEYS[1], 'w') or '0')
local first = num(ARGV[1])
local touching = {}
for _, fate in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], str(first - longest + 1), ARGV[2])) do
  if num(string.match(fate, '^%d+:(%d+)')) >= first then touching[#touching + 1] = fate end
end
-- What a sweep left is longer than the longest.
local swept = redis.call('ZRANGEBYSCORE', KEYS[2], 0, 0)[1]
if swept and swept ~= touching[1] and num(string.match(swept, '^0:(%d+)')) >= first then
  table.insert(touching, 1, swept)
end
return touching
`)

/** KEYS: fates of all, totals. ARGV: tag, before, limit. Answers how many fates it removed. */
export const sweepFates = luaScript(`${numbers}${evenWhenFull("KEYS[2]")}
local swept = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, fate in ipairs(swept) do
  local first, session = string.match(fate, '^(%d+):(.*)$')
  local own = ARGV[1] .. ':f:' .. session
  local gone = redis.call('ZRANGEBYSCORE', own, first, first)[1]
  if gone then
    -- See sweptFate in outboxes.ts.
    local before = redis.call('ZRANGEBYSCORE', own, 0, 0)[1]
    local last = num(string.match(gone, '^%d+:(%d+)'))
    if before then last = math.max(last, num(string.match(before, '^0:(%d+)'))) end
    redis.call('ZREM', own, gone)
    redis.call('ZREMRANGEBYSCORE', own, 0, 0)
    redis.call('ZADD', own, 0, '0:' .. str(last) .. ':sessionEnded:1:Infinity')
  end
  redis.call('ZREM', KEYS[1], fate)
end
return str(#swept)
`)

/** KEYS: totals. Answers the numbers of outboxes, messages and bytes, and of sessions. */
export const readTotals = luaScript(`
local totals = redis.call('HMGET', KEYS[1], 'o', 'm', 'b', 's')
for i = 1, 4 do totals[i] = totals[i] or '0' end
return totals
`)
