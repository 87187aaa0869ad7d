/** The library's one backoff, exponential with full jitter: as a Schedule and as a number. */
import { Duration, Effect, Random, Schedule } from "effect"

/**
 * Delays between zero and the exponential delay, so that a crowd that failed together does not come back together
 * (`Schedule.jittered` moves delays by only a fifth). Parameters in ms.
 */
export const fullJitter = (baseMillis: number, capMillis: number): Schedule.Schedule<Duration.Duration> =>
  Schedule.min([Schedule.exponential(baseMillis), Schedule.spaced(capMillis)]).pipe(
    Schedule.modifyDelay(({ duration }) =>
      Effect.map(Random.next, (part) => Duration.millis(part * Duration.toMillis(duration)))
    ),
    Schedule.map(({ duration }) => Effect.succeed(duration))
  )

/** What `fullJitter` waits after this many failures in a row, with `part` drawn from [0, 1). In ms. */
export const jitteredMillis = (baseMillis: number, capMillis: number, failures: number, part: number): number =>
  part * Math.min(capMillis, baseMillis * 2 ** (failures - 1))
