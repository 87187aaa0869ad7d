import { assert, describe, it } from "@effect/vitest"
import { Duplex } from "node:stream"
import { Custody } from "../../src/node/Custody.ts"

const newSocket = () => new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() })

describe("a socket in custody", () => {
  it("is one that lives, and is told of when it is released: of another nothing is to be remembered", () => {
    const custody = new Custody()
    const released: Array<string> = []
    const held = newSocket()
    assert.isTrue(custody.hold(held, 60_000, undefined, () => released.push("held")))
    assert.isFalse(custody.hold(held, 60_000, undefined, () => released.push("again")))
    const gone = newSocket().destroy()
    assert.isFalse(custody.hold(gone, 60_000, undefined, () => released.push("gone")))
    assert.strictEqual(custody.size, 1)
    custody.releaseAll()
    assert.deepStrictEqual(released, ["held"])
    assert.strictEqual(custody.size, 0)
  })
})
