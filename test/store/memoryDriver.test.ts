/** The memory driver keeps the laws, so that they can be kept, and that it may stand for a real one. */
import { Effect } from "effect"
import { driverLaws } from "../support/driverLaws.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"

driverLaws(
  "memory",
  Effect.sync(() => {
    const database = makeMemoryDatabase()
    const forget = (session: string) =>
      Effect.sync(() => {
        const outbox = database.outboxes.get(session)
        if (outbox !== undefined) outbox.history = undefined
      })
    return { driver: makeMemoryDriver(database), other: makeMemoryDriver(database), forget }
  }),
  { histories: true }
)
