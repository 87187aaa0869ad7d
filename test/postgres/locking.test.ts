/** What transactions of the application and the driver's batches do to each other. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, type Scope } from "effect"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import type { AppendRequest, AppendResult } from "../../src/internal/store/outboxes.ts"
import { describeWithDatabase, newSchema, processOn } from "../support/postgresServer.ts"

const T = 1_800_000_000_000

const message = (session: string, fields: Partial<AppendRequest> = {}): AppendRequest => ({
  session,
  count: 1,
  bytes: 10,
  enqueuedAt: T,
  expiresAt: Infinity,
  body: "[]",
  maxMessages: 1_000_000,
  maxBytes: 1_000_000_000,
  publish: undefined,
  ...fields
})

const open = (driver: StoreDriver, sessions: ReadonlyArray<string>, node = "n") =>
  Effect.forEach(
    sessions,
    (session) => driver.openOutbox({ session, generation: 1, node, newEpoch: `epoch of ${session}` }),
    { discard: true }
  )

const lastOf = (driver: StoreDriver, session: string) =>
  Effect.map(driver.outboxes([session]), ([state]) => state?.last)

describeWithDatabase("transactions and batches in PostgreSQL", (server) => {
  const pair = Effect.gen(function*() {
    const schema = newSchema()
    const one = yield* processOn(server, { schema, timeout: "20 seconds" })
    const other = yield* processOn(server, { schema, timeout: "20 seconds" })
    return { ...one, other: other.driver, otherSql: other.sql, schema }
  })

  /** A transaction that is left open: `begun` when `body` is done, and ended by `commit` or `rollback`. */
  const transaction = <E>(
    { sql }: Effect.Success<typeof pair>,
    body: Effect.Effect<unknown, E>
  ): Effect.Effect<
    { readonly commit: Effect.Effect<void>; readonly rollback: Effect.Effect<void> },
    never,
    Scope.Scope
  > =>
    Effect.gen(function*() {
      const begun = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void, "rolled back">()
      const fiber = yield* Effect.forkScoped(Effect.exit(sql.withTransaction(
        body.pipe(Effect.andThen(Deferred.succeed(begun, undefined)), Effect.andThen(Deferred.await(end)))
      )))
      yield* Effect.raceFirst(Deferred.await(begun), Fiber.await(fiber))
      return {
        commit: Deferred.succeed(end, undefined).pipe(Effect.andThen(Fiber.await(fiber)), Effect.asVoid),
        rollback: Deferred.fail(end, "rolled back").pipe(Effect.andThen(Fiber.await(fiber)), Effect.asVoid)
      }
    })

  /** Waits until somebody waits for a lock in this schema's functions. */
  const untilSomebodyWaits = ({ otherSql }: Effect.Success<typeof pair>) =>
    otherSql`SELECT count(*)::int AS n FROM pg_stat_activity
      WHERE wait_event_type = 'Lock' AND datname = current_database()`.pipe(
      Effect.repeat({ until: ([row]) => row?.n !== 0 })
    )

  it.live("a send in a transaction is there when it commits, and not before", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a"])
      const ended = yield* transaction(world, world.driver.append([message("a")], undefined, "n"))
      assert.strictEqual(yield* lastOf(world.other, "a"), 0)
      yield* ended.commit
      assert.strictEqual(yield* lastOf(world.other, "a"), 1)
    }))

  it.live("a send in a transaction that rolls back never was, and leaves no hole", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a"])
      const ended = yield* transaction(
        world,
        world.driver.append(
          [message("a", {
            publish: { scope: "s", key: "k", fingerprint: undefined, forgottenBefore: 0, maxKeys: 10 }
          })],
          undefined,
          "n"
        )
      )
      yield* ended.rollback
      assert.deepStrictEqual(yield* world.other.append([message("a")], undefined, "n"), [
        { _tag: "Appended", epoch: "epoch of a", first: 1 }
      ])
      assert.isUndefined(yield* world.other.lookupKey({ scope: "s", key: "k" }, 0))
    }))

  it.live("what is done by stamp, and reads, are not part of the caller's transaction", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a", "b"])
      const ended = yield* transaction(
        world,
        Effect.gen(function*() {
          yield* world.driver.append([message("a")], undefined, "n")
          yield* world.driver.append([message("b")], { writer: "n", sequence: 1 }, "n")
          assert.strictEqual(yield* lastOf(world.driver, "a"), 0)
          assert.isTrue(yield* world.driver.transaction?.isOpen ?? Effect.succeed(false))
        })
      )
      assert.strictEqual(yield* lastOf(world.other, "b"), 1)
      yield* ended.rollback
      assert.strictEqual(yield* lastOf(world.other, "a"), 0)
      assert.strictEqual(yield* lastOf(world.other, "b"), 1)
      assert.isFalse(yield* world.driver.transaction?.isOpen ?? Effect.succeed(true))
    }))

  it.live("a position saved in a transaction is saved with its commit", () =>
    Effect.gen(function*() {
      const world = yield* pair
      const row = {
        id: "a",
        principal: undefined,
        tokenHash: "t",
        previousTokenHash: undefined,
        generation: 1,
        instance: "i",
        attempt: 1,
        node: "n",
        detachedAt: undefined,
        wantedBy: undefined,
        ending: false,
        revision: 1
      }
      yield* world.driver.putSession(row)
      const save = (handled: number) =>
        world.driver.savePositions([
          { session: "a", generation: 1, position: `at ${handled}`, epoch: "e", handled, strict: true }
        ])
      yield* (yield* transaction(world, save(5))).rollback
      yield* (yield* transaction(world, save(3))).commit
      assert.deepStrictEqual(yield* save(3), ["Behind"])
      assert.deepStrictEqual(yield* world.other.putSession({ ...row, revision: 2 }), {
        _tag: "Stored",
        position: "at 3"
      })
    }))

  it.live("a session that a transaction has locked does not keep back what is in the same batch", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a", "b", "c"])
      const ended = yield* transaction(world, world.driver.append([message("b")], undefined, "n"))
      const requests = ["a", "b", "missing", "c", "b"].map((session) => message(session))
      const stamp = { writer: "w", sequence: 1 }
      const first = yield* world.other.append(requests, stamp, "n")
      assert.deepStrictEqual(first.map(({ _tag }) => _tag), ["Appended", "Locked", "Missing", "Appended", "Locked"])
      // The others are committed while the transaction goes on.
      assert.strictEqual(yield* lastOf(world.driver, "c"), 1)
      assert.strictEqual(yield* lastOf(world.driver, "a"), 1)
      yield* ended.commit
      // The same again goes on with the rest.
      const results = yield* world.other.append(requests, stamp, "n")
      const appended = (session: string, first: number) => (
        { _tag: "Appended", epoch: `epoch of ${session}`, first } as const
      )
      const expected: ReadonlyArray<AppendResult> = [
        appended("a", 1),
        appended("b", 2),
        { _tag: "Missing" },
        appended("c", 1),
        appended("b", 3)
      ]
      assert.deepStrictEqual(results, expected)
      assert.deepStrictEqual(yield* world.driver.append(requests, { writer: "w", sequence: 1 }, "n"), expected)
      assert.strictEqual(yield* lastOf(world.driver, "b"), 3)
    }))

  it.live("acks of what is free are not kept back either", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a", "b"])
      yield* world.driver.append([message("a"), message("b")], undefined, "n")
      const ended = yield* transaction(world, world.driver.append([message("a")], undefined, "n"))
      const requests = ["a", "b"].map((session) => ({ session, generation: 1, upTo: 1, fates: [] }))
      assert.deepStrictEqual(yield* world.other.ack(requests), [{ _tag: "Locked" }, { _tag: "Acked", released: 1 }])
      yield* ended.commit
      assert.deepStrictEqual(yield* world.other.ack(requests.slice(0, 1)), [{ _tag: "Acked", released: 1 }])
    }))

  it.live("a key that a transaction publishes under is in flight for nobody, but locked", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a", "b", "c"])
      const publish = { scope: "s", key: "k", fingerprint: undefined, forgottenBefore: 0, maxKeys: 10 }
      const ended = yield* transaction(world, world.driver.append([message("a", { publish })], undefined, "n"))
      const batch = world.other.append([message("b", { publish }), message("c")], { writer: "w", sequence: 1 }, "n")
      assert.deepStrictEqual((yield* batch).map(({ _tag }) => _tag), ["Locked", "Appended"])
      yield* ended.commit
      assert.deepStrictEqual(yield* batch, [
        { _tag: "Duplicate", receipt: { messageId: "k", epoch: "epoch of a", offset: 1, atMillis: T } },
        { _tag: "Appended", epoch: "epoch of c", first: 1 }
      ])
    }))

  it.live("a batch never breaks a transaction that locks sessions in another order", () =>
    Effect.gen(function*() {
      const world = yield* pair
      yield* open(world.driver, ["a", "b"])
      const goOn = yield* Deferred.make<void>()
      const ended = yield* Effect.forkScoped(world.sql.withTransaction(Effect.gen(function*() {
        yield* world.driver.append([message("b")], undefined, "n")
        yield* Deferred.await(goOn)
        return yield* world.driver.append([message("a")], undefined, "n")
      })))
      yield* untilIdleInTransaction(world)
      const append = world.other.append([message("a"), message("b")], { writer: "w", sequence: 1 }, "n")
      const batch = yield* Effect.forkScoped(untilFree(append))
      // The batch has "a" and waits for "b", which the transaction has, which wants "a".
      yield* untilSomebodyWaits(world)
      yield* Deferred.succeed(goOn, undefined)
      assert.strictEqual((yield* Fiber.join(ended))[0]?._tag, "Appended")
      assert.deepStrictEqual((yield* Fiber.join(batch)).map(({ _tag }) => _tag), ["Appended", "Appended"])
      assert.strictEqual(yield* lastOf(world.driver, "a"), 2)
      assert.strictEqual(yield* lastOf(world.driver, "b"), 2)
    }))

  /** The same again, as the same stamp and acks allow, until nothing was locked. */
  const untilFree = <A extends { readonly _tag: string }, E>(batch: Effect.Effect<ReadonlyArray<A>, E>) =>
    Effect.repeat(batch, { until: (results) => results.every(({ _tag }) => _tag !== "Locked"), times: 100 })

  const untilIdleInTransaction = ({ otherSql }: Effect.Success<typeof pair>) =>
    otherSql`SELECT count(*)::int AS n FROM pg_stat_activity
      WHERE state = 'idle in transaction' AND datname = current_database()`.pipe(
      Effect.repeat({ until: ([row]) => row?.n !== 0 })
    )

  it.live("two servers that hammer the same sessions lose nothing, leave no hole and never wait for each other in a ring", () =>
    Effect.gen(function*() {
      const world = yield* pair
      const sessions = Array.from({ length: 20 }, (_, at) => `s${at}`)
      yield* open(world.driver, sessions)
      const rounds = 40
      const firsts = new Map(sessions.map((session) => [session, new Array<number>()]))
      /** How many rounds of one writer are in each of them. */
      let stored = 0
      const shuffled = (seed: number) => sessions.toSorted((a, b) => hash(`${a}${seed}`) - hash(`${b}${seed}`))

      const append = (driver: StoreDriver, writer: string) =>
        Effect.forEach(Array.from({ length: rounds }, (_, at) => at + 1), (sequence) =>
          Effect.gen(function*() {
            const batch = shuffled(hash(writer) + sequence)
            const requests = batch.map((session) => message(session, { count: 2, bytes: 7 }))
            const results = yield* untilFree(driver.append(requests, { writer, sequence }, writer))
            if (writer === "w1") stored = sequence
            results.forEach((result, at) => {
              assert.strictEqual(result._tag, "Appended")
              if (result._tag === "Appended") firsts.get(batch[at] ?? "")?.push(result.first)
            })
          }), { discard: true })

      const ack = (driver: StoreDriver, seed: number) =>
        Effect.forEach(
          Array.from({ length: rounds }, (_, at) => at + 1),
          (round) =>
            untilFree(driver.ack(
              shuffled(seed * round).map((session) => ({
                session,
                generation: 1,
                // No more than is there: an ack of more says that the store has lost something.
                upTo: Math.min(round, 2 * stored),
                fates: []
              }))
            )),
          { discard: true }
        )

      yield* Effect.all([
        append(world.driver, "w1"),
        append(world.driver, "w2"),
        append(world.other, "w3"),
        ack(world.driver, 3),
        ack(world.other, 5)
      ], { concurrency: "unbounded" })
      yield* world.driver.ack(sessions.map((session) => ({ session, generation: 1, upTo: rounds, fates: [] })))

      for (const session of sessions) {
        const expected = Array.from({ length: 3 * rounds }, (_, at) => 2 * at + 1)
        assert.deepStrictEqual(firsts.get(session)?.toSorted((a, b) => a - b), expected)
        const page = yield* world.driver.read({ session, after: 0, maxChunks: 1_000, maxBytes: 1_000_000 })
        const left = 6 * rounds - rounds
        assert.strictEqual(page?.state.messages, left)
        assert.strictEqual(page?.state.acked, rounds)
        assert.deepStrictEqual(page?.chunks.map(({ first }) => first), expected.filter((first) => first + 1 > rounds))
        assert.strictEqual(page?.state.bytes, 7 * (page?.chunks.length ?? 0))
      }
      const [stats] = yield* world
        .otherSql`SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()`
      assert.deepStrictEqual(stats, { deadlocks: 0 })
    }))
})

const hash = (text: string): number => [...text].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 65_521, 7)
