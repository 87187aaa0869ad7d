/**
 * The demo on Redis, which has no transactions over the store's data and a handler's: the handler writes a line unless
 * one with the same message id is there.
 */
import { Effect, Layer, Schema } from "effect"
import { Redis } from "effect/persistence"
import { RedisClient, RedisStore } from "../../../src/redis/index.ts"
import type { Place } from "../Ipc.ts"
import { Ledger } from "../Ledger.ts"
import { sharing, store } from "../Lines.ts"

const pageSize = 10_000

/** Returns 1 if the entry was written, 0 if there was one with this id. */
const write = Redis.script(
  (list: string, ids: string, id: string, entry: string) => [list, ids, id, entry],
  {
    numberOfKeys: 2,
    lua: `
      if redis.call("HSETNX", KEYS[2], ARGV[1], "") == 0 then return 0 end
      redis.call("RPUSH", KEYS[1], ARGV[2])
      return 1
    `
  }
).withReturnType<number>()

const Entries = Schema.Array(
  Schema.fromJsonString(Schema.Struct({ session: Schema.String, i: Schema.Int, text: Schema.String }))
)
const readEntries = Schema.decodeUnknownEffect(Entries)

const ledgerOf = ({ namespace }: Place): Effect.Effect<Ledger["Service"], never, Redis.Redis> =>
  Effect.map(Redis.Redis, (redis) => {
    const list = `{${namespace}}:handled`
    const ids = `{${namespace}}:ids`
    const writeOnce = redis.eval(write)
    return {
      write: (entry, messageId) =>
        Effect.map(
          writeOnce(list, ids, `${entry.session} ${messageId}`, JSON.stringify(entry)),
          (written) => written === 1
        ),
      size: Effect.map(redis.send("LLEN", list), Number),
      read: Effect.fnUntraced(function*(use) {
        for (let from = 0;; from += pageSize) {
          const page = yield* Effect.flatMap(
            redis.send("LRANGE", list, String(from), String(from + pageSize - 1)),
            readEntries
          )
          page.forEach(use)
          if (page.length < pageSize) return
        }
      })
    }
  })

/** For a server. */
export const forServer = (place: Place) =>
  Layer.provideMerge(
    Layer.effect(Ledger, ledgerOf(place)),
    RedisStore.layer({ ...store, ...sharing, url: place.location, prefix: place.namespace })
  )

/** For the demo itself; its end removes everything of the run. */
export const forDemo = (place: Place) =>
  Layer.effect(
    Ledger,
    Effect.gen(function*() {
      const redis = yield* Redis.Redis
      yield* Effect.addFinalizer(() => Effect.ignore(removeAll(redis, place.namespace)))
      return yield* ledgerOf(place)
    })
  ).pipe(Layer.provide(RedisClient.layer({ url: place.location })))

const Scanned = Schema.Tuple([Schema.String, Schema.Array(Schema.String)])
const readScanned = Schema.decodeUnknownEffect(Scanned)

const removeAll = Effect.fnUntraced(function*(redis: Redis.Redis["Service"], namespace: string) {
  let cursor = "0"
  do {
    const scanned = redis.send("SCAN", cursor, "MATCH", `*${namespace}*`, "COUNT", "1000")
    const [next, keys] = yield* Effect.flatMap(scanned, readScanned)
    if (keys.length > 0) yield* redis.send("UNLINK", ...keys)
    cursor = next
  } while (cursor !== "0")
})
