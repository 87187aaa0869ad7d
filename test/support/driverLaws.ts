/**
 * What a `StoreDriver` must do, as tests: each rule in the comments of driver.ts, and random operations that must come
 * to the same as in memory. `memoryDriver.ts` says what is meant where driver.ts leaves a choice.
 */
import { describe } from "@effect/vitest"
import { appendLaws, openingLaws, stampLaws } from "./driverLaws/appending.ts"
import { giveUpLaws } from "./driverLaws/givingUp.ts"
import { historyLaws } from "./driverLaws/histories.ts"
import { keyLaws } from "./driverLaws/keys.ts"
import { lawOf, type MakePair } from "./driverLaws/kit.ts"
import { likeMemory } from "./driverLaws/likeMemory.ts"
import { publishLaws } from "./driverLaws/publishing.ts"
import { ackLaws, ownerLaws, readLaws, removalLaws } from "./driverLaws/reading.ts"
import { nodeLaws, positionLaws, sessionLaws } from "./driverLaws/sessions.ts"
import { valueLaws } from "./driverLaws/values.ts"

export type { MakePair } from "./driverLaws/kit.ts"

/**
 * Registers the laws for a driver. `make` is run for each test, and each run of the property: two drivers, as of two
 * processes, on a database that is fresh and empty.
 */
export const driverLaws = (
  name: string,
  make: MakePair,
  options?: {
    /** How many random histories are compared with the memory driver. Default 30. */
    readonly runs?: number | undefined
    /** Whether its pairs can `forget`. */
    readonly histories?: boolean | undefined
  }
): void => {
  const law = lawOf(make)
  describe(`${name} driver`, () => {
    describe("opening", () => openingLaws(law))
    describe("append", () => appendLaws(law))
    describe("stamps", () => stampLaws(law))
    describe("publish keys in append", () => publishLaws(law))
    describe("read", () => readLaws(law))
    describe("ack", () => ackLaws(law))
    describe("giving up", () => giveUpLaws(law))
    describe("the owner", () => ownerLaws(law))
    if (options?.histories === true) describe("histories", () => historyLaws(law))
    describe("removal and totals", () => removalLaws(law))
    describe("sessions", () => sessionLaws(law))
    describe("positions", () => positionLaws(law))
    describe("nodes and nudges", () => nodeLaws(law))
    describe("publish keys", () => keyLaws(law))
    describe("values", () => valueLaws(law))
    describe("random histories", () => likeMemory(make, options?.runs ?? 30))
  })
}
