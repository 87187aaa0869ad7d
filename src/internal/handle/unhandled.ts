/** Defaults for what the user has not said: retries of handlers, and what happens on a gap. */
import { Effect, Schedule } from "effect"
import type { MessageGap } from "../../Message.ts"
import type { HandlerRetry } from "../../ResilientServer.ts"
import { fullJitter } from "../kit/backoff.ts"
import type { RareLog } from "../kit/rareLog.ts"

/** Five attempts in all: the first and four more. */
export const defaultHandlerRetry: Schedule.Schedule<unknown, unknown> = Schedule.upTo(fullJitter(1_000, 60_000), {
  times: 4
})

/** The schedule of the option, or the default. */
export const scheduleOf = <E, R>(
  retry: HandlerRetry<E, R> | undefined
): Schedule.Schedule<unknown, unknown, never, R> =>
  (typeof retry === "function" ? retry((schedule) => schedule) : retry ?? defaultHandlerRetry) as Schedule.Schedule<
    unknown,
    unknown, // given only what the handler fails with, and no rejection
    never,
    R
  >

/** Handles a gap if the user has no handler for gaps. */
export const logGap = (rare: RareLog) => (gap: MessageGap): Effect.Effect<void> =>
  Effect.sync(() => rare.warn("gap", `${gap.count} messages of session ${gap.session} will never come (${gap.reason})`))
