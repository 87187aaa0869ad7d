/**
 * Redis servers of the tests' own: on free loopback ports, in a temporary directory, stopped and removed with their
 * scope. One can be restarted, killed and frozen; three make a real cluster.
 */
import { afterAll, beforeAll } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as wait } from "node:timers/promises"
import { freePort } from "./freePort.ts"
import { describeWithService, type Service } from "./services.ts"
import { shared } from "./sharedByRun.ts"

export interface RedisOptions {
  /** `appendfsync` of an append-only file; "none" keeps nothing on disk, which is the default. */
  readonly appendfsync?: "always" | "everysec" | "none"
  /** Further arguments: `["--maxmemory", "8mb"]`. */
  readonly config?: ReadonlyArray<string>
}

/** Keys of the tests' own on a server that others use too. */
export interface RedisKeys {
  readonly url: string
  /** A prefix of keys that no other test has. */
  readonly newPrefix: () => string
  /** Sends a command and gives its reply as it stands on the wire. */
  readonly command: (...args: ReadonlyArray<string>) => Effect.Effect<string>
}

/** A server that runs, without a password. */
export interface RedisServer extends Omit<RedisKeys, "newPrefix"> {
  readonly port: number
  /** Stops it in an orderly way, and waits until it is gone. */
  readonly stop: Effect.Effect<void>
  /** kill -9, and waits until it is gone. */
  readonly kill: Effect.Effect<void>
  /** Starts it again on the same port, with what its files have. */
  readonly start: Effect.Effect<void>
  /** It answers nothing, and keeps its connections, until `thaw`. */
  readonly freeze: Effect.Effect<void>
  readonly thaw: Effect.Effect<void>
}

/** Redis, for `describeWithService`. */
export const redis: Service = { name: "Redis", found: isInstalled(), install: "apt-get install redis-server" }

/** Starts a server. */
export const startRedis = (options: RedisOptions = {}): Effect.Effect<RedisServer, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(() => Server.make(options)),
      (server) => Effect.promise(() => server.remove())
    ),
    faceOf
  )

/** Starts three masters that share the slots of a cluster, and a replica of each if asked for (after the masters). */
export const startRedisCluster = (
  options: RedisOptions & { readonly replicas?: boolean } = {}
): Effect.Effect<ReadonlyArray<RedisServer>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const start = Effect.acquireRelease(
      Effect.promise(() => Server.make({ ...options, clusterPort: "free" })),
      (server) => Effect.promise(() => server.remove())
    )
    const masters = yield* Effect.all([start, start, start], { concurrency: "unbounded" })
    const replicas = options.replicas === true
      ? yield* Effect.all([start, start, start], { concurrency: "unbounded" })
      : []
    yield* Effect.promise(() => formCluster(masters, replicas))
    return [...masters, ...replicas].map(faceOf)
  })

/** Like `describe`, with something that all tests in it share, made before the first. */
const describeWithShared = <A>(
  title: string,
  make: Effect.Effect<A, never, Scope.Scope>,
  tests: (shared: Effect.Effect<A>) => void
): void =>
  describeWithService(redis, title, () => {
    const scope = Scope.makeUnsafe()
    let made: { readonly value: A } | undefined
    beforeAll(() =>
      Effect.runPromise(Scope.provide(make, scope)).then((value) => {
        made = { value }
      })
    )
    afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))
    tests(Effect.suspend(() => made === undefined ? Effect.die("Redis has not started") : Effect.succeed(made.value)))
  })

/** Like `describe`, with keys of its own on the one server of the run, which keeps nothing on disk. */
export const describeWithRedisKeys = (title: string, tests: (keys: Effect.Effect<RedisKeys>) => void): void =>
  describeWithShared(title, makeKeys, tests)

const makeKeys: Effect.Effect<RedisKeys> = Effect.promise(async () => {
  const [{ port, url }, number] = await Promise.all([shared("redis"), shared("number")])
  let prefixes = 0
  return {
    url,
    newPrefix: () => `test${number}-${++prefixes}`,
    command: (...args) => Effect.promise(() => commandOf(port, args))
  }
})

/** Like `describe`, with a server that all tests in it share and may stop. */
export const describeWithRedis = (
  title: string,
  options: RedisOptions,
  tests: (server: Effect.Effect<RedisServer>) => void
): void => describeWithShared(title, startRedis(options), tests)

/** Like `describe`, with a cluster that all tests in it share. */
export const describeWithRedisCluster = (
  title: string,
  options: RedisOptions,
  tests: (servers: Effect.Effect<ReadonlyArray<RedisServer>>) => void
): void =>
  describeWithShared(
    title,
    Effect.tap(startRedisCluster(options), (servers) =>
      // None takes another one for gone that is only slow.
      Effect.forEach(servers, ({ command }) => command("CONFIG", "SET", "cluster-node-timeout", "600000"))),
    tests
  )

const faceOf = (server: Server): RedisServer => ({
  port: server.port,
  url: `redis://127.0.0.1:${server.port}`,
  command: (...args) => Effect.promise(() => server.command(args)),
  stop: Effect.promise(() => server.end("SIGTERM")),
  kill: Effect.promise(() => server.end("SIGKILL")),
  start: Effect.promise(() => server.launch()),
  freeze: Effect.sync(() => server.signal("SIGSTOP")),
  thaw: Effect.sync(() => server.signal("SIGCONT"))
})

interface ServerOptions extends RedisOptions {
  readonly clusterPort?: "free"
}

const maxPortTries = 5

class Server {
  readonly port: number
  /** Of the cluster's bus; 0 without. */
  readonly clusterPort: number
  readonly #directory: string
  readonly #arguments: ReadonlyArray<string>
  #process: ChildProcess | undefined

  static async make(options: ServerOptions): Promise<Server> {
    for (let attempt = 1;; attempt++) {
      const ports = [await freePort(), options.clusterPort === undefined ? 0 : await freePort()] as const
      const server = new Server(ports, mkdtempSync(join(tmpdir(), "rws-redis-")), options)
      try {
        await server.launch()
        return server
      } catch (error) {
        await server.remove()
        // Somebody was quicker to take a port that was free when it was chosen.
        if (attempt === maxPortTries || !String(error).includes("Address already in use")) throw error
      }
    }
  }

  constructor(
    [port, clusterPort]: readonly [number, number],
    directory: string,
    { appendfsync = "none", config = [] }: RedisOptions
  ) {
    this.port = port
    this.clusterPort = clusterPort
    this.#directory = directory
    const appendOnly = appendfsync === "none" ? ["no"] : ["yes", "--appendfsync", appendfsync]
    const cluster = [
      "--cluster-enabled",
      "yes",
      "--cluster-port",
      String(clusterPort),
      "--cluster-node-timeout",
      "1000"
    ]
    this.#arguments = [
      ["--port", String(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""],
      ["--daemonize", "no", "--logfile", join(directory, "log"), "--appendonly", ...appendOnly],
      ["--repl-diskless-sync-delay", "0"],
      clusterPort === 0 ? [] : cluster,
      config
    ].flat()
  }

  async launch(): Promise<void> {
    const process_ = spawn("redis-server", this.#arguments, { stdio: "ignore" })
    this.#process = process_
    for (let attempt = 0; attempt < 20_000; attempt++) {
      if (process_.exitCode !== null) break
      if (await this.command(["PING"]).catch(() => "") === "+PONG") return
      await wait(10)
    }
    throw new Error(`redis-server did not start:\n${readFileSync(join(this.#directory, "log"), "utf8")}`)
  }

  signal(signal: NodeJS.Signals): void {
    this.#process?.kill(signal)
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const process_ = this.#process
    this.#process = undefined
    if (process_ === undefined || process_.exitCode !== null || process_.signalCode !== null) return
    const gone = once(process_, "exit")
    process_.kill(signal)
    process_.kill("SIGCONT")
    await gone
  }

  async remove(): Promise<void> {
    await this.end("SIGKILL")
    rmSync(this.#directory, { recursive: true, force: true, maxRetries: 5 })
  }

  command(args: ReadonlyArray<string>): Promise<string> {
    return commandOf(this.port, args)
  }
}

/** The reply to one command on a connection of its own, without the last line break. */
const commandOf = (port: number, args: ReadonlyArray<string>): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1")
    let reply = ""
    socket.setEncoding("utf8")
    socket.on("data", (data) => {
      reply += String(data)
    })
    socket.on("error", reject)
    socket.on("close", () => resolve(reply.trimEnd()))
    const words = args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`)
    // Redis answers what it has read before it closes as well.
    socket.end(`*${args.length}\r\n${words.join("")}`)
  })

const formCluster = async (masters: ReadonlyArray<Server>, replicas: ReadonlyArray<Server>): Promise<void> => {
  const all = [...masters, ...replicas]
  const [first] = masters
  if (first === undefined) return
  const slots = 16384
  for (const [i, server] of masters.entries()) {
    const from = Math.ceil(slots * i / masters.length)
    const to = Math.ceil(slots * (i + 1) / masters.length) - 1
    await server.command(["CLUSTER", "ADDSLOTSRANGE", String(from), String(to)])
  }
  for (const [i, server] of all.entries()) {
    await server.command(["CLUSTER", "SET-CONFIG-EPOCH", String(i + 1)])
    await server.command(["CLUSTER", "MEET", "127.0.0.1", String(first.port), String(first.clusterPort)])
  }
  const knows = (...states: ReadonlyArray<string>) => (info: string) => states.every((state) => info.includes(state))
  for (const server of all) {
    await answers(server, ["CLUSTER", "INFO"], knows("cluster_state:ok", `cluster_known_nodes:${all.length}`))
  }
  for (const [i, replica] of replicas.entries()) {
    const master = (await masters[i]?.command(["CLUSTER", "MYID"]) ?? "").split("\r\n").at(-1) ?? ""
    await replica.command(["CLUSTER", "REPLICATE", master])
  }
  // A replica's own link is up before its master sends it anything.
  for (const master of masters.slice(0, replicas.length)) {
    await answers(master, ["INFO", "replication"], knows("state=online"))
  }
}

/** Asks until the answer is right. */
const answers = async (
  server: Server,
  command: ReadonlyArray<string>,
  isRight: (answer: string) => boolean
): Promise<void> => {
  let answer = ""
  for (let attempt = 0; attempt < 10_000; attempt++) {
    answer = await server.command(command)
    if (isRight(answer)) return
    await wait(20)
  }
  throw new Error(`Redis still answers ${command.join(" ")} with:\n${answer}`)
}

function isInstalled(): boolean {
  try {
    execFileSync("redis-server", ["--version"], { stdio: "ignore" })
    return true
  } catch {
    return false
  }
}
