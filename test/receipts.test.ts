/** Receipts of one session, as its senders await them. */
import { assert, describe, it } from "@effect/vitest"
import { Receipts, type RemoteOutbox, Tracked } from "../src/internal/session/receipts.ts"

const expired = { reason: "expired", maybeHandled: false } as const
const over = { reason: "sessionEnded", maybeHandled: true } as const

const stateOf = (receipts: Receipts, offset: number) => {
  const tracked = new Tracked(offset)
  receipts.add(tracked)
  return tracked.state
}

describe("a sender that learns its offset after the session has gone", () => {
  it("is told what was known when it ended", () => {
    const receipts = new Receipts(0)
    receipts.died(2, expired)
    receipts.handled(3)
    receipts.ended()
    assert.strictEqual(stateOf(receipts, 1), "handled")
    assert.deepStrictEqual(stateOf(receipts, 2), expired)
    assert.deepStrictEqual(stateOf(receipts, 4), over)
  })

  it("is not told that what was sent before this server had the session is handled", () => {
    const remote: RemoteOutbox = { watch: () => undefined, unwatch: () => undefined }
    const receipts = new Receipts(3, remote)
    receipts.handled(5)
    receipts.ended()
    assert.deepStrictEqual(stateOf(receipts, 3), over)
    assert.strictEqual(stateOf(receipts, 4), "handled")
  })

  it("asks the store of what was not known when the session left", () => {
    const remote: RemoteOutbox = { watch: () => undefined, unwatch: () => undefined }
    const receipts = new Receipts(0)
    receipts.died(1, expired)
    receipts.leaveTo(remote)
    assert.deepStrictEqual(stateOf(receipts, 1), expired)
    assert.strictEqual(stateOf(receipts, 2), remote)
  })
})
