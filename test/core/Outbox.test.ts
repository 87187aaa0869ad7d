import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { defaultMessageId, type Draft, Outbox } from "../../src/core/Outbox.ts"
import { command, fixed, int } from "../support/coreArbitraries.ts"
import { bytesOf, cells, offsets, OutboxModel } from "../support/outboxModel.ts"

const unlimited = { maxMessages: Infinity, maxBytes: Infinity }

const draft = (fields: Partial<Draft> = {}): Draft => ({
  payload: "0",
  bytes: 1,
  id: undefined,
  trace: undefined,
  enqueuedAt: 0,
  expiresAt: Infinity,
  ...fields
})

/** An outbox with `count` messages, of which the first `sent` were read. */
const filled = (count: number, sent = 0, fields: Partial<Draft> = {}): Outbox => {
  const outbox = new Outbox("E")
  for (let i = 0; i < count; i++) outbox.append(draft(fields))
  outbox.read(0, { maxMessages: sent, maxBytes: Infinity }, 0)
  return outbox
}

describe("Outbox", () => {
  describe("against an array of all that was ever appended", () => {
    const Command = Schema.Union([
      command("append", { count: int(1, 5), bytes: int(0, 50), ttl: int(0, 60) }),
      command("append", { count: int(1, 5), bytes: int(0, 50), ttl: int(0, 60) }), // twice as often
      command("read", { rewind: int(0, 6), messages: int(0, 6), bytes: int(0, 120) }),
      command("ack", { ahead: int(-2, 8), failed: Schema.Array(int(-2, 8)) }),
      command("dropOldest", { count: int(1, 3) }),
      command("expire", {}),
      command("giveBackSent", { when: int(0, 4) }),
      command("find", { back: int(0, 8) }),
      command("advance", { ms: int(0, 30) })
    ])

    const run = (commands: ReadonlyArray<typeof Command.Type>, ttlOf: (ttl: number) => number) => {
      const outbox = new Outbox("E")
      const model = new OutboxModel("E")
      let now = 0
      for (const command of commands) {
        switch (command.t) {
          case "append":
            for (let i = 0; i < command.count; i++) {
              const next = model.last + 1
              const message = draft({
                payload: String(next),
                bytes: command.bytes,
                id: next % 3 === 0 ? `id-${next}` : undefined,
                enqueuedAt: now,
                expiresAt: now + ttlOf(command.ttl)
              })
              assert.strictEqual(outbox.append(message).offset, model.append(message))
            }
            break
          case "read": {
            // What the peer received is between what it handled and what was sent.
            const after = Math.max(model.acked, model.sentEnd - command.rewind)
            const limit = { maxMessages: command.messages, maxBytes: command.bytes }
            const { expired, slots } = outbox.read(after, limit, now)
            const expected = model.read(after, limit, now)
            const read = cells(slots)
            assert.deepStrictEqual(read.filter(([offset]) => offset > after), expected.cells)
            assert.deepStrictEqual(offsets(expired), expected.expired)
            // Contiguous, and from what the peer received or, in the middle of a gap, from before it.
            read.forEach(([offset], i) => assert.strictEqual(offset, (read[0]?.[0] ?? 0) + i))
            assert.isAtMost(read[0]?.[0] ?? 0, after + 1)
            break
          }
          case "ack": {
            const upTo = Math.max(0, model.acked + command.ahead)
            const failed = command.failed.map((ahead) => [model.acked + ahead, "failed"] as const)
            const { failed: failures, ...rest } = outbox.ack(upTo, failed)
            assert.deepStrictEqual(
              { ...rest, failed: failures.map(({ message, reason }) => [message.offset, reason]) },
              model.ack(upTo, failed)
            )
            break
          }
          case "dropOldest":
            for (let i = 0; i < command.count; i++) {
              assert.strictEqual(outbox.dropOldest("overflow")?.offset, model.dropOldest())
            }
            break
          case "expire":
            assert.deepStrictEqual(offsets(outbox.expire(now)), model.expire(now))
            assert.isAbove(outbox.earliestExpiry, now)
            break
          case "giveBackSent":
            if (command.when > 0) break
            assert.deepStrictEqual(offsets(outbox.giveBackSent("fresh")), model.giveBackSent())
            break
          case "find": {
            const offset = model.last - command.back
            for (const id of [`id-${offset}`, defaultMessageId("E", offset)]) {
              const found = outbox.find(id)
              assert.deepStrictEqual(found && { offset: found.message.offset, sent: found.sent }, model.find(id))
            }
            break
          }
          case "advance":
            now += command.ms
        }
        assert.deepStrictEqual(outbox.position, { epoch: "E", acked: model.acked, last: model.last })
        assert.deepStrictEqual([outbox.messages, outbox.bytes], [model.live.length, bytesOf(model.live)])
        assert.deepStrictEqual([outbox.waitingMessages, outbox.waitingBytes], [
          model.waiting.length,
          bytesOf(model.waiting)
        ])
        for (const { draft } of model.waiting) assert.isAtMost(outbox.earliestExpiry, draft.expiresAt)
      }
      const { maybeHandled, messages } = outbox.clear()
      assert.deepStrictEqual(offsets(messages), model.live.map(({ offset }) => offset))
      assert.strictEqual(maybeHandled, model.live.length - model.waiting.length)
      assert.deepStrictEqual([outbox.messages, outbox.bytes, outbox.waitingMessages, outbox.waitingBytes], [0, 0, 0, 0])
      assert.strictEqual(outbox.earliestExpiry, Infinity)
    }

    it.prop("does the same when all messages have one time to live", [Schema.Array(Command)], ([commands]) => {
      run(commands, () => 40)
    }, fixed(500, 60))

    it.prop("does the same when each message has its own", [Schema.Array(Command)], ([commands]) => {
      run(commands, (ttl) => ttl === 0 ? Infinity : ttl)
    }, fixed(500, 60))
  })

  it("gives offsets without holes, from the one after its start", () => {
    const outbox = new Outbox("E", 7)
    assert.deepStrictEqual([outbox.append(draft()).offset, outbox.append(draft()).offset], [8, 9])
    assert.deepStrictEqual(outbox.position, { epoch: "E", acked: 7, last: 9 })
  })

  it("reads again what did not arrive", () => {
    const outbox = filled(3, 3)
    assert.deepStrictEqual(cells(outbox.read(1, unlimited, 0).slots).map(([offset]) => offset), [2, 3])
  })

  it("reads the first message whatever its size, and none beyond the count", () => {
    const outbox = filled(2, 0, { bytes: 1000 })
    assert.lengthOf(outbox.read(0, { maxMessages: 5, maxBytes: 10 }, 0).slots, 1)
    assert.deepStrictEqual(outbox.read(1, { maxMessages: 0, maxBytes: Infinity }, 0).slots, [])
  })

  it("neither expires nor drops what the peer may have", () => {
    const outbox = filled(3, 2, { expiresAt: 10 })
    assert.deepStrictEqual(offsets(outbox.expire(10)), [3])
    assert.isUndefined(outbox.dropOldest("overflow"))
    assert.deepStrictEqual([outbox.messages, outbox.bytes], [2, 2])
  })

  it("may expire what is known not to have arrived", () => {
    const outbox = filled(3, 3, { expiresAt: 10 })
    const { expired, slots } = outbox.read(1, unlimited, 10)
    assert.deepStrictEqual(offsets(expired), [2, 3])
    assert.deepStrictEqual(slots, [{ kind: "gap", offset: 2, end: 3, reason: "expired" }])
  })

  it("leaves a gap, with the reason, for what it drops and expires", () => {
    const outbox = filled(2)
    outbox.append(draft({ expiresAt: 5 }))
    outbox.append(draft())
    outbox.dropOldest("overflow")
    outbox.dropOldest("overflow")
    outbox.expire(5)
    assert.containSubset(outbox.read(0, unlimited, 5).slots, [
      { kind: "gap", offset: 1, end: 2, reason: "overflow" },
      { kind: "gap", offset: 3, end: 3, reason: "expired" },
      { kind: "message", offset: 4 }
    ])
  })

  it("merges gaps that pile up while nobody reads", () => {
    const outbox = new Outbox("E")
    for (let i = 0; i < 1000; i++) {
      outbox.append(draft({ expiresAt: i }))
      if (i % 2 === 0) outbox.expire(i)
      else outbox.dropOldest("overflow")
    }
    const { slots } = outbox.read(0, unlimited, 1000)
    assert.isAtMost(slots.length, 64)
    assert.deepStrictEqual(cells(slots).map(([offset]) => offset), Array.from({ length: 1000 }, (_, i) => i + 1))
  })

  it("merges gaps in the middle of what waits", () => {
    const outbox = new Outbox("E")
    outbox.append(draft({ expiresAt: 1_000_000 }))
    for (let i = 0; i < 1000; i++) {
      outbox.append(draft({ expiresAt: i }))
      outbox.expire(i)
    }
    assert.containSubset(outbox.read(0, unlimited, 1000).slots, [
      { kind: "message", offset: 1 },
      { kind: "gap", offset: 2, end: 1001, reason: "expired" }
    ])
  })

  it("says when the newest message that it released was enqueued, and that a repeated ack released none", () => {
    const outbox = new Outbox("E")
    for (const enqueuedAt of [5, 6, 7]) outbox.append(draft({ enqueuedAt }))
    outbox.read(0, unlimited, 0)
    assert.deepStrictEqual(outbox.ack(2), { released: 2, newestEnqueuedAt: 6, failed: [] })
    assert.deepStrictEqual(outbox.ack(2), { released: 0, newestEnqueuedAt: undefined, failed: [] })
    assert.deepStrictEqual(outbox.ack(1), { released: 0, newestEnqueuedAt: undefined, failed: [] })
    assert.strictEqual(outbox.acked, 2)
  })

  it("gives back what failed, once, with the reason", () => {
    const outbox = filled(3, 3)
    const failed = [[1, "undecodable"], [3, "failed"]] as const
    assert.containSubset(outbox.ack(2, failed).failed, [{ message: { offset: 1 }, reason: "undecodable" }])
    assert.deepStrictEqual(outbox.ack(2, failed).failed, [])
    assert.containSubset(outbox.ack(3, failed).failed, [{ message: { offset: 3 }, reason: "failed" }])
  })

  it("gives back what the peer may have handled, and leaves a gap for it in front of what waits", () => {
    const outbox = filled(4, 3)
    outbox.ack(1)
    assert.deepStrictEqual(offsets(outbox.giveBackSent("fresh")), [2, 3])
    assert.deepStrictEqual(offsets(outbox.giveBackSent("fresh")), [])
    assert.containSubset(outbox.read(1, unlimited, 0).slots, [
      { kind: "gap", offset: 2, end: 3, reason: "fresh" },
      { kind: "message", offset: 4 }
    ])
  })

  it("keeps its order when a peer acknowledges half a gap", () => {
    const outbox = filled(2)
    outbox.dropOldest("overflow")
    outbox.dropOldest("overflow")
    outbox.append(draft())
    outbox.read(0, unlimited, 0) // a gap 1..2 and message 3, all sent
    outbox.ack(1)
    outbox.append(draft())
    assert.deepStrictEqual(cells(outbox.read(3, unlimited, 0).slots).map(([offset]) => offset), [4])
    assert.deepStrictEqual(cells(outbox.read(1, unlimited, 0).slots).map(([offset]) => offset), [2, 3, 4])
  })

  it("expires what waits behind a message that came back and lives longer", () => {
    const outbox = new Outbox("E")
    outbox.append(draft({ expiresAt: 100 }))
    outbox.read(0, unlimited, 0)
    outbox.append(draft({ expiresAt: 50 }))
    outbox.append(draft({ expiresAt: 5 }))
    assert.deepStrictEqual(offsets(outbox.expire(10)), [3])
    outbox.read(0, { maxMessages: 0, maxBytes: 0 }, 10) // the first did not arrive
    assert.deepStrictEqual(offsets(outbox.expire(60)), [2])
    assert.strictEqual(outbox.earliestExpiry, 100)
  })
})
