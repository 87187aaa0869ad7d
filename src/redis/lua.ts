/**
 * Parts that scripts share. Lua has only doubles: numbers are read with `num` and written with `str`, which gives all
 * 53 bits and never an exponent. "inf" is Infinity. An optional text is "" when missing, else "=" and the text.
 */

export const numbers = `
local function num(text)
  if text == 'inf' then return math.huge end
  if text == '-inf' then return -math.huge end
  return tonumber(text)
end
local function str(number)
  if number == math.huge then return 'inf' end
  if number == -math.huge then return '-inf' end
  if number == 0 then return '0' end -- also -0
  return string.format('%.0f', number)
end
`

/**
 * Under `maxmemory` without eviction, Redis refuses a script at its first command that may take memory, unless the
 * script has already written. So scripts that free memory, or finish what takes some, begin with a write that does
 * nothing. `key` is the key of a partition's totals.
 */
export const evenWhenFull = (key: string): string => ` redis.call('HDEL', ${key}, '') `

/**
 * For outboxes of a store that may have lost its newest part. Its history is Redis's replication id, which is new after
 * a promotion and after a start. Where scripts may not ask for it, there is only one history.
 */
export const settling = `
local history
local function historyNow()
  if not history then
    local info = redis.pcall('INFO', 'replication')
    history = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
  end
  return history
end
-- Takes the offsets behind \`last\` up to \`upTo\`.
local function takeLost(tag, session, index, last, upTo, at)
  local first, finish = str(last + 1), str(upTo)
  redis.call('ZADD', tag .. ':g:' .. session, finish, first .. ':' .. finish .. ':fresh')
  local outbox, own, length = tag .. ':o:' .. session, tag .. ':f:' .. session, upTo - last
  redis.call('ZREMRANGEBYSCORE', own, first, first)
  redis.call('ZADD', own, first, table.concat({first, finish, 'fresh', '1', at}, ':'))
  redis.call('ZADD', index, at, first .. ':' .. session)
  if length > num(redis.call('HGET', outbox, 'w') or '0') then redis.call('HSET', outbox, 'w', str(length)) end
  redis.call('HSET', outbox, 'l', finish)
end
-- What comes after \`from\` goes, and a gap up to \`known\` takes its place. Returns how many messages and bytes went.
local function dropAfter(tag, session, from, last, known)
  local chunks, gaps = tag .. ':c:' .. session, tag .. ':g:' .. session
  local messages, bytes = last - from, 0
  while true do
    local page = redis.call('XRANGE', chunks, str(from + 1) .. '-0', '+', 'COUNT', '16')
    for _, entry in ipairs(page) do
      bytes = bytes + num(entry[2][4])
      redis.call('XDEL', chunks, entry[1])
    end
    if #page == 0 then break end
  end
  for _, gap in ipairs(redis.call('ZRANGEBYSCORE', gaps, '(' .. str(from), '+inf')) do
    local first, finish, reason = string.match(gap, '^(%d+):(%d+):(.*)$')
    messages = messages - (num(finish) - math.max(num(first), from + 1) + 1)
    redis.call('ZREM', gaps, gap)
    if num(first) <= from then redis.call('ZADD', gaps, str(from), first .. ':' .. str(from) .. ':' .. reason) end
  end
  local first, finish = str(from + 1), str(known)
  redis.call('ZADD', gaps, finish, first .. ':' .. finish .. ':fresh')
  -- Who has read before may give nothing up by what it read.
  redis.call('HINCRBY', tag .. ':o:' .. session, 'r', 1)
  redis.call('HSET', tag .. ':o:' .. session, 'l', finish)
  return messages, bytes
end
`

/** The channel's messages are empty: one is enough for all nudges not yet taken. */
export const nudging = `
local function nudge(tag, channel, node, session)
  if redis.call('SADD', tag .. ':u:' .. node, session) == 1 then redis.call('PUBLISH', channel .. node, '') end
end
`

/**
 * Notes fates from ARGV[at] on, each as first, end, reason, maybeHandled, time. A new fate replaces one at the same
 * offset.
 */
export const notingFates = `
local function noteFates(tag, session, index, at, count)
  local outbox, own = tag .. ':o:' .. session, tag .. ':f:' .. session
  local longest = num(redis.call('HGET', outbox, 'w') or '0')
  local before = longest
  for i = at, at + (count - 1) * 5, 5 do
    local first, finish = ARGV[i], ARGV[i + 1]
    redis.call('ZREMRANGEBYSCORE', own, first, first)
    redis.call('ZADD', own, first, table.concat({first, finish, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]}, ':'))
    redis.call('ZADD', index, ARGV[i + 4], first .. ':' .. session)
    longest = math.max(longest, num(finish) - num(first) + 1)
  end
  if longest > before then redis.call('HSET', outbox, 'w', str(longest)) end
end
`

/**
 * Publish keys, packed as eight texts: token, fingerprint, end of the claim, commit time ("" when not committed), and
 * the receipt's message, epoch, offset and time.
 */
export const publishKeys = `
local function liveKey(keys, id, forgottenBefore, now)
  local packed = redis.call('HGET', keys, id)
  if not packed then return nil end
  local key = cmsgpack.unpack(packed)
  if key[4] == '' then
    if num(key[3]) > now then return key end
  elseif num(key[4]) >= forgottenBefore then
    return key
  end
  return nil
end
local function usedKey(key, fingerprint)
  local committed = key[4] ~= ''
  if key[2] ~= '' and fingerprint ~= '' and key[2] ~= fingerprint then
    if committed then return {'X', key[5], key[6], key[7], key[8]} end
    return {'X'}
  end
  if committed then return {'D', key[5], key[6], key[7], key[8]} end
  return {'I', key[3]}
end
local function keysFull(committed, claimed, forgottenBefore, now, maxKeys)
  local kept = redis.call('ZCOUNT', committed, forgottenBefore, '+inf')
  return kept + redis.call('ZCOUNT', claimed, '(' .. now, '+inf') >= maxKeys
end
`
