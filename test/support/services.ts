/**
 * Tests that need a program of their own (PostgreSQL, Redis) beside Node: they are skipped, loudly, where it is not
 * installed, and fail instead when `REQUIRE_SERVICES=1` (as in CI), so that a run without it can't pass for one with it.
 */
import { describe, it } from "@effect/vitest"

/** A program that tests start. */
export interface Service {
  readonly name: string
  /** Whether it can be started here. */
  readonly found: boolean
  /** How to get it: commands. */
  readonly install: string
}

/** Like `describe`, if the service can be started here. */
export const describeWithService = (service: Service, title: string, tests: () => void): void => {
  if (service.found) return void describe(title, tests)
  const missing = `${service.name} was not found here. To have it: ${service.install}`
  if (process.env.REQUIRE_SERVICES === "1") {
    return void describe(title, () => {
      it(`needs ${service.name}`, () => {
        throw new Error(`${missing} (REQUIRE_SERVICES=1)`)
      })
    })
  }
  console.warn(`\n*** SKIPPED: ${title}. ${missing}\n`)
  describe.skip(title, tests)
}
