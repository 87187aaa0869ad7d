import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Predicate, Schema } from "effect"
import * as Broken from "../support/brokenWorlds.ts"
import { command, fixed, int } from "../support/coreArbitraries.ts"
import { World, type WorldOptions } from "../support/coreWorld.ts"
import { BrokenPromise } from "../support/ledger.ts"

const role = Schema.Literals(["client", "server"])

/** Things go well for a while: each side writes, what arrives is handled, or fails, and is acknowledged. */
const turn = command("turn", {
  messages: int(1, 8),
  arrive: int(1, 8),
  handle: int(0, 8),
  outcome: Schema.Literals(["acked", "acked", "acked", "silent", "failed"])
})
const send = command("send", { role, count: int(1, 4), size: int(0, 30), ttl: Schema.Literals([0, 0, 0, 10, 40]) })

/** What moves things along comes more often, or nothing would ever be on its way. */
const usual = [
  ...Array.from({ length: 12 }, () => turn),
  ...Array.from({ length: 5 }, () => send),
  command("pump", { role, messages: int(1, 8) }),
  command("deliver", { role, count: int(1, 5) }),
  command("handle", { role, count: int(1, 6) }),
  command("ack", { role }),
  command("fail", { role }),
  command("ping", { role }),
  command("expire", { role }),
  command("advance", { ms: int(1, 20) }),
  command("connect", {}),
  command("accept", {}),
  ...Array.from({ length: 5 }, () => command("reconnect", {})),
  command("cut", { client: int(0, 4), server: int(0, 4), noticed: Schema.Array(role) }),
  command("restart", { role })
] as const

const Usual = Schema.Union(usual)
const WithLoss = Schema.Union([...usual, command("loseState", { role })])
type Command = typeof WithLoss.Type

const Window = Schema.Struct({ messages: int(1, 8), bytes: int(100, 600) })
const Options = Schema.Struct({ windows: Schema.Struct({ client: Window, server: Window }), bound: int(1, 20) })

const step = (world: World, command: Command): void => {
  switch (command.t) {
    case "turn":
      for (const role of ["client", "server"] as const) {
        world.pump(role, command.messages)
        world.deliver(role, command.arrive)
        if (command.outcome === "failed") world.fail(role)
        world.handle(role, command.handle)
        if (command.outcome === "acked") world.ack(role)
      }
      return
    case "send":
      return world.send(command.role, command.count, command.size, command.ttl)
    case "pump":
      return world.pump(command.role, command.messages)
    case "deliver":
      return world.deliver(command.role, command.count)
    case "handle":
      return world.handle(command.role, command.count)
    case "fail":
      return world.fail(command.role)
    case "ack":
      return world.ack(command.role)
    case "ping":
      return world.ping(command.role)
    case "expire":
      return world.expire(command.role)
    case "advance":
      world.now += command.ms
      return
    case "connect":
      return world.connect()
    case "accept":
      return world.accept()
    case "reconnect":
      world.connect()
      world.accept()
      return world.deliver("client", 1)
    case "cut":
      return world.cut({ client: command.client, server: command.server }, command.noticed)
    case "restart":
      return world.restart(command.role)
    case "loseState":
      return world.loseState(command.role)
  }
}

/** Throws `BrokenPromise` when the promise is broken on the way or at the end. */
const run = (world: World, commands: ReadonlyArray<Command>): void => {
  for (const command of commands) step(world, command)
  world.finish()
}

const stateKept = (options: typeof Options.Type): WorldOptions => ({ ...options, whenPeerLost: undefined })
const givingBack = (options: typeof Options.Type): WorldOptions => ({ ...options, whenPeerLost: "giveBack" })
const resending = (options: typeof Options.Type): WorldOptions => ({ ...options, whenPeerLost: "resend" })

describe("The promise", () => {
  it.prop(
    "holds: each accepted message is handled once and in order, or is a dead letter and a gap",
    [Options, Schema.Array(Usual)],
    ([options, commands]) => run(new World(stateKept(options)), commands),
    fixed(3000, 120)
  )

  it.prop(
    "holds where state is lost, and what the lost may have handled is given back: nothing is handled twice",
    [Options, Schema.Array(WithLoss)],
    ([options, commands]) => run(new World(givingBack(options)), commands),
    fixed(3000, 120)
  )

  it.prop(
    "holds where state is lost, and what the lost may have handled is sent again: nothing is missing",
    [Options, Schema.Array(WithLoss)],
    ([options, commands]) => run(new World(resending(options)), commands),
    fixed(1000, 120)
  )

  describe("is seen to be broken by a world that", () => {
    const arbitrary = Arbitrary.all([Arbitrary.schema(Options), Arbitrary.schema(Schema.Array(WithLoss))])

    /** How a world of this kind breaks its promise, as a shrunk counterexample says. */
    const breach = (Kind: typeof World) =>
      Effect.gen(function*() {
        const result = yield* Arbitrary.checkEffect(arbitrary, ([options, commands]) =>
          Effect.try({
            try: () => {
              run(new Kind(givingBack(options)), commands)
              return true
            },
            catch: (error) => error
          }), { ...fixed(4000, 120).arbitrary, maxShrinks: 200 })
        if (!Predicate.isTagged(result, "Falsified")) return "nothing"
        const error = Predicate.isTagged(result.failure, "PropertyError") ? result.failure.error : result.failure
        return error instanceof BrokenPromise ? error.message : yield* Effect.die(error)
      })

    const planted: ReadonlyArray<readonly [name: string, Kind: typeof World, breach: RegExp]> = [
      ["does not check positions", Broken.ChecksNoPositions, /no progress/],
      ["takes repeats for new", Broken.TakesRepeatsForNew, /was handled after/],
      ["acknowledges before it handles", Broken.AcknowledgesBeforeHandling, /is lost|was skipped/],
      ["trusts writes", Broken.TrustsWrites, /is lost|was skipped/],
      ["expires what was sent", Broken.ExpiresWhatWasSent, /a dead letter|was handled after|accused of future/],
      ["keeps failures to itself", Broken.KeepsFailuresToItself, /no progress/],
      ["skips gaps", Broken.SkipsGaps, /accused of future/],
      ["ignores the window", Broken.IgnoresTheWindow, /accused of window/],
      ["loses credit", Broken.LosesCredit, /credit was lost/],
      ["says only once that it started anew", Broken.SaysItStartedAnewOnce, /was (handled|failed) after/]
    ]

    it.effect.each(planted)("%s", ([, Kind, expected]) =>
      Effect.gen(function*() {
        assert.match(yield* breach(Kind), expected)
      }))
  })
})
