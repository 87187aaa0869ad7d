/** How much peers may make this process take in, read from the options. */
import type { Duration } from "effect"
import { count, millis } from "../kit/options.ts"

/**
 * How much one client may send before it is not read for a while.
 *
 * @since 0.1.0
 * @category models
 */
export interface RateLimit {
  /** WebSocket messages, pings and pongs a second; a frame of the protocol carries many messages. Default 10,000. */
  readonly framesPerSecond?: number | undefined
  /** Their bytes a second. Default 256 MiB. */
  readonly bytesPerSecond?: number | undefined
  /** How much may come at once: as much as the rates allow in this time. Default 2 seconds. */
  readonly burst?: Duration.Input | undefined
}

export interface IntakeLimits {
  /** Memory that unhandled messages of all peers together may take, in bytes. */
  readonly unhandledBytes: number
  readonly rate: {
    readonly millisAFrame: number
    readonly millisAByte: number
    /** How far a peer may be ahead of its rates. */
    readonly burstMillis: number
  } | undefined
}

/** A heap of 512 MB has room for it, and for what goes beyond it. */
const defaultUnhandledBytes = 32 * 1024 * 1024

export const limitsOf = (options: {
  readonly maxUnhandledBytes?: number | undefined
  readonly rateLimit?: RateLimit | "none" | undefined
}): IntakeLimits => {
  const unhandledBytes = count("maxUnhandledBytes", options.maxUnhandledBytes, defaultUnhandledBytes)
  const { rateLimit = {} } = options
  if (rateLimit === "none") return { unhandledBytes, rate: undefined }
  const { burst, bytesPerSecond, framesPerSecond } = rateLimit
  return {
    unhandledBytes,
    rate: {
      millisAFrame: 1_000 / count("rateLimit.framesPerSecond", framesPerSecond, 10_000),
      millisAByte: 1_000 / count("rateLimit.bytesPerSecond", bytesPerSecond, 256 * 1024 * 1024),
      burstMillis: millis("rateLimit.burst", burst, "2 seconds")
    }
  }
}
