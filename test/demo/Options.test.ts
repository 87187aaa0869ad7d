import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Command } from "effect/cli"
import * as Options from "../../examples/demo/Options.ts"

/** What the command is to do, given these arguments. */
const parse = (...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const parsed: Array<Options.Options> = []
    const command = Options.command((options) => Effect.sync(() => void parsed.push(options)))
    yield* Command.runWith(command, { version: "0", renderErrors: false })(args)
    const [options] = parsed
    return options ?? (yield* Effect.die("the command was not run"))
  }).pipe(Effect.provide(NodeServices.layer))

const contradictionOf = (...args: ReadonlyArray<string>) => Effect.map(parse(...args), Options.contradiction)

describe("the options", () => {
  it.effect("ask for one process and a quick run by default", () =>
    Effect.gen(function*() {
      const options = yield* parse()
      assert.deepInclude(options, { store: "memory", servers: 1, killsPerMinute: 0, clients: 4, messages: 20_000 })
      assert.strictEqual(Options.contradiction(options), undefined)
    }))

  it.effect("take a store, servers, kills", () =>
    Effect.gen(function*() {
      const args = ["--store", "redis", "--servers", "3", "--kills-per-minute", "60", "--store-url", "redis://there"]
      const options = yield* parse(...args)
      assert.deepInclude(options, {
        store: "redis",
        servers: 3,
        killsPerMinute: 60,
        storeUrl: "redis://there",
        clients: 8
      })
      assert.strictEqual(Options.contradiction(options), undefined)
    }))

  it.effect("are refused out of their ranges", () =>
    Effect.gen(function*() {
      for (
        const args of [["--store", "mongo"], ["--servers", "0"], ["--servers", "17"], ["--kills-per-minute", "601"]]
      ) {
        yield* Effect.flip(parse(...args))
      }
    }))

  it.effect("that memory can't keep are refused in a sentence that names a way out", () =>
    Effect.gen(function*() {
      assert.match((yield* contradictionOf("--kills-per-minute", "1")) ?? "", /dies with its server; choose sqlite/)
      assert.match((yield* contradictionOf("--servers", "2")) ?? "", /can't be shared between processes; choose sqlite/)
      assert.match((yield* contradictionOf("--store", "sqlite", "--store-url", "x")) ?? "", /not for sqlite/)
    }))

  it("share the messages out among the clients", () => {
    const shares = [0, 1, 2].map((client) => Options.messagesOf({ clients: 3, messages: 10 }, client))
    assert.deepStrictEqual(shares, [4, 3, 3])
  })
})
