/**
 * `npm start`: servers and clients talk through a network that breaks all the time, servers are killed if asked for, and
 * an independent checker says whether every message was handled exactly once and in order. Nothing is mocked: real
 * sockets, real processes, real faults.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect, Layer, Logger, References } from "effect"
import { Command } from "effect/cli"
import * as Checker from "./Checker.ts"
import * as Input from "./Input.ts"
import * as OneProcess from "./OneProcess.ts"
import * as Options from "./Options.ts"
import * as Report from "./Report.ts"
import * as SeveralProcesses from "./SeveralProcesses.ts"

const run = Effect.fnUntraced(function*(options: Options.Options, report: Report.Report) {
  const contradiction = Options.contradiction(options)
  if (contradiction !== undefined) return yield* Effect.fail(contradiction)
  const input = yield* Input.load({ file: options.file })
  const checker = Checker.make({ lines: input.lines })
  yield* report.note(
    `${options.messages} lines each way, ${options.clients} clients, seed ${options.seed}, from ${input.source}`
  )
  const { store } = options
  const finished = yield* Effect.scoped(
    store === "memory"
      ? OneProcess.run(options, checker, report)
      : SeveralProcesses.run({ ...options, store }, checker, report)
  )
  const summary: Report.Summary = {
    seed: options.seed,
    clients: options.clients,
    source: input.source,
    verdict: checker.verdict(),
    ...finished
  }
  yield* report.finish(summary)
  if (!Report.isSuccess(summary)) process.exitCode = 1
})

const demo = Options.command((options) => {
  const report = Report.make({ json: options.json })
  return run(options, report).pipe(
    // The faults are the point: what the library logs about them would only hide the result.
    Effect.provideService(References.MinimumLogLevel, "Error"),
    Effect.catch((error) =>
      Effect.sync(() => {
        console.error(error instanceof Error ? error.message : String(error))
        process.exitCode = 1
      })
    )
  )
})

demo.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provide(Layer.mergeAll(NodeServices.layer, Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)]))),
  NodeRuntime.runMain
)
