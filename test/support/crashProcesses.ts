/**
 * Runs a scripted exchange between a client of this process, on real sockets, and servers in processes of their own, of
 * which the first kills itself at a chosen step (`crashServer.ts`) and the next goes on with the same database.
 */
import { Context, Effect, Layer, Redacted, References, Schedule, Schema, type Scope } from "effect"
import { type ChildProcess, fork } from "node:child_process"
import { MemoryStore, ResilientClient } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { type Connection, TransportClient } from "../../src/Transport.ts"
import type { FromServer, Point, ToServer } from "./crashServer.ts"
import type { Place } from "./crashStores.ts"
import { programPath } from "./sharedByRun.ts"

/** An exchange that takes longer hangs. */
const patience = "200 seconds"

/** One dies as it should; more do so for reasons of their own. */
const maxKills = 3

type Order = Exclude<ToServer, { readonly t: "start" }>

class ServerProcess {
  private readonly child: ChildProcess
  private isAlive = true
  private answer: ((message: FromServer | undefined) => void) | undefined
  private ended: () => void = () => {}

  constructor(program: string) {
    this.child = fork(program, { execArgv: ["--no-warnings"] })
    this.child.on("message", (message) => this.tell(message as FromServer)) // our own program
    this.child.on("exit", () => {
      this.isAlive = false
      this.ended()
      this.tell(undefined)
    })
  }

  /** The port that it listens on, or undefined if it died before. `onDeath` is called first. */
  async start(place: Place, point: Point | undefined, onDeath: () => void): Promise<number | undefined> {
    this.ended = onDeath
    if (!this.isAlive) {
      await Promise.resolve() // it is called later than this, as always
      onDeath()
      return undefined
    }
    const message = await this.ask({ t: "start", place, point })
    return message?.t === "listening" ? message.port : undefined
  }

  /** One at a time. Undefined when it died. */
  ask(order: ToServer): Promise<FromServer | undefined> {
    return new Promise((resolve) => {
      this.answer = resolve
      if (!this.isAlive) return this.tell(undefined)
      this.child.send(order, () => {}) // if it fails, the process is about to be gone
    })
  }

  private tell(message: FromServer | undefined): void {
    const { answer } = this
    this.answer = undefined
    answer?.(message)
  }

  rest(): void {
    this.ended = () => {}
  }

  kill(): void {
    this.rest()
    this.child.kill("SIGKILL")
  }
}

/** Processes that wait for a run; there is always one more than is needed, as a start takes its time. */
export interface Processes {
  readonly take: () => ServerProcess
  readonly giveBack: (server: ServerProcess) => void
}

/** They end with the scope. */
export const makeProcesses: Effect.Effect<Processes, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.promise(async () => ({
      program: await programPath("crashServer"),
      all: new Set<ServerProcess>(),
      free: [] as Array<ServerProcess>
    })),
    ({ all }) => Effect.sync(() => all.forEach((server) => server.kill()))
  ),
  ({ all, free, program }) => {
    const add = (): ServerProcess => {
      const server = new ServerProcess(program)
      all.add(server)
      return server
    }
    return {
      take: () => {
        const server = free.shift() ?? add()
        if (free.length === 0) free.push(add())
        return server
      },
      giveBack: (server) => {
        server.rest()
        free.unshift(server)
      }
    }
  }
)

/** The server of one run, whichever process it is. */
class Running {
  kills = 0
  private isAbandoned = false
  private readonly processes: Processes
  private readonly place: Place
  private server: ServerProcess
  private listening: Promise<number | undefined>

  constructor(processes: Processes, place: Place, point: Point | undefined) {
    this.processes = processes
    this.place = place
    this.server = processes.take()
    this.listening = this.start(point)
  }

  private start(point: Point | undefined): Promise<number | undefined> {
    return this.server.start(this.place, point, () => {
      // One that can't even start is not started for ever.
      if (++this.kills > maxKills) return this.abandon()
      this.server = this.processes.take()
      this.listening = this.start(undefined)
    })
  }

  /** Waits for ever once the run was abandoned. */
  async port(): Promise<number> {
    while (true) {
      if (this.isAbandoned) return new Promise(() => {})
      const port = await this.listening
      if (port !== undefined) return port
    }
  }

  /** Asks until it is done: whoever is killed meanwhile has perhaps done it. */
  async ask(order: Order): Promise<ReadonlyArray<string>> {
    while (true) {
      await this.port()
      const answer = await this.server.ask(order)
      if (answer?.t === "done") return answer.steps
    }
  }

  async stop(): Promise<ReadonlyArray<string>> {
    const steps = await this.ask({ t: "stop" })
    this.processes.giveBack(this.server)
    return steps
  }

  abandon(): void {
    this.isAbandoned = true
    this.server.kill()
  }
}

export interface RealOutcome {
  readonly kills: number
  readonly steps: ReadonlyArray<string>
  /** What the client's handler was given. */
  readonly received: ReadonlyArray<string>
  readonly receipts: Readonly<Record<string, string>>
  /** How the send under a key that was used before was answered. */
  readonly again: string
}

/** The exchange; the table of effects is for the caller to look at. */
export const realExchange = (processes: Processes, place: Place, point: Point | undefined) =>
  Effect.suspend(() => {
    let phase = "the start"
    const running = new Running(processes, place, point)
    const order = (what: Order) => Effect.promise(() => running.ask(what))
    const play = Effect.gen(function*() {
      const received: Array<string> = []
      const receipts: Record<string, string> = {}
      const { client, cut } = yield* clientOf(running, received)
      const send = Effect.fnUntraced(function*(message: string, id?: string) {
        const receipt = yield* client.send(message, { id })
        const handled = Effect.match(receipt.handled, {
          onFailure: ({ reason }) => void (receipts[message] = reason),
          onSuccess: () => void (receipts[message] = "handled")
        })
        return { tag: receipt._tag, handled }
      })

      phase = "the first messages"
      const first = yield* Effect.forEach(["a1", "a2", "poison", "a4"], (message) =>
        send(message, message === "a2" ? "a2" : undefined))
      for (const { handled } of first) {
        yield* handled
      }

      phase = "messages at a reconnect"
      yield* order({ t: "phase", phase: "reconnect" })
      yield* cut
      const a5 = yield* send("a5")
      const again = yield* send("a2", "a2")
      yield* Effect.promise(() =>
        running.ask({ t: "send", key: "b1" })
      )
      for (const { handled } of [a5, again]) yield* handled
      const expected = new Set(["re: a1", "re: a2", "re: a4", "re: a5", "b1"])
      yield* eventually(() => [...expected].every((text) => received.includes(text)))

      phase = "the end of the session"
      yield* order({ t: "phase", phase: "end" })
      yield* order({ t: "end" })
      // One that is not told, as the server was killed, gets another session.
      yield* eventually(() =>
        Effect.map(client.state, ({ _tag }) => _tag === "Stopped" || (running.kills > 0 && _tag === "Connected"))
      )
      phase = "the stop"
      yield* order({ t: "phase", phase: "stop" })
      const steps = yield* Effect.promise(() => running.stop())
      return { kills: running.kills, steps, received, receipts, again: again.tag } satisfies RealOutcome
    })
    return Effect.scoped(play).pipe(
      Effect.provideService(References.MinimumLogLevel, "Error"), // dead letters are part of it
      Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.fail(`it hangs in ${phase}`) }),
      Effect.onError(() => Effect.sync(() => running.abandon()))
    )
  })

const clientOf = Effect.fnUntraced(function*(running: Running, received: Array<string>) {
  let connection: Connection | undefined
  const transport = Context.get(yield* Layer.build(NodeTransport.layerClient), TransportClient)
  const store = yield* Layer.build(Layer.fresh(MemoryStore.layer()))
  const client = yield* ResilientClient.make({
    url: Effect.map(Effect.promise(() => running.port()), (port) => `ws://127.0.0.1:${port}`),
    token: Redacted.make("alice"),
    incoming: Schema.String,
    outgoing: Schema.String,
    onMessage: (text) => Effect.sync(() => received.push(text)),
    reconnect: { base: "5 millis", cap: "20 millis" },
    shutdownTimeout: "100 millis"
  }).pipe(
    Effect.provide(store),
    Effect.provideService(TransportClient, {
      dial: (options) => Effect.tap(transport.dial(options), (made) => Effect.sync(() => void (connection = made)))
    })
  )
  return { client, cut: Effect.sync(() => connection?.terminate()) }
})

const eventually = (condition: () => boolean | Effect.Effect<boolean>) =>
  Effect.suspend(() => {
    const result = condition()
    return typeof result === "boolean" ? Effect.succeed(result) : result
  }).pipe(Effect.repeat({ until: (holds) => holds, schedule: Schedule.spaced("5 millis") }))
