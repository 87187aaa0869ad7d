/** What a stranger can make a server log, and what an operator sees of a server that fails. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, Schedule } from "effect"
import { SessionRegistry, WebSocketError } from "resilient-websocket"
import * as H from "./support/harness.ts"
import { makeNetwork } from "./support/harnessNetwork.ts"
import { makeStranger } from "./support/stranger.ts"

const { until } = H

/** What is logged while it is used, as one text a line. */
const withLog = <A, E, R>(use: (lines: Array<string>) => Effect.Effect<A, E, R>) => {
  const lines: Array<string> = []
  const logger = Logger.map(Logger.formatLogFmt, (line) => void lines.push(line))
  return Effect.provide(use(lines), Logger.layer([logger]))
}

/** At most so many lines of each kind, none of them with a stack, and none a peer's own. */
const isModest = (lines: ReadonlyArray<string>, atMost: number) => {
  assert.isAtMost(lines.length, atMost, lines.join("\n"))
  for (const line of lines) {
    assert.notMatch(line, /\n|\\n|cause=|\s+at .*:\d+:\d+/)
    assert.isBelow(line.length, 1_000)
  }
}

describe("a stranger can't fill the log", () => {
  const frames: Record<string, string> = {
    "no JSON": "no JSON\r\n\u2028level=FATAL message=\"all is lost\"",
    "an unknown type": `{"t":"${"x".repeat(10_000)}"}`,
    "a frame of the other side": `{"t":"drain","deadline":1,"window":1}`,
    "an offset of the future": `{"t":"batch","o":7,"m":[1]}`,
    "a payload with __proto__": `{"t":"batch","o":1,"m":[{"__proto__":1}]}`
  }
  for (const [name, frame] of Object.entries(frames)) {
    it.effect(`by violations without end: ${name}`, () =>
      withLog((lines) =>
        Effect.gen(function*() {
          const network = yield* makeNetwork
          const server = yield* H.serverOn(network.context)
          for (let n = 1; n <= 300; n++) {
            const stranger = yield* makeStranger(network, "protocol")
            stranger.say(frame)
            yield* until("it is turned away", () => stranger.closed() !== undefined)
          }
          yield* H.advance(11_000, 1_000)
          assert.isAtLeast(
            (yield* server.stats).totals.connectionsFailed + (yield* server.stats).totals.protocolErrors,
            300
          )
          isModest(lines, 12)
        })
      ))
  }

  it.effect("by gaps, with a handler of them or without", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        for (const onGap of [undefined, () => Effect.die(new Error("a handler that fails"))]) {
          const network = yield* makeNetwork
          yield* H.serverOn(network.context, { onGap })
          const stranger = yield* makeStranger(network, "protocol")
          for (let n = 1; n <= 1_000; n++) stranger.say(`{"t":"gap","o":${n},"e":${n},"reason":"expired"}`)
          yield* until("all are read", () => stranger.unread() === 0)
          yield* H.advance(11_000, 1_000)
        }
        isModest(lines, 12)
      })
    ))

  it.effect("by poisoned messages, or tokens that break the hook", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const network = yield* makeNetwork
        const server = yield* H.serverOn(network.context, {
          authenticate: ({ token }) => {
            if (H.textOf(token) === "bad") throw new Error(`the hook breaks\n    at line ${H.textOf(token)}`)
            return Effect.succeed({})
          },
          onMessage: () => Effect.die(new Error("the handler breaks")),
          handlerRetry: Schedule.recurs(0)
        })
        for (let n = 1; n <= 200; n++) {
          const stranger = yield* makeStranger(network, "protocol", "bad")
          yield* until("it is turned away", () => stranger.closed() !== undefined)
        }
        const poisoner = yield* makeStranger(network, "protocol")
        for (let n = 1; n <= 1_000; n++) poisoner.batch([n % 2 === 0 ? "breaks it" : { undecodable: n }])
        yield* until("all are given up", () => Effect.map(server.stats, ({ totals }) => totals.deadLetters === 1_000))
        yield* H.advance(11_000, 1_000)
        isModest(lines, 6 + 2 + 12)
        assert.isAtLeast((yield* server.stats).totals.internalErrors, 200)
      })
    ))
})

describe("an operator sees", () => {
  it.effect("that the store fails those who connect: a line, and a count of each", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const network = yield* makeNetwork
        const failing = new WebSocketError.SessionRegistryError({
          session: "",
          operation: "attach",
          reason: "store",
          cause: new Error("connect ECONNREFUSED 127.0.0.1:5432")
        })
        const store = yield* H.makeStore(undefined, (services) =>
          Layer.effectContext(Effect.map(Layer.build(services), (context) => {
            const registry = Context.get(context, SessionRegistry.SessionRegistry)
            return Context.add(context, SessionRegistry.SessionRegistry, {
              ...registry,
              attach: () =>
                Effect.fail(failing)
            })
          })))
        const server = yield* H.serverOn(network.context, {}, { store })
        for (let n = 1; n <= 50; n++) {
          const stranger = yield* makeStranger(network, n % 2 === 0 ? "plain" : "protocol")
          yield* until("it is turned away", () =>
            stranger.closed() === 4006)
        }
        assert.strictEqual((yield* server.stats).totals.internalErrors, 50)
        yield* H.advance(11_000, 1_000)
        isModest(lines, 12)
        assert.match(lines[0] ?? "", /handshakes are refused \(internal\).*ECONNREFUSED/)
        assert.match(lines.at(-1) ?? "", /the last of 45 more like this/)
      })
    ))

  it.effect("that there is no room for more handshakes", () =>
    withLog((lines) =>
      Effect.gen(function*() {
        const network = yield* makeNetwork
        yield* H.serverOn(network.context, { maxHandshakes: 1, authenticate: () => Effect.never })
        for (let n = 1; n <= 50; n++) yield* makeStranger(network, "protocol")
        yield* until("it is said", () => lines.length > 0)
        yield* H.advance(11_000, 1_000)
        isModest(lines, 12)
        assert.match(lines[0] ?? "", /handshakes are refused \(overloaded\)/)
      })
    ))
})
