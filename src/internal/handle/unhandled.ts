/** Defaults where the user gave nothing: retries of handlers, and gaps. */
import { Effect, Schedule } from "effect"
import type { MessageGap } from "../../Message.ts"
import { fullJitter } from "../kit/backoff.ts"
import type { RareLog } from "../kit/rareLog.ts"

/** Five attempts in all: the first and four more. */
export const defaultHandlerRetry: Schedule.Schedule<unknown, unknown> = Schedule.upTo(fullJitter(1_000, 60_000), {
  times: 4
})

/** Deals with a gap if the user has no handler for it. */
export const logGap = (rare: RareLog) => (gap: MessageGap): Effect.Effect<void> =>
  Effect.sync(() => rare.warn("gap", `${gap.count} messages of session ${gap.session} will never come (${gap.reason})`))
