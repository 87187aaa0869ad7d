/** Messages at which connections end again and again: alone, in pieces, given up. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, type Scope } from "effect"
import { type Message, Transport } from "resilient-websocket"
import { decode } from "../src/core/Codec.ts"
import * as H from "./support/harness.ts"
import { advance, advanceUntil, until } from "./support/harness.ts"
import { type Direction, makeNetwork, type Network } from "./support/harnessNetwork.ts"

interface Hop {
  /** Bytes of a frame that it does not take. */
  readonly limit: number
  readonly direction: Direction
  /** What it closes with, both ways: 1006 is a reset. */
  readonly code: number
}

/** A hop between the peers that ends the connection at a frame of reliable messages that is too large for it. */
const hop = (network: Network, { code, direction, limit }: Hop): Context.Context<
  Transport.TransportServer | Transport.TransportClient
> => {
  const guarded = (connection: Transport.Connection, way: Direction): Transport.Connection => ({
    ...connection,
    open: (sink) => {
      open.set(way, connection)
      connection.open(sink)
    },
    send: (frame, written) => {
      if (way === direction && frame.length > limit && decode(frame).t === "batch") {
        for (const each of open.values()) each.close(code, "")
        return
      }
      connection.send(frame, written)
    }
  })
  const open = new Map<Direction, Transport.Connection>()
  const { dial } = Context.get(network.context, Transport.TransportClient)
  const { listen } = Context.get(network.context, Transport.TransportServer)
  return Context.make(Transport.TransportClient, {
    dial: (options) => Effect.map(dial(options), (connection) => guarded(connection, "toServer"))
  }).pipe(Context.add(Transport.TransportServer, {
    listen: (accept) => listen((connection) => accept(guarded(connection, "toClient")))
  }))
}

/** A pair with a hop between them; what each side sends, got and had back. */
const across = Effect.fnUntraced(function*(kind: Hop): Effect.fn.Return<
  {
    readonly network: Network
    readonly client: H.Client
    readonly server: H.Server
    readonly got: ReadonlyArray<string>
    readonly letters: ReadonlyArray<Message.DeadLetter<string>>
    readonly gaps: ReadonlyArray<Message.MessageGap>
    readonly send: (text: string) => Effect.Effect<Message.Receipt, unknown>
  },
  unknown,
  Scope.Scope
> {
  const network = yield* makeNetwork
  const gaps: Array<Message.MessageGap> = []
  const onGap = (gap: Message.MessageGap) => Effect.sync(() => gaps.push(gap))
  const { atClient, atServer, client, server } = yield* H.pair({ ...network, context: hop(network, kind) }, {
    client: { onGap },
    server: { onGap }
  })
  const isUp = kind.direction === "toServer"
  const letters = yield* H.collect((isUp ? client : server).deadLetters)
  const send = (text: string) => isUp ? client.send(text, forever) : server.send("alice", text, forever)
  return { network, client, server, got: isUp ? atServer : atClient, letters, gaps, send }
})

/** No time to live ends it before. */
const forever = { ttl: "1 day" } as const

const large = (name: string) => name + "x".repeat(50_000)

describe("a message that is too large for a hop", () => {
  for (const direction of ["toServer", "toClient"] as const) {
    for (const [code, connections] of [[1009, 5], [1006, 12]] as const) {
      it.effect(`${direction}, which closes with ${code}, is given up; what is before and behind it arrives`, () =>
        Effect.gen(function*() {
          const { client, gaps, got, letters, network, send } = yield* across({ limit: 32_768, direction, code })
          yield* send("one")
          const receipt = yield* send(large("two"))
          for (const text of ["three", "four"]) yield* send(text)
          yield* advanceUntil("it is given up, and the rest has arrived", () => got.includes("four"), {
            atMost: 1_200_000,
            step: 500
          })
          assert.deepStrictEqual(got, ["one", "three", "four"])
          assert.deepStrictEqual(
            letters.map(({ maybeHandled, message, reason }) => [message?.slice(0, 3), reason, maybeHandled]),
            [["two", "tooLarge", false]]
          )
          const exit = yield* Effect.exit(receipt.handled)
          assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), "tooLarge")
          assert.deepStrictEqual(gaps.map(({ count, reason }) => [count, reason]), [[1, "overflow"]])
          assert.isAtMost(network.dials, connections)
          assert.strictEqual((yield* client.state)._tag, "Connected")
        }))
    }
  }

  it.effect("is not waited for by those that were sent before, nor lost with what comes after, however many there are", () =>
    Effect.gen(function*() {
      const { got, letters, network, send } = yield* across({ limit: 32_768, direction: "toServer", code: 1009 })
      const texts = Array.from({ length: 30 }, (_, i) => i % 10 === 5 ? large(`${i} `) : `${i} `)
      for (const text of texts) yield* send(text)
      yield* advanceUntil("all is decided", () => got.length + letters.length === texts.length, {
        atMost: 1_200_000,
        step: 500
      })
      assert.deepStrictEqual(got, texts.filter((text) => text.length < 10))
      assert.isTrue(letters.every(({ reason }) => reason === "tooLarge"))
      assert.isAtMost(network.dials, 16)
    }))
})

describe("small messages in a frame that is too large for a hop", () => {
  for (const code of [1009, 1006]) {
    it.effect(`all arrive, in smaller frames, when it closes with ${code}`, () =>
      Effect.gen(function*() {
        const { got, letters, network, send } = yield* across({ limit: 6_000, direction: "toServer", code })
        const texts = H.numbered(2_000).map((text) => text.padEnd(100, "."))
        network.newest().cut()
        yield* Effect.forEach(texts.slice(0, 900), send)
        yield* advanceUntil("they arrive", () => got.length === 900, { atMost: 1_200_000, step: 500 })
        const { dials } = network
        yield* Effect.forEach(texts.slice(900, 1_800), send)
        yield* advanceUntil("so do later ones", () => got.length === 1_800, { atMost: 1_200_000, step: 500 })
        assert.deepStrictEqual(got, texts.slice(0, 1_800))
        assert.lengthOf(letters, 0)
        assert.strictEqual(network.dials, dials, "the limit is known now")
      }))
  }
})

describe("nothing is given up", () => {
  it.effect("for a network that breaks again and again at a small message", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const { atServer, client } = yield* H.pair(network)
      const letters = yield* H.collect(client.deadLetters)
      network.passes = (_, frame) => {
        if (decode(frame).t !== "batch") return true
        network.newest().cut()
        return false
      }
      yield* client.send("small", { ttl: "1 day" })
      yield* advance(900_000, 1_000)
      assert.lengthOf(letters, 0)
      network.passes = () => true
      yield* advanceUntil("it arrives", () => atServer.length === 1)
    }))

  it.effect("for a server that crashes after each welcome, however large what waits is", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const { atServer, client } = yield* H.pair(network)
      const letters = yield* H.collect(client.deadLetters)
      let isCrashing = true
      network.passes = (direction, frame) => {
        if (isCrashing && direction === "toClient" && decode(frame).t === "welcome") {
          const link = network.newest()
          setImmediate(() => link.cut())
        }
        return !isCrashing || decode(frame).t !== "batch"
      }
      network.newest().cut()
      yield* client.send(large(""), { ttl: "1 day" })
      yield* advance(1_200_000, 1_000)
      assert.lengthOf(letters, 0)
      isCrashing = false
      yield* advanceUntil("it arrives", () => atServer.length === 1)
    }))

  for (const code of [1002, 1003, 1007, 1008]) {
    it.effect(`for ${code} right after a message: the client stops, with the code, and has it still`, () =>
      Effect.gen(function*() {
        const { client, letters, send } = yield* across({ limit: 1_000, direction: "toServer", code })
        yield* send("x".repeat(2_000))
        yield* advanceUntil("it has stopped", () => Effect.map(client.state, ({ _tag }) => _tag === "Stopped"), {
          atMost: 280_000,
          step: 500
        })
        const state = yield* client.state
        assert.include(state._tag === "Stopped" ? state.error.message : "", String(code))
        assert.lengthOf(letters, 0)
        assert.strictEqual((yield* client.stats).session.queuedMessages, 1)
      }))
  }
})

describe("a network that breaks all the time", () => {
  it.effect("before it can be seen to stand, gets everything through in the end", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const { atServer, client } = yield* H.pair(network)
      let swallowed = 0
      const welcomed: Array<{ cut: () => void }> = []
      network.passes = (direction, frame) => {
        const { t } = decode(frame)
        if (direction === "toClient" && t === "welcome") welcomed.push(network.newest())
        // Until the message is suspected.
        if (t !== "batch" || swallowed === 4) return true
        swallowed++
        network.newest().cut()
        return false
      }
      yield* Effect.forkScoped(Effect.forever(Effect.suspend(() => {
        const lives = welcomed.splice(0)
        return Effect.andThen(Effect.sleep("200 millis"), Effect.sync(() => lives.forEach((link) => link.cut())))
      })))
      yield* client.sendAll(H.numbered(5), { ttl: "1 day" })
      yield* advanceUntil("all have arrived", () => atServer.length === 5, { atMost: 1_200_000, step: 100 })
      assert.deepStrictEqual(atServer, H.numbered(5))
    }))
})

describe("an ordinary cut", () => {
  it.effect("with messages in flight delays nothing and makes no frame smaller", () =>
    Effect.gen(function*() {
      const network = yield* makeNetwork
      const { atServer, client } = yield* H.pair(network)
      let dropped = 0
      network.passes = (_, frame) => {
        if (decode(frame).t !== "batch" || dropped++ > 0) return true
        network.newest().cut()
        return false
      }
      yield* client.sendAll(H.numbered(500))
      yield* until("it is lost", () => Effect.map(client.state, ({ _tag }) => _tag === "Disconnected"))
      yield* client.reconnect
      yield* until("all have arrived, and the clock stood still", () => atServer.length === 500)
      assert.isAtMost(network.newest().frames.filter(({ frame }) => decode(frame).t === "batch").length, 2)
    }))
})
