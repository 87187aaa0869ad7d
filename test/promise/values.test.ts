/** What may be sent without a Schema: what JSON holds. The rest is refused, and not changed. */
import { assert, describe, it } from "@effect/vitest"
import { runInNewContext } from "node:vm"
import { ResilientClient } from "resilient-websocket/promise"
import { onTestFinished } from "vitest"
import { type Dice, makeDice } from "../support/anySchema.ts"
import { listen, makeManager, rejection, until } from "../support/promise.ts"

/** A manager and a client that are connected, and what each was sent. */
const setUp = async () => {
  const atServer: Array<unknown> = []
  const atClient: Array<unknown> = []
  const manager = await makeManager({ onMessage: (message) => void atServer.push(message) })
  const { url } = await listen((ws) => manager.registerConnection(ws, { sessionId: "alice" }))
  const client = await ResilientClient.connect<unknown, unknown>(url, {
    log: false,
    onMessage: (message) => void atClient.push(message)
  })
  onTestFinished(() => client.close({ timeout: 100 }).then(() => {}))
  /** Each way in. */
  const ways = {
    "client.send": (value: unknown) => client.send(value),
    "client.send, volatile": (value: unknown) => client.send(value, { volatile: true }),
    "client.sendAll": (value: unknown) => client.sendAll([1, value]),
    "manager.send": (value: unknown) => manager.send("alice", value),
    "manager.send, critical": (value: unknown) => manager.send("alice", value, { critical: true }),
    "manager.sendAll": (value: unknown) => manager.sendAll("alice", [value]),
    "manager.broadcast": (value: unknown) => manager.broadcast(value)
  }
  return { atServer, atClient, client, manager, ways }
}

const texts = ["", "a", "null", "__proto__", "a\u0000b\u2028", "\ud800", "\u{1F600}", `"\\`]
const numbers = [0, 1, -1.5, 2 ** 53 + 2, 1e308, 5e-324]
const keys = ["a", "0", "", "constructor", "toString", "length", "a.b", "\u0000", "\udc00"]
const pick = <A>(dice: Dice, parts: ReadonlyArray<A>): A => parts[dice(parts.length)] as A // never of none

/** Any value of JSON. */
const value = (dice: Dice, depth = 4): unknown => {
  switch (depth === 0 ? dice(4) : dice(7)) {
    case 0:
      return pick(dice, texts)
    case 1:
      return pick(dice, numbers)
    case 2:
      return dice(2) === 0
    case 3:
      return null
    case 4:
      return Array.from({ length: dice(4) }, () => value(dice, depth - 1))
    default:
      return Object.fromEntries(Array.from({ length: dice(4) }, () => [pick(dice, keys), value(dice, depth - 1)]))
  }
}

const cyclic: { self?: unknown } = {}
cyclic.self = cyclic
/** Not every runtime has it; the others have no way to write such a text. */
const rawJson = (text: string): unknown =>
  (JSON as { readonly rawJSON?: (text: string) => unknown }).rawJSON?.(text) ?? new Order()
class Order {
  id = 7
}
class Rows extends Array<unknown> {}
const nested = (levels: number): unknown => levels === 0 ? 0 : [nested(levels - 1)]

const refused: ReadonlyArray<readonly [name: string, value: unknown, path: string | undefined]> = [
  ["undefined", undefined, undefined],
  ["undefined in an array", { list: [1, undefined] }, "list[1]"],
  ["a hole", [1, , 3], "[1]"], // oxlint-disable-line no-sparse-arrays
  ["NaN", { a: { b: Number.NaN } }, "a.b"],
  ["Infinity", [Infinity], "[0]"],
  ["a bigint", { "odd key": 1n }, `["odd key"]`],
  ["a function", { run: () => 1 }, "run"],
  ["a symbol", [Symbol("s")], "[0]"],
  ["a symbol for a key", { a: { [Symbol("s")]: 1 } }, "a"],
  ["a Date", { at: new Date(5) }, "at"],
  ["a RegExp", { like: /a/ }, "like"],
  ["a Map", { map: new Map([[1, 2]]) }, "map"],
  ["a Set", new Set([1]), undefined],
  ["bytes", { bytes: new Uint8Array([1]) }, "bytes"],
  ["a Buffer", Buffer.from("a"), undefined],
  ["an ArrayBuffer", new ArrayBuffer(1), undefined],
  ["an Error", { error: new Error("no") }, "error"],
  ["a boxed number", { n: new Number(1) }, "n"],
  ["a boxed string", [new String("a")], "[0]"],
  ["an instance of a class", [new Order()], "[0]"],
  ["an array of a class", { rows: Rows.from([1]) }, "rows"],
  ["what inherits", Object.create({ a: 1 }), undefined],
  ["a promise", { p: Promise.resolve(1) }, "p"],
  ["a Proxy of a Map", new Proxy(new Map(), {}), undefined],
  ["toJSON", { a: { toJSON: () => 7 } }, "a"],
  ["a toJSON that is not seen", { a: Object.defineProperty({}, "toJSON", { value: () => nested(80) }) }, "a"],
  ["an array with a toJSON", [Object.assign([1], { toJSON: () => 7 })], "[0]"],
  ["a text for JSON that no peer takes", { a: rawJson("1e999") }, "a"],
  ["a text for JSON", rawJson("12345678901234567890"), undefined],
  ["a URL", [[new URL("http://a/")]], "[0][0]"],
  ["a cycle", cyclic, `self${".self".repeat(63)}`],
  ["65 levels", nested(65), "[0]".repeat(64)],
  ["__proto__", JSON.parse(`{"a":[{"__proto__":1}]}`), "a[0].__proto__"]
]

const accepted: ReadonlyArray<readonly [name: string, sent: unknown, arrives: unknown]> = [
  ["an object without a prototype", Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
  ["objects of another realm", runInNewContext(`({ list: [{ a: 1 }] })`), { list: [{ a: 1 }] }],
  ["a getter", {
    get a() {
      return 1
    }
  }, { a: 1 }],
  ["a key that is undefined, as if it were not there", { a: undefined, b: 1 }, { b: 1 }],
  ["-0", [-0, { a: -0, b: 0 }, "-0"], [-0, { a: -0, b: 0 }, "-0"]],
  ["64 levels", nested(64), nested(64)],
  ["what is frozen", Object.freeze({ a: Object.freeze([1]) }), { a: [1] }]
]

describe("A value", () => {
  it("of JSON arrives as it was sent: 1,000 of them each way", async () => {
    const { atClient, atServer, client, manager } = await setUp()
    const dice = makeDice(5)
    const values = Array.from({ length: 1_000 }, () => value(dice))
    for (const value of values) {
      await client.send(value)
      await manager.send("alice", value, { critical: true })
    }
    await until("all are there", () => atServer.length === values.length && atClient.length === values.length)
    assert.deepStrictEqual(atServer, values)
    assert.deepStrictEqual(atClient, values)
  })

  it("that JSON would change is refused whichever way it goes, with the place", async () => {
    const { atClient, atServer, client, ways } = await setUp()
    for (const [name, value, path] of refused) {
      for (const [way, send] of Object.entries(ways)) {
        const error = await rejection(send(value))
        assert.deepInclude(
          error,
          { _tag: "resilient-websocket/PayloadError", direction: "encode" },
          `${name}, by ${way}`
        )
        assert.strictEqual((error as { path?: string }).path, path, `${name}, by ${way}`)
      }
    }
    const receipt = await client.send("the next one")
    await receipt.handled()
    assert.deepStrictEqual(atServer, ["the next one"])
    assert.deepStrictEqual(atClient, [])
  })

  it.each(accepted)("may be %s", async (_, sent, arrives) => {
    const { atClient, atServer, client, manager } = await setUp()
    const receipt = await client.send(sent)
    await receipt.handled()
    await manager.send("alice", sent, { critical: true })
    await until("it is there", () => atClient.length === 1)
    assert.deepStrictEqual([atServer, atClient], [[arrives], [arrives]])
  })

  it("whose getter throws is refused", async () => {
    const { client } = await setUp()
    const error = await rejection(client.send({
      get a() {
        throw new Error("not now")
      }
    }))
    assert.include(String(error), "not now")
    assert.deepInclude(error, { _tag: "resilient-websocket/PayloadError" })
  })

  it("of a reply is held to the same, and fails its handler", async () => {
    const { manager } = await setUp()
    const { url } = await listen((ws) => manager.registerConnection(ws, { sessionId: "bob" }))
    const faults: Array<unknown> = []
    const client = await ResilientClient.connect<unknown, unknown>(url, {
      log: false,
      onMessage: (_, { reply }) => reply(new Map()).catch((error: unknown) => void faults.push(error))
    })
    onTestFinished(() => client.close({ timeout: 100 }).then(() => {}))
    await manager.send("bob", "answer me", { critical: true })
    await until("it was refused", () => faults.length === 1)
    assert.deepInclude(faults[0], {
      _tag: "resilient-websocket/PayloadError",
      detail: "JSON has no form for an instance of Map"
    })
  })
})
