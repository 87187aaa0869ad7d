/** The driver: `StoreDriver` on Effect's `Redis` service, one server or a cluster. */
import { Duration, Effect } from "effect"
import { type StoreDriver, StoreError } from "../internal/store/driver.ts"
import { makeConnection } from "./connection.ts"
import { makeWarnings } from "./durability.ts"
import { makeNodes } from "./nodes.ts"
import { readFormat } from "./nodeScripts.ts"
import { makeOutboxes } from "./outboxes.ts"
import { makePartitions } from "./partitions.ts"
import { makePublishKeys } from "./publishKeys.ts"
import { number, text } from "./replies.ts"
import { makeSessions } from "./sessions.ts"

export interface RedisDriverOptions {
  /** The prefix of all keys, so that several stores can share a Redis. Without braces. Default: "rws". */
  readonly prefix?: string | undefined
  /**
   * How many hash slots the data is spread over, and so over at most how many masters of a cluster. It can't be changed
   * once there is data. From 1 to 1024. Default: what the data has; for new data 16 on a cluster, and 1 on a single
   * server, where more only cost time (each is a command of its own).
   */
  readonly partitions?: number | undefined
  /** How long a command may go unanswered before it fails. Default: 5 seconds. */
  readonly commandTimeout?: Duration.Input | undefined
}

/** The version of the data's layout: raise it when that changes. */
const version = "1"

/**
 * Makes the driver. Fails if Redis can't be reached, or has data with another number of partitions.
 *
 * **Gotchas** with more than one partition:
 *
 * - A batch is atomic within each partition: a crash in the middle may have done it in some. A retry with the same
 *   stamp does the rest.
 * - The bound on publish keys (`maxKeys`) holds for each partition separately; all keys of a scope are in one
 *   partition.
 * - The scope of an append's publish key must be its session.
 */
export const makeRedisDriver = Effect.fnUntraced(function*(options: RedisDriverOptions = {}) {
  const { commandTimeout = "5 seconds", partitions: wanted, prefix = "rws" } = options
  if (wanted !== undefined && !isSize(wanted)) return yield* refused(`partitions is ${wanted}, not 1 to 1024`)
  if (/[{}]/.test(prefix)) return yield* refused(`the prefix ${JSON.stringify(prefix)} has braces`)

  const connection = yield* makeConnection(Duration.fromInputUnsafe(commandTimeout))
  const format = yield* connection.call({
    operation: "open",
    script: readFormat,
    keys: [makePartitions(prefix, 1).first.format],
    args: [version, wanted === undefined ? "" : number(wanted)],
    decode: text
  })
  const size = Number(format.split(":")[1])
  if (!isSize(size) || format !== `${version}:${wanted ?? size}`) {
    const expected = `${version}:${wanted ?? "1 to 1024"}`
    return yield* refused(
      `the data under ${JSON.stringify(prefix)} has format ${format}, not ${expected} (version:partitions)`
    )
  }

  const partitions = makePartitions(prefix, size)
  const driver: StoreDriver = {
    name: "redis",
    transaction: undefined,
    ...makeOutboxes(connection, partitions),
    ...makeSessions(connection, partitions),
    ...makePublishKeys(connection, partitions),
    ...makeNodes(connection, partitions),
    warnings: yield* makeWarnings(connection, partitions)
  }
  return driver
})

const refused = (why: string) => Effect.fail(new StoreError("open", new Error(why)))

const isSize = (size: number): boolean => Number.isInteger(size) && size >= 1 && size <= 1024
