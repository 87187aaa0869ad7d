/** The memory driver keeps the laws, so that they can be kept, and that it may stand for a real one. */
import { Effect } from "effect"
import { driverLaws } from "../support/driverLaws.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "../support/memoryDriver.ts"

driverLaws(
  "memory",
  Effect.sync(() => {
    const database = makeMemoryDatabase()
    return { driver: makeMemoryDriver(database), other: makeMemoryDriver(database) }
  })
)
