/**
 * A store for one run of the demo: a file, or a PostgreSQL or Redis of its own, on a free port, in a temporary directory
 * that is removed with the scope. {@link keeper.ts} removes it also when this process is killed.
 */
import { Effect, type Scope } from "effect"
import { type ChildProcess, execFile, fork } from "node:child_process"
import { once } from "node:events"
import { chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync } from "node:fs"
import { appendFile } from "node:fs/promises"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import type { DurableKind } from "./Ipc.ts"
import type { Answer, Order, Program } from "./keeper.ts"

export interface StoreServer {
  /** Path of the file, or URL. */
  readonly location: string
  /** In words. */
  readonly name: string
}

/** Starts the store. Fails with a sentence. */
export const start = (kind: DurableKind): Effect.Effect<StoreServer, string, Scope.Scope> => {
  switch (kind) {
    case "sqlite":
      return startSqlite
    case "postgres":
      return startPostgres
    case "redis":
      return startRedis
  }
}

/** A directory that is removed with the scope, and also when this process is killed. */
export const temporaryDirectory: Effect.Effect<string, never, Scope.Scope> = Effect.suspend(() =>
  Effect.map(keep, ({ directory }) => directory)
)

const startSqlite = Effect.map(temporaryDirectory, (directory): StoreServer => ({
  location: join(directory, "demo.db"),
  name: "SQLite, in a file of its own"
}))

const startRedis = Effect.gen(function*() {
  const programs = findPrograms("redis-server", pathOf())
  if (programs === undefined) return yield* notFound("redis", "redis-server")
  const { directory, run } = yield* keep
  const port = yield* freePort
  yield* run({
    command: join(programs, "redis-server"),
    args: [
      ...`--port ${port} --bind 127.0.0.1 --appendonly yes --appendfsync everysec`.split(" "),
      "--dir",
      directory,
      "--save",
      ""
    ]
  })
  return { location: `redis://127.0.0.1:${port}`, name: "a Redis of its own, appendfsync everysec" }
})

const startPostgres = Effect.gen(function*() {
  const found = findPrograms("initdb", [...pathOf(), ...debianPlaces()])
  if (found === undefined) return yield* notFound("postgres", "postgresql")
  // Through a link, they would not find the files that belong to them.
  const programs = dirname(realpathSync(join(found, "initdb")))
  const { directory, run } = yield* keep
  // PostgreSQL refuses to run as root: then it runs as somebody who can do less.
  const owner = process.getuid?.() === 0 ? findUser("postgres") ?? findUser("nobody") : undefined
  if (owner !== undefined) chownSync(directory, owner.uid, owner.gid)
  const port = yield* freePort
  const data = join(directory, "data")
  yield* Effect.tryPromise({
    try: async () => {
      const flags = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
      await promisify(execFile)(join(programs, "initdb"), flags, { ...owner, cwd: directory })
      const settings = [
        "listen_addresses = '127.0.0.1'",
        `port = ${port}`,
        `unix_socket_directories = '${directory}'`,
        // Servers are killed here, not the machine: as with the others, commits need not wait for the disk.
        "synchronous_commit = off"
      ]
      await appendFile(join(data, "postgresql.conf"), `\n${settings.join("\n")}\n`)
    },
    catch: (cause) => `PostgreSQL could not be set up: ${String(cause)}`
  })
  yield* run({ command: join(programs, "postgres"), args: ["-D", data], ...owner })
  return {
    location: `postgres://postgres@127.0.0.1:${port}/postgres`,
    name: "a PostgreSQL of its own, synchronous_commit off"
  }
})

const notFound = (kind: DurableKind, packageName: string) =>
  Effect.fail(
    `--store ${kind}: none was found in PATH. Install it (apt-get install ${packageName}), or say where one is: --store-url`
  )

interface Kept {
  readonly directory: string
  /** Starts a program in it, and waits until it is ready. Fails with a sentence. */
  readonly run: (program: Program) => Effect.Effect<void, string>
}

/** A temporary directory, with what runs in it. */
const keep: Effect.Effect<Kept, never, Scope.Scope> = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => {
      const directory = mkdtempSync(join(tmpdir(), "resilient-websocket-demo-"))
      const keeper = fork(fileURLToPath(new URL("./keeper.ts", import.meta.url)), {
        env: { ...process.env, NODE_NO_WARNINGS: "1" },
        stdio: ["ignore", "ignore", "inherit", "ipc"]
      })
      tell(keeper, { t: "keep", directory })
      return { directory, keeper }
    }),
    ({ keeper }) =>
      Effect.promise(async () => {
        if (keeper.exitCode !== null || keeper.signalCode !== null) return
        const gone = once(keeper, "exit")
        tell(keeper, { t: "end" })
        await gone
      })
  ),
  ({ directory, keeper }) => ({
    directory,
    run: (program) =>
      Effect.callback((resume) => {
        // It is keeper.ts, so what comes is what the type says.
        keeper.once("message", (message) => {
          const answer = message as Answer
          resume(answer.t === "ready" ? Effect.void : Effect.fail(`${program.command} ended:\n${answer.log}`))
        })
        tell(keeper, { t: "run", program })
      })
  })
)

const tell = (keeper: ChildProcess, order: Order): void => void keeper.send(order, () => {})

const pathOf = (): ReadonlyArray<string> => (process.env["PATH"] ?? "").split(delimiter)

/** Where Debian keeps PostgreSQL, the newest first. */
const debianPlaces = (): ReadonlyArray<string> => {
  const base = "/usr/lib/postgresql"
  const versions = existsSync(base) ? readdirSync(base).sort((a, b) => Number(b) - Number(a)) : []
  return versions.map((version) => join(base, version, "bin"))
}

const findPrograms = (name: string, places: ReadonlyArray<string>): string | undefined =>
  places.find((place) => place !== "" && existsSync(join(place, name)))

const findUser = (name: string): { readonly uid: number; readonly gid: number } | undefined => {
  const entry = readFileSync("/etc/passwd", "utf8").split("\n").find((line) => line.startsWith(`${name}:`))
  if (entry === undefined) return undefined
  const [, , uid, gid] = entry.split(":")
  return { uid: Number(uid), gid: Number(gid) }
}

const freePort = Effect.promise(async () => {
  const probe = createServer().listen(0, "127.0.0.1")
  await once(probe, "listening")
  const address = probe.address()
  probe.close()
  await once(probe, "close")
  // `address()` is a string only for a pipe, and null only for a closed server.
  return address === null || typeof address === "string" ? 0 : address.port
})
