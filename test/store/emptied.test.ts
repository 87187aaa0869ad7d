/**
 * A store that is emptied, or loses a session, while clients are connected: absence is not an end. All of them go on, and
 * nothing is said to be handled that was not; who was ended on purpose stays so.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, type Scope } from "effect"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { PostgresStore } from "resilient-websocket/postgres"
import { RedisStore } from "resilient-websocket/redis"
import { SqliteStore } from "resilient-websocket/sqlite"
import * as H from "../support/harness.ts"
import { connectTo, postgres, startPostgres } from "../support/postgresServer.ts"
import { redis, startRedis } from "../support/redisServer.ts"
import { describeWithService } from "../support/services.ts"
import { temporaryDirectory } from "../support/temporary.ts"

interface Database {
  /** The layers of a server's store on it. */
  readonly store: Layer.Layer<H.StoreServices, unknown>
  readonly empty: Effect.Effect<void, unknown>
  /** Removes all that it has of a session. */
  readonly lose: (session: string) => Effect.Effect<void, unknown>
}

const sqliteFile: Effect.Effect<Database, unknown, Scope.Scope> = Effect.gen(function*() {
  const filename = join(yield* temporaryDirectory, "store.db")
  const run = (sql: ReadonlyArray<string>) =>
    Effect.sync(() => {
      const file = new DatabaseSync(filename)
      file.exec(`PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE; ${sql.join("; ")}; COMMIT`)
      file.close()
    })
  const tables = ["outbox", "chunk", "gap", "fate", "writer", "session", "key", "node", "nudge", "ended"]
  return {
    store: SqliteStore.layer({ filename }),
    empty: run(tables.map((table) => `DELETE FROM rws_${table}`)),
    lose: (session) =>
      run([`DELETE FROM rws_outbox WHERE session = '${session}'`, `DELETE FROM rws_session WHERE id = '${session}'`])
  }
})

const redisServer: Effect.Effect<Database, unknown, Scope.Scope> = Effect.gen(function*() {
  const { command, url } = yield* startRedis()
  return {
    store: RedisStore.layer({ url }),
    empty: Effect.andThen(command("FLUSHALL"), command("SCRIPT", "FLUSH")),
    lose: (session) =>
      Effect.gen(function*() {
        const keys = (yield* command("KEYS", `*:${session}`)).split("\r\n").filter((line) => line.startsWith("{"))
        yield* Effect.forEach(keys, (key) => command("DEL", key))
      })
  }
})

const postgresServer: Effect.Effect<Database, unknown, Scope.Scope> = Effect.gen(function*() {
  const server = yield* startPostgres()
  const sql = yield* connectTo(server)
  const { database, host, port, username } = server
  return {
    store: PostgresStore.layer({ host, port, username, database }),
    empty: Effect.gen(function*() {
      const tables = yield* sql<{ name: string }>`SELECT tablename AS name FROM pg_tables
        WHERE schemaname = 'resilient_websocket' AND tablename NOT IN ('migrations', 'key_counts')`
      yield* sql.unsafe(`TRUNCATE ${tables.map(({ name }) => `resilient_websocket.${name}`).join(", ")}`)
    }),
    lose: (session) =>
      Effect.andThen(
        sql`DELETE FROM resilient_websocket.outboxes WHERE session = ${session}`,
        sql`DELETE FROM resilient_websocket.sessions WHERE id = ${session}`
      )
  }
})

const names = H.numbered(20, "client-")

/** Two servers, and clients of the first that hear from both. */
const scene = Effect.fnUntraced(function*(database: Database) {
  const makeStore = Layer.build(Layer.fresh(Layer.orDie(database.store)))
  const atServer: Array<string> = []
  const options: H.ServerOptions = {
    authenticate: H.byToken,
    onMessage: (message) => Effect.sync(() => atServer.push(message))
  }
  const first = yield* H.nodeServer(options, { store: yield* makeStore })
  const second = yield* H.nodeServer(options, { store: yield* makeStore })
  const clients = yield* Effect.forEach(names, (name) =>
    Effect.gen(function*() {
      const got: Array<string> = []
      const client = yield* H.nodeClient({
        url: first.url,
        token: name,
        reconnect: { base: 20, cap: 200 },
        onMessage: (message) => Effect.sync(() => got.push(message))
      })
      yield* client.awaitConnected()
      return { name, client, got }
    }), { concurrency: 4 })
  /** A message each way for each client, and one from the other server: all of them handled. */
  const talk = (text: string) =>
    Effect.forEach(clients, ({ client, name }) =>
      Effect.gen(function*() {
        yield* (yield* client.send(`${name} ${text}`)).handled ?? Effect.die("skipped")
        yield* (yield* first.server.send(name, `${text} here`)).handled ?? Effect.die("skipped")
        // It is unknown to all until its server has noticed.
        const receipt = yield* Effect.eventually(second.server.send(name, `${text} elsewhere`))
        yield* receipt.handled ?? Effect.die("skipped")
      }), { concurrency: "unbounded", discard: true })
  const allAreServed = (texts: ReadonlyArray<string>) => {
    assert.sameMembers(atServer, names.flatMap((name) => texts.map((text) => `${name} ${text}`)))
    for (const { got } of clients) {
      assert.deepStrictEqual(got, texts.flatMap((text) => [`${text} here`, `${text} elsewhere`]))
    }
  }
  return { first: first.server, second: second.server, clients, talk, allAreServed }
})

const cases = (make: Effect.Effect<Database, unknown, Scope.Scope>) => {
  it.live(
    "all clients go on when it is emptied, busy or idle, and nothing is handled twice",
    () =>
      Effect.gen(function*() {
        const database = yield* make
        const { allAreServed, clients, second, talk } = yield* scene(database)
        yield* talk("before")
        yield* database.empty
        yield* talk("after")
        allAreServed(["before", "after"])
        // Once more, and nobody says anything: the servers notice by themselves.
        yield* database.empty
        yield* H.until("all are there again", () =>
          Effect.map(
            Effect.forEach(names, (name) => Effect.exit(second.sessionStats(name))),
            (found) => found.every(({ _tag }) => _tag === "Success")
          ))
        yield* talk("at last")
        allAreServed(["before", "after", "at last"])
        for (const { client } of clients) assert.strictEqual((yield* client.state)._tag, "Connected")
      }),
    120_000
  )

  it.live("a client goes on whose session it has lost, and one that was ended does not", () =>
    Effect.gen(function*() {
      const database = yield* make
      const { allAreServed, clients, first, second, talk } = yield* scene(database)
      yield* talk("before")
      for (const name of names.slice(0, 5)) yield* database.lose(name)
      yield* talk("after")
      allAreServed(["before", "after"])
      // What it has lost can be ended all the same, at whichever server.
      for (const server of [first, second]) {
        const { client, name } = clients.pop() ?? assert.fail("no client is left")
        yield* database.lose(name)
        yield* Effect.ignore(server.endSession(name))
        yield* H.until("it is told", () => Effect.map(client.state, ({ _tag }) => _tag === "Stopped"))
        assert.strictEqual(yield* H.tagOf(second.send(name, "gone")), "resilient-websocket/SessionNotFoundError")
      }
      const [ended = assert.fail(), ...others] = clients
      yield* second.endSession(ended.name)
      yield* H.until("it is told", () => Effect.map(ended.client.state, ({ _tag }) => _tag === "Stopped"))
      // Neither an empty store nor one that is looked through brings it back.
      yield* database.lose("nobody")
      yield* (yield* first.send(others[0]?.name ?? "", "still here")).handled ?? Effect.die("skipped")
      assert.strictEqual(yield* H.tagOf(first.send(ended.name, "gone")), "resilient-websocket/SessionNotFoundError")
      assert.strictEqual(yield* H.tagOf(second.send(ended.name, "gone")), "resilient-websocket/SessionNotFoundError")
      for (const { client } of others) assert.strictEqual((yield* client.state)._tag, "Connected")
    }), 120_000)
}

describe("SQLite that is emptied", () => cases(sqliteFile))

describeWithService(redis, "Redis that is emptied", () => cases(redisServer))

describeWithService(postgres, "PostgreSQL that is emptied", () => cases(postgresServer))
