/** A program's own test with a fault: the network is cut. Run by test/examples.test.ts. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { MemoryStore, Transport } from "../src/index.ts"
import { Faults } from "../src/testing/index.ts"
import { Shop } from "./contract.ts"

const handled: Array<string> = []
const Server = Shop.layerServer({ onMessage: ({ item }) => Effect.sync(() => handled.push(item)) }).pipe(
  Layer.provide(MemoryStore.layer())
)
const Both = Shop.layerClient({ url: "ws://test" }).pipe(
  Layer.provide(MemoryStore.layer()),
  Layer.provideMerge(Server),
  Layer.provideMerge(Faults.layer(Transport.layerMemory))
)

it.effect("an order that is sent while the network is down is handled once, when it is back", () =>
  Effect.gen(function*() {
    const faults = yield* Faults.Faults
    const shop = yield* Shop.Client
    yield* shop.awaitConnected()
    yield* faults.refuse // dials fail from here on
    yield* faults.cut
    const receipt = yield* shop.send({ number: 1, item: "tea" })
    assert.strictEqual(receipt._tag, "Queued")
    yield* faults.heal
    yield* TestClock.adjust("1 minute") // the client dials again
    yield* receipt.handled
    assert.deepStrictEqual(handled, ["tea"])
  }).pipe(Effect.provide(Both)))
