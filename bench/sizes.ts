/**
 * What sessions and messages take in a store: `node bench/sizes.ts sqlite 20000` (or postgres, redis, and how many
 * sessions). Each session has been there, with a position; then five messages of 128 bytes come for each, one by one,
 * and 32 more at once. The figures are in docs/stores.md. Beside W9b, which also measures what a message then costs.
 */
import { Effect } from "effect"
import { MessageQueue, SessionRegistry } from "../src/index.ts"
import { endAll } from "./harness/endings.ts"
import * as Stores from "./peers/stores.ts"

const kinds = { sqlite: Stores.sqlite, postgres: Stores.postgres, redis: Stores.redis }
const kind = Object.keys(kinds).find((kind): kind is keyof typeof kinds => kind === process.argv[2])
const count = Number(process.argv[3] ?? 20_000)
if (kind === undefined || !(count > 0)) throw new Error("node bench/sizes.ts sqlite|postgres|redis [sessions]")

const nameOf = (index: number): string => `session-${index}-0123456789abcdef`
const sessions = Array.from({ length: count }, (_, index) => nameOf(index))
const payload = JSON.stringify({ kind: "quote", text: "x".repeat(102) })
const message = { payload, bytes: payload.length }

const visit = Effect.fnUntraced(function*(session: string) {
  const registry = yield* SessionRegistry.SessionRegistry
  const queue = yield* MessageQueue.MessageQueue
  const { generation } = yield* registry.attach({
    session,
    principal: session,
    authorized: true,
    tokenHash: undefined,
    nextTokenHash: "0123456789abcdef0123456789abcdef0123456789ab",
    instance: "0123456789abcdef0123456789abcdef",
    attempt: 1
  })
  yield* queue.open(session, generation)
  yield* registry.savePosition(session, generation, {
    epoch: "0123456789abcdef0123",
    received: 17,
    handled: 17,
    failed: [],
    pending: { messages: 0, bytes: 0 }
  })
  yield* registry.detach(session, generation)
  yield* registry.release(session, generation)
})

const append = Effect.fnUntraced(function*(session: string, messages: number) {
  const queue = yield* MessageQueue.MessageQueue
  yield* queue.append(session, Array.from({ length: messages }, () => message))
})

const store = await kinds[kind]({
  queue: { maxTotalMessages: 1e9, maxTotalBytes: 1e12 },
  registry: { maxSessions: 2 * count }
})

const forAll = <E, R>(effect: (session: string) => Effect.Effect<void, E, R>) =>
  Effect.forEach(sessions, effect, { concurrency: 64, discard: true })

/** What something takes in the store, in bytes. */
const taken = Effect.fnUntraced(function*<E, R>(effect: Effect.Effect<void, E, R>) {
  const before = yield* Effect.promise(store.bytes)
  yield* effect
  return (yield* Effect.promise(store.bytes)) - before
})

const main = Effect.gen(function*() {
  const ofSessions = yield* taken(forAll(visit))
  const ofSingle = yield* taken(Effect.repeat(forAll((session) => append(session, 1)), { times: 4 }))
  const ofMany = yield* taken(forAll((session) => append(session, 32)))
  console.log({
    store: kind,
    payloadBytes: payload.length,
    bytesASession: Math.round(ofSessions / count),
    bytesAMessageOneByOne: Math.round(ofSingle / count / 5),
    bytesAMessage32AtOnce: Math.round(ofMany / count / 32)
  })
})

await Effect.runPromise(Effect.provide(main, store.layer)).finally(endAll)
process.exit(0)
