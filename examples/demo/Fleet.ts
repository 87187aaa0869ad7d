/**
 * The demo's servers, each a process of its own: started, killed without warning, started again, and asked to send.
 * The nth kill's victim and the gaps between kills depend on the seed alone; what a server was doing then does not.
 */
import { Deferred, Effect, FiberSet, Latch, Schedule, type Scope } from "effect"
import { type ChildProcess, fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import * as Prng from "../../src/testing/node/prng.ts"
import type { Figures, FromServer, Place, SendRequest, ToServer } from "./Ipc.ts"

export interface Options {
  readonly servers: number
  readonly place: Place
  readonly seed: number
  /** Servers killed a minute, on average; 0 for none. */
  readonly killsPerMinute: number
  /** A directory for compiled code. */
  readonly cache: string
}

export interface Counts extends Figures {
  readonly kills: number
  /** Processes that began to listen. */
  readonly starts: number
  /** Times that a session went from one server process to another. */
  readonly moves: number
}

export interface Address {
  readonly host: string
  readonly port: number
}

/** What became of a request to send: how many lines were accepted, and why not the next. */
export interface Sent {
  readonly accepted: number
  readonly error?: string | undefined
}

export interface Fleet {
  /** A server for a new connection, chosen at random as a load balancer does; undefined while none listens. */
  readonly pick: () => Address | undefined
  /** Asks a server, chosen at random; waits while there is none. One that is killed meanwhile has accepted nothing. */
  readonly send: (request: SendRequest) => Effect.Effect<Sent>
  readonly counts: () => Counts
  /** No more kills. */
  readonly stopKilling: Effect.Effect<void>
  /** Ends all servers in an orderly way. */
  readonly stop: Effect.Effect<void>
  /** Waits for ever, and fails when a server ended though nobody killed it. */
  readonly awaitFailure: Effect.Effect<never, string>
}

const pickStream = 0xffff_fff0
const sendStream = 0xffff_fff1
const killStream = 0xffff_fff2
/** After a pause of this process, at most this much of the missed kills is caught up in a burst. */
const catchUpMillis = 1_000
/** How often a kill takes all servers at once. */
const outageShare = 0.1
/** Processes that wait for their turn. */
const spareServers = 2
/** How long an orderly end may take. */
const stopTimeout = "15 seconds"

const entry = fileURLToPath(new URL("./server.ts", import.meta.url))

/** Starts the servers, and waits until all of them listen. They end with the scope, in whatever way. */
export const make = Effect.fnUntraced(function*(options: Options): Effect.fn.Return<Fleet, string, Scope.Scope> {
  const failed = yield* Deferred.make<never, string>()
  const listening = new Listening(options.servers)
  const owners = new Map<string, Server>()
  const past = { redelivered: 0, handedAgain: 0 }
  const totals = { kills: 0, starts: 0, moves: 0 }
  const alive = new Set<Server>()
  let isStopping = false

  const heard = (server: Server, message: FromServer): void => {
    switch (message.t) {
      case "listening":
        totals.starts++
        return listening.add(server, message)
      case "connected": {
        const before = owners.get(message.session)
        if (before !== undefined && before !== server) totals.moves++
        owners.set(message.session, server)
        return
      }
      case "sent":
        return server.answered(message.id, message)
      case "figures":
        server.figures = message.figures
    }
  }

  /** Processes that have loaded their code, so that a killed server has a successor at once. */
  const spares: Array<Server> = []
  const fork = (): Server => {
    const server = new Server(options.cache, heard)
    alive.add(server)
    server.tell({ t: "load", kind: options.place.kind })
    return server
  }
  const end = (server: Server): Effect.Effect<unknown> =>
    Effect.suspend(() => {
      server.process.kill("SIGKILL")
      alive.delete(server)
      listening.delete(server)
      past.redelivered += server.figures.redelivered
      past.handedAgain += server.figures.handedAgain
      return server.awaitEnd
    })
  yield* Effect.addFinalizer(() => Effect.forEach(spares, end, { concurrency: "unbounded" }))

  /** One server, from its start to its end. */
  const live = Effect.acquireUseRelease(
    Effect.sync(() => {
      const server = spares.shift() ?? fork()
      if (options.killsPerMinute > 0 && totals.starts > 0) { while (spares.length < spareServers) spares.push(fork()) }
      server.tell({ t: "start", place: options.place, keepsCode: totals.starts === 0 })
      return server
    }),
    (server) => server.awaitEnd,
    end
  )

  /** One process after the other. */
  const keepAlive: Effect.Effect<void> = Effect.flatMap(live, ({ how, wasKilled }) => {
    if (isStopping) return Effect.void
    return wasKilled ? keepAlive : Effect.asVoid(Deferred.fail(failed, `a server ended by itself (${how})`))
  })

  const kills = Prng.make(options.seed, killStream)
  let recoveringSince = performance.now()
  /**
   * Kills one server; at times all of them, so that there is none for a while. Waits until all listen, and then up to
   * twice as long as that took: on a machine that is too busy to start servers so often there would never be one.
   */
  const kill = Effect.gen(function*() {
    yield* listening.all
    yield* Effect.sleep(kills.next() * 2 * Math.max(0, listening.allSince - recoveringSince))
    const isOutage = kills.next() < outageShare
    const victim = listening.pick(kills)
    const struck = listening.servers.filter((server) => isOutage || server === victim)
    for (const server of struck) {
      totals.kills++
      listening.delete(server)
      server.kill()
    }
    recoveringSince = performance.now()
    return struck.length
  })
  const killing = Effect.gen(function*() {
    const mean = 60_000 / options.killsPerMinute
    let due = performance.now() + kills.exponential() * mean
    while (true) {
      yield* Effect.sleep(Math.max(0, due - performance.now()))
      const killed = yield* kill
      due = Math.max(due, performance.now() - catchUpMillis) + kills.exponential() * mean * killed
    }
  })

  const awaitFailure = Deferred.await(failed)
  const slots = yield* FiberSet.make<unknown, never>()
  // The first one by itself, so that the others find its compiled code.
  for (const wanted of new Set([1, options.servers])) {
    while ((yield* FiberSet.size(slots)) < wanted) yield* FiberSet.run(slots, keepAlive)
    const isUp = Effect.sync(() => listening.servers.length === wanted)
    const up = Effect.repeat(isUp, { until: (all) => all, schedule: Schedule.spaced("10 millis") })
    yield* Effect.raceFirst(up, awaitFailure)
  }
  const killers = yield* FiberSet.make<void, never>()
  if (options.killsPerMinute > 0) yield* FiberSet.run(killers, killing)

  const picks = Prng.make(options.seed, pickStream)
  const sends = Prng.make(options.seed, sendStream)
  return {
    pick: () => listening.pick(picks)?.address,
    send: (request) => Effect.flatMap(listening.await(sends), (server) => server.send(request)),
    counts: () => {
      let { handedAgain, redelivered } = past
      for (const { figures } of alive) {
        redelivered += figures.redelivered
        handedAgain += figures.handedAgain
      }
      return { ...totals, redelivered, handedAgain }
    },
    stopKilling: FiberSet.clear(killers),
    stop: Effect.suspend(() => {
      isStopping = true
      for (const server of alive) server.tell({ t: "stop" })
      return Effect.andThen(
        FiberSet.clear(killers),
        Effect.timeoutOption(FiberSet.awaitEmpty(slots), stopTimeout)
      )
    }).pipe(Effect.asVoid),
    awaitFailure
  }
})

/** One server process. */
class Server {
  readonly process: ChildProcess
  readonly awaitEnd: Effect.Effect<{ readonly how: string; readonly wasKilled: boolean }>
  address: Address | undefined
  figures: Figures = { redelivered: 0, handedAgain: 0 }
  #wasKilled = false
  #requests = 0
  readonly #pending = new Map<number, (sent: Sent) => void>()

  constructor(cache: string, heard: (server: Server, message: FromServer) => void) {
    this.process = fork(entry, {
      env: { ...process.env, NODE_COMPILE_CACHE: cache, NODE_NO_WARNINGS: "1" },
      stdio: ["ignore", "ignore", "inherit", "ipc"]
    })
    // It is this very program, so what comes is what the type says.
    this.process.on("message", (message) => heard(this, message as FromServer))
    const ended = new Promise<string>((resolve) => {
      this.process.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`))
      this.process.once("error", (error) => resolve(error.message))
    }).then((how) => {
      for (const answer of this.#pending.values()) answer({ accepted: 0, error: how })
      this.#pending.clear()
      return { how, wasKilled: this.#wasKilled }
    })
    this.awaitEnd = Effect.promise(() => ended)
  }

  tell(message: ToServer): void {
    // Told to nobody, if it has ended: that is noticed by its end.
    if (this.process.connected) this.process.send(message, () => {})
  }

  kill(): void {
    this.#wasKilled = true
    this.process.kill("SIGKILL")
  }

  answered(id: number, sent: Sent): void {
    const answer = this.#pending.get(id)
    this.#pending.delete(id)
    answer?.(sent)
  }

  send(request: SendRequest): Effect.Effect<Sent> {
    return Effect.callback((resume) => {
      if (!this.process.connected) return resume(Effect.succeed({ accepted: 0, error: "not there" }))
      const id = this.#requests++
      this.#pending.set(id, (sent) => resume(Effect.succeed(sent)))
      this.tell({ t: "send", id, ...request })
    })
  }
}

/** The servers that listen, `wanted` at most. */
class Listening {
  /** When the last one began to. */
  allSince = 0
  readonly #servers: Array<Server> = []
  readonly #wanted: number
  readonly #some = Latch.makeUnsafe(false)
  readonly #all = Latch.makeUnsafe(false)

  constructor(wanted: number) {
    this.#wanted = wanted
  }

  get servers(): ReadonlyArray<Server> {
    return this.#servers
  }

  /** Waits until all do. */
  get all(): Effect.Effect<void> {
    return this.#all.await
  }

  add(server: Server, { host, port }: Address): void {
    server.address = { host, port }
    this.#servers.push(server)
    this.#some.openUnsafe()
    if (this.#servers.length < this.#wanted) return
    this.allSince = performance.now()
    this.#all.openUnsafe()
  }

  delete(server: Server): void {
    const index = this.#servers.indexOf(server)
    if (index >= 0) this.#servers.splice(index, 1)
    if (this.#servers.length === 0) this.#some.closeUnsafe()
    if (this.#servers.length < this.#wanted) this.#all.closeUnsafe()
  }

  pick(random: Prng.Prng): Server | undefined {
    return this.#servers[random.between(0, this.#servers.length - 1)]
  }

  await(random: Prng.Prng): Effect.Effect<Server> {
    return Effect.flatMap(this.#some.await, () => {
      const server = this.pick(random)
      // It may have gone between the latch's opening and now.
      return server === undefined ? this.await(random) : Effect.succeed(server)
    })
  }
}
