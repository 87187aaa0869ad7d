import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { type Claimed, ClaimTable, KeyGenerations } from "../../src/internal/kit/keyGenerations.ts"

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Key = Schema.Literals(["a", "b", "c"])
const WINDOW = 100

describe("KeyGenerations", () => {
  it.prop(
    "keeps a key for one window at least and two at most, whatever the window is changed to",
    {
      steps: Schema.Array(
        Schema.Struct({
          idle: Schema.Literals([0, 1, 30, 60, 99, 100, 150, 250, 1_000]),
          key: Key,
          write: Schema.Boolean,
          window: Schema.Literals([0, 0, 0, 0, 0, 20, 50, 100, 240])
        })
      )
    },
    ({ steps }) => {
      let now = 1_000
      const keys = new KeyGenerations<number>(WINDOW, 1_000, now)
      const written = new Map<string, { readonly at: number; shortest: number; longest: number }>()
      for (const { idle, key, window, write } of steps) {
        now += idle
        if (window > 0) {
          keys.setWindow(window, now)
          for (const entry of written.values()) {
            entry.shortest = Math.min(entry.shortest, window)
            entry.longest = Math.max(entry.longest, window)
          }
        }
        keys.advance(now)
        for (const [name, { at, longest, shortest }] of written) {
          if (now - at < shortest) assert.strictEqual(keys.get(name), at)
          if (now - at >= 2 * longest) assert.isUndefined(keys.get(name))
        }
        if (write) {
          keys.set(key, now)
          written.set(key, { at: now, shortest: keys.windowMillis, longest: keys.windowMillis })
        }
        assert.isAtMost(keys.size, written.size)
      }
    },
    { arbitrary: { runs: 500, size: 60 } }
  )

  it("says when it has something to forget, and has forgotten it all two windows later", () => {
    const keys = new KeyGenerations<number>(WINDOW, 10, 0)
    assert.strictEqual(keys.rotatesAt, Infinity)
    keys.set("a", 1)
    assert.strictEqual(keys.rotatesAt, 100)
    assert.isTrue(keys.advance(100))
    assert.strictEqual(keys.get("a"), 1)
    assert.isTrue(keys.advance(keys.rotatesAt))
    assert.strictEqual(keys.size, 0)
    assert.strictEqual(keys.rotatesAt, Infinity)
  })

  it("holds at most twice its bound, by forgetting the older half early", () => {
    const keys = new KeyGenerations<number>(WINDOW, 10, 0)
    let early = 0
    for (let i = 0; i < 1_000; i++) {
      if (keys.rotateIfFull(0, 0)) early++
      keys.set(`k${i}`, i)
      assert.isAtMost(keys.size, 20)
      // The newest ten are always there.
      for (let j = Math.max(0, i - 9); j <= i; j++) assert.strictEqual(keys.get(`k${j}`), j)
    }
    assert.strictEqual(early, 99)
  })

  it("goes on forgetting after the clock went back", () => {
    const keys = new KeyGenerations<number>(WINDOW, 10, 1_000_000)
    keys.set("a", 1)
    keys.advance(5_000)
    assert.strictEqual(keys.get("a"), 1)
    keys.advance(5_200)
    assert.isUndefined(keys.get("a"))
  })
})

describe("ClaimTable", () => {
  const Print = Schema.Literals(["x", "y", "none"])
  const Step = Schema.Struct({
    idle: Schema.Literals([0, 1, 20, 49, 50, 51, 110]),
    key: Key,
    action: Schema.Literals(["claim", "commit", "release", "lookup"]),
    fingerprint: Print
  })
  const print = (value: typeof Print.Type) => value === "none" ? undefined : value
  const LEASE = 50

  interface Model {
    readonly tokens: Array<string>
    held: { readonly token: string; readonly until: number; readonly print: string | undefined } | undefined
    done: { readonly receipt: number; readonly at: number; readonly print: string | undefined } | undefined
  }

  it.prop(
    "gives every answer that a list of claims and commits gives",
    { steps: Schema.Array(Step) },
    ({ steps }) => {
      let now = 0
      const table = new ClaimTable<number>({ windowMillis: WINDOW, leaseMillis: LEASE, maxKeys: 1_000, now })
      const models = new Map<string, Model>()
      for (const [index, { action, fingerprint, idle, key }] of steps.entries()) {
        now += idle
        const model = models.get(key) ?? { tokens: [], held: undefined, done: undefined }
        models.set(key, model)
        if (model.held !== undefined && model.held.until <= now) model.held = undefined
        // Between one and two windows either is right, and what the table says is how it is.
        const age = model.done === undefined ? Infinity : now - model.done.at
        const found = table.lookup(key, now)
        if (age < WINDOW) assert.strictEqual(found, model.done?.receipt)
        if (age >= 2 * WINDOW || found === undefined) {
          assert.isUndefined(found)
          model.done = undefined
        }
        // An old token half the time, where there is one.
        const token = model.tokens.at(index % 2 === 0 ? -1 : 0) ?? "none"
        const held = model.held?.token === token
        switch (action) {
          case "claim": {
            const result = table.claim(key, print(fingerprint), now)
            assert.deepStrictEqual(result, expectedClaim(model, print(fingerprint), now, result))
            if (result._tag === "Claimed") {
              assert.notInclude(model.tokens, result.token)
              model.tokens.push(result.token)
              model.held = { token: result.token, until: now + LEASE, print: print(fingerprint) }
            }
            break
          }
          case "commit":
            assert.strictEqual(table.commit(key, token, index, now), held)
            if (held) {
              model.done = { receipt: index, at: now, print: model.held?.print }
              model.held = undefined
            }
            break
          case "release":
            table.release(key, token)
            if (held) model.held = undefined
            break
          case "lookup":
            break
        }
        table.advance(now)
        assert.strictEqual(
          table.sizes.inFlight,
          [...models.values()].filter(({ held }) => held !== undefined && held.until > now).length
        )
      }
    },
    { arbitrary: { runs: 500, size: 60 } }
  )

  const expectedClaim = (
    { done, held }: Model,
    print: string | undefined,
    now: number,
    actual: Claimed<number>
  ): Claimed<number> => {
    const other = (known: string | undefined) => known !== undefined && print !== undefined && known !== print
    if (done !== undefined) return { _tag: other(done.print) ? "Mismatch" : "Duplicate", receipt: done.receipt }
    if (held !== undefined && other(held.print)) return { _tag: "Mismatch", receipt: undefined }
    if (held !== undefined) return { _tag: "InFlight", retryAfterMillis: held.until - now }
    return { _tag: "Claimed", token: actual._tag === "Claimed" ? actual.token : "", early: false }
  }

  it.prop(
    "never holds more than two generations, nor more claims than one",
    { maxKeys: between(1, 6), steps: Schema.Array(Schema.Struct({ key: between(0, 30), commit: Schema.Boolean })) },
    ({ maxKeys, steps }) => {
      const table = new ClaimTable<number>({ windowMillis: WINDOW, leaseMillis: LEASE, maxKeys, now: 0 })
      for (const { commit, key } of steps) {
        const result = table.claim(`k${key}`, undefined, 0)
        if (result._tag === "Claimed" && commit) assert.isTrue(table.commit(`k${key}`, result.token, key, 0))
        const { inFlight, keys } = table.sizes
        assert.isAtMost(inFlight, maxKeys)
        assert.isAtMost(inFlight + keys, 2 * maxKeys)
      }
    },
    { arbitrary: { runs: 300, size: 60 } }
  )

  it("refuses claims rather than forget what is committed, while most keys are in flight", () => {
    const table = new ClaimTable<number>({ windowMillis: WINDOW, leaseMillis: LEASE, maxKeys: 10, now: 0 })
    const keys = Array.from({ length: 10 }, (_, i) => `k${i}`)
    for (const [i, key] of keys.entries()) {
      const result = table.claim(key, undefined, 0)
      if (result._tag === "Claimed" && i < 3) assert.isTrue(table.commit(key, result.token, i, 0))
    }
    for (let i = 0; i < 100; i++) assert.strictEqual(table.claim(`more${i}`, undefined, 0)._tag, "Full")
    assert.deepStrictEqual(keys.map((key) => table.lookup(key, 0)).slice(0, 4), [0, 1, 2, undefined])
  })
})
