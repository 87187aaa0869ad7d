/** Laws of what values survive: odd texts, long ones, "never", and numbers of 53 bits. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import {
  ack,
  append,
  appendEach,
  chunkRanges,
  defined,
  fate,
  firsts,
  gap,
  giveUp,
  type Law,
  message,
  NODE,
  only,
  open,
  OTHER,
  position,
  publishKey,
  readAll,
  receipt,
  row,
  stateOf,
  T,
  TEXTS
} from "./kit.ts"

const MAX = Number.MAX_SAFE_INTEGER

export const valueLaws = (law: Law): void => {
  law(
    "any texts name outboxes, and are kept apart",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* Effect.forEach(
        TEXTS,
        (text) => driver.openOutbox({ session: text, generation: 1, node: text, newEpoch: text }),
        {
          concurrency: 4,
          discard: true
        }
      )
      const batch = TEXTS.map((text, i) => message(text, { body: text, count: i + 1 }))
      const results = yield* driver.append(batch, { writer: "a\nnode/'\"", sequence: 1 }, NODE)
      assert.deepStrictEqual(results, TEXTS.map((epoch) => ({ _tag: "Appended", epoch, first: 1 })))
      const states = new Map((yield* other.outboxes(TEXTS)).map((state) => [state.session, state]))
      for (const [i, text] of TEXTS.entries()) {
        const { epoch, last, node } = defined(states.get(text))
        assert.deepStrictEqual({ epoch, last, node }, { epoch: text, last: i + 1, node: text })
        const page = yield* readAll(other, text)
        assert.deepStrictEqual(page.chunks.map(({ body }) => body), [text])
        assert.deepStrictEqual(yield* other.takeNudges(text, 10), [text])
      }
      yield* driver.ack(TEXTS.map((session) => ({ session, generation: 1, upTo: 1_000, fates: [fate(1, 1)] })))
      assert.deepStrictEqual(yield* driver.totals, { sessions: TEXTS.length, messages: 0, bytes: 0 })
      for (const text of TEXTS) {
        assert.deepStrictEqual(yield* driver.fates(text, 1, 1), [fate(1, 1)])
        assert.isTrue(yield* driver.removeOutbox(text, 1_000))
      }
      assert.deepStrictEqual(yield* driver.totals, { sessions: 0, messages: 0, bytes: 0 })
    })
  )

  law(
    "any texts are in session rows, positions and node names",
    Effect.fnUntraced(function*({ driver, other }) {
      const rows = TEXTS.map((text) =>
        row(text, {
          principal: text,
          tokenHash: text,
          previousTokenHash: text,
          instance: text,
          node: text,
          wantedBy: text,
          detachedAt: T
        })
      )
      for (const each of rows) yield* driver.putSession(each)
      yield* driver.savePositions(TEXTS.map((text) => position(text, 1, { position: text, epoch: text })))
      for (const each of rows) {
        assert.deepStrictEqual(yield* other.findSession(each.id), each)
        assert.deepStrictEqual(yield* other.sessionsOf(each.id, 10), [each])
        yield* driver.touchNode(each.id, T)
        const next = yield* other.putSession({ ...each, revision: 2 })
        assert.deepStrictEqual(next, { _tag: "Stored", position: each.id })
      }
      assert.strictEqual((yield* driver.detachedBefore(T, 1_000)).length, TEXTS.length)
      assert.deepStrictEqual((yield* driver.nodes).map(({ node }) => node).toSorted(), TEXTS.toSorted())
    })
  )

  law(
    "any texts are publish keys, and scope and key don't run into each other",
    Effect.fnUntraced(function*({ driver, other }) {
      const claimOf = (scope: string, key: string) => ({
        ...publishKey(scope, key, { fingerprint: key }),
        token: `token of ${key}`,
        now: T,
        until: T + 100
      })
      const targets = [
        ...TEXTS.map((text) => ["scope", text] as const),
        ...TEXTS.map((text) => [text, "key"] as const),
        ...[["a:b", "c"], ["a", "b:c"], ["a:", "b:c"], ["a/b", "c"], ["a", "b/c"], ["", "a:b:c"]] as const,
        ...[["1", "1:a"], ["1:1", "a"], ["a\n", "b"], ["a", "\nb"]] as const
      ]
      for (const [scope, key] of targets) {
        assert.deepStrictEqual(yield* driver.claimKey(claimOf(scope, key)), { _tag: "Claimed" })
        const committed = receipt(key, { epoch: scope })
        assert.isTrue(yield* driver.commitKey({ ...claimOf(scope, key), receipt: committed }))
      }
      for (const [scope, key] of targets) {
        assert.deepStrictEqual(yield* other.lookupKey({ scope, key }, T), receipt(key, { epoch: scope }))
        const mismatch = yield* other.claimKey({ ...claimOf(scope, key), fingerprint: `${key}!` })
        assert.deepStrictEqual(mismatch, { _tag: "Mismatch", receipt: receipt(key, { epoch: scope }) })
      }
      assert.deepStrictEqual(yield* other.countKeys(T, T), { keys: targets.length, inFlight: 0 })
    })
  )

  law(
    "a message under any publish key has that key as the receipt's id",
    Effect.fnUntraced(function*({ driver }) {
      const session = `it's "a" \\ session 👩‍👩‍👧‍👦`
      yield* open(driver, session)
      const batch = TEXTS.map((key) => message(session, { publish: publishKey(session, key, { fingerprint: key }) }))
      assert.deepStrictEqual(firsts(yield* driver.append(batch, undefined, NODE)), TEXTS.map((_, i) => i + 1))
      const again = yield* driver.append(batch, { writer: NODE, sequence: 1 }, NODE)
      const duplicates = TEXTS.map((messageId, i) => ({
        _tag: "Duplicate" as const,
        receipt: { messageId, epoch: `epoch of ${session}`, offset: i + 1, atMillis: T }
      }))
      assert.deepStrictEqual(again, duplicates)
      assert.deepStrictEqual(yield* driver.append(batch, { writer: NODE, sequence: 1 }, NODE), duplicates)
    })
  )

  law(
    "bodies of 2 MiB, and of many odd characters, come back as they were",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      const long = "0123456789abcdef".repeat(2 ** 17)
      const odd = `"\\👩‍👩‍👧‍👦é\n'`.repeat(2 ** 15)
      yield* driver.append([message("s", { body: long }), message("s", { body: odd }), message("s")], undefined, NODE)
      const { chunks } = yield* readAll(other, "s")
      assert.strictEqual(chunks.length, 3)
      // Not deepStrictEqual, whose message would be as long.
      assert.isTrue(chunks[0]?.body === long)
      assert.isTrue(chunks[1]?.body === odd)
    })
  )

  law(
    "never is never: in chunks, outboxes, claims, and when asked for everything",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* append(driver, "s", { expiresAt: Infinity })
      const state = yield* stateOf(other, "s")
      assert.strictEqual(state.expiresAt, Infinity)
      assert.strictEqual((yield* readAll(other, "s")).chunks[0]?.expiresAt, Infinity)
      yield* append(driver, "s", { expiresAt: T })
      assert.strictEqual((yield* stateOf(other, "s")).expiresAt, T)
      yield* giveUp(driver, yield* stateOf(driver, "s"), { expiresAt: Infinity })
      assert.strictEqual((yield* stateOf(other, "s")).expiresAt, Infinity)
      yield* append(driver, "s", { expiresAt: Infinity })
      assert.strictEqual((yield* stateOf(other, "s")).expiresAt, Infinity)

      const claim = { ...publishKey("scope", "k"), token: "mine", now: T, until: Infinity }
      yield* driver.claimKey(claim)
      const inFlight = yield* other.claimKey({ ...claim, token: "theirs", now: T * 2 })
      assert.deepStrictEqual(inFlight, { _tag: "InFlight", until: Infinity })
      assert.deepStrictEqual(yield* other.countKeys(0, T * 2), { keys: 0, inFlight: 1 })
      assert.strictEqual(yield* driver.sweepKeys(Infinity, T * 2, 10), 0)
      assert.isTrue(yield* driver.commitKey({ ...claim, now: T * 2, receipt: receipt("k") }))
    })
  )

  law(
    "offsets count exactly to 2^53 - 1",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s")
      yield* appendEach(driver, "s", [2])
      const base = MAX - 100
      const advanced = defined(yield* driver.advance({ session: "s", generation: 1, last: base, at: T })).state
      assert.deepStrictEqual([advanced.last, advanced.messages], [base, 2])
      assert.deepStrictEqual(yield* ack(driver, "s", base - 1), { _tag: "Acked", released: 2 })
      const big = { maxMessages: MAX, maxBytes: MAX }
      const results = yield* driver.append(
        [
          message("s", { count: 90, ...big }),
          message("s", { count: 10, ...big }),
          message("s", { count: 3, maxMessages: 102 })
        ],
        { writer: NODE, sequence: MAX },
        NODE
      )
      assert.deepStrictEqual(firsts(results), [base + 1, base + 91, undefined])
      assert.deepStrictEqual(results[2], { _tag: "Full", limit: "messages", messages: 100, bytes: 20 })
      const page = yield* readAll(other, "s", base + 90)
      assert.deepStrictEqual(chunkRanges(page), [`${base + 91}-${MAX}`])
      const fates = [fate(MAX - 4, MAX - 2)]
      yield* giveUp(driver, page.state, { addGaps: [gap(MAX - 4, MAX - 2)], fates })
      assert.deepStrictEqual((yield* readAll(driver, "s", MAX - 3)).gaps, [gap(MAX - 4, MAX - 2)])
      assert.deepStrictEqual(yield* driver.fates("s", MAX - 2, MAX), fates)
      yield* driver.markSent({
        ...page.state,
        generation: 1,
        revision: (yield* stateOf(driver, "s")).revision,
        sent: MAX
      })
      assert.deepStrictEqual(yield* ack(driver, "s", MAX - 1), { _tag: "Acked", released: 96 })
      const { acked, last, messages, sent } = yield* stateOf(other, "s")
      assert.deepStrictEqual({ acked, last, messages, sent }, { acked: MAX - 1, last: MAX, messages: 1, sent: MAX })
    })
  )

  law(
    "generations, bytes, attempts, positions and times count beyond 2^32",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "s", MAX - 1)
      const half = 2 ** 52 - 1
      yield* append(driver, "s", { bytes: half, maxBytes: MAX, enqueuedAt: half, expiresAt: half })
      yield* append(driver, "s", { bytes: 2, maxBytes: MAX })
      const full = yield* append(driver, "s", { bytes: half, maxBytes: MAX })
      assert.deepStrictEqual(full, { _tag: "Full", limit: "bytes", messages: 2, bytes: 2 ** 52 + 1 })
      const { chunks, state } = yield* readAll(other, "s")
      assert.deepStrictEqual([state.generation, state.bytes, state.expiresAt], [MAX - 1, 2 ** 52 + 1, half])
      assert.deepStrictEqual([chunks[0]?.bytes, chunks[0]?.enqueuedAt, chunks[0]?.expiresAt], [half, half, half])
      assert.deepStrictEqual((yield* driver.totals).bytes, 2 ** 52 + 1)
      assert.deepStrictEqual(yield* ack(driver, "s", 1, { generation: MAX - 2 }), { _tag: "Fenced" })
      assert.deepStrictEqual(yield* ack(driver, "s", 1, { generation: MAX - 1 }), { _tag: "Acked", released: 1 })

      const stored = row("s", { generation: MAX, attempt: MAX, detachedAt: half })
      yield* driver.putSession(stored)
      assert.deepStrictEqual(yield* other.findSession("s"), stored)
      assert.deepStrictEqual(yield* other.detachedBefore(half, 1), [stored])
      assert.deepStrictEqual(yield* other.detachedBefore(half - 1, 1), [])
      const at = (handled: number) => position("s", handled, { generation: MAX, strict: true })
      assert.deepStrictEqual(yield* driver.savePositions([at(MAX - 1)]), ["Saved"])
      assert.deepStrictEqual(yield* driver.savePositions([at(MAX - 1)]), ["Behind"])
      assert.deepStrictEqual(yield* driver.savePositions([at(MAX)]), ["Saved"])

      yield* driver.touchNode(OTHER, half)
      assert.strictEqual(only(yield* driver.nodes).seenAt, half)
      const claim = { ...publishKey("scope", "k"), token: "mine", now: half, until: half + 1 }
      yield* driver.claimKey(claim)
      const committed = receipt("k", { offset: MAX, atMillis: half })
      yield* driver.commitKey({ ...claim, receipt: committed })
      assert.deepStrictEqual(yield* other.lookupKey(claim, half), committed)
      assert.isUndefined(yield* other.lookupKey(claim, half + 1))
    })
  )
}
