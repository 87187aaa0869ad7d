/** A program's own test: both sides in one process, no network, and time is the test's. Run by test/examples.test.ts. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { MemoryStore, Transport } from "../src/index.ts"
import { Shop } from "./contract.ts"

it.effect("an order whose handler fails at first is handled once, after a retry", () => {
  let attempts = 0
  const Server = Shop.layerServer({
    onMessage: () => Effect.suspend(() => ++attempts < 3 ? Effect.fail("the database is away") : Effect.void)
  }).pipe(Layer.provide(MemoryStore.layer()))
  const Client = Shop.layerClient({ url: "ws://test" }).pipe(Layer.provide(MemoryStore.layer()))

  return Effect.gen(function*() {
    const shop = yield* Shop.Client
    yield* shop.awaitConnected()
    const receipt = yield* shop.send({ number: 1, item: "tea" })
    assert.strictEqual(receipt._tag, "Sent")
    yield* TestClock.adjust("1 minute") // the first retry comes within 1 s, the second within 2 s more
    yield* receipt.handled
    assert.strictEqual(attempts, 3)
  }).pipe(Effect.provide(Client.pipe(
    Layer.provideMerge(Server),
    Layer.provide(Transport.layerMemory)
  )))
})
