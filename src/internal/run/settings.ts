/** Settings that server and client read alike from their options: limits, times, restarts of workers. */
import type { Duration } from "effect"
import { defaultMaxPayloadBytes, defaultWindow, type Window, wireCount } from "../../core/Protocol.ts"
import * as Check from "../kit/options.ts"
import { defaultIntensity, type Intensity } from "./supervisor.ts"

/** What a side accepts, by its options; both go on the wire. */
export const limitsOf = (options: {
  readonly window?: Partial<Window> | undefined
  readonly maxPayloadBytes?: number | undefined
}): { readonly window: Window; readonly maxPayload: number } => ({
  window: {
    messages: wireCount(Check.count("window.messages", options.window?.messages, defaultWindow.messages)),
    bytes: wireCount(Check.count("window.bytes", options.window?.bytes, defaultWindow.bytes))
  },
  maxPayload: wireCount(Check.count("maxPayloadBytes", options.maxPayloadBytes, defaultMaxPayloadBytes))
})

/** The engine's times, as the options say. */
export const timesOf = (options: {
  readonly heartbeat?: Duration.Input | undefined
  readonly heartbeatTimeout?: Duration.Input | undefined
  readonly ackTimeout?: Duration.Input | undefined
  readonly expirySweep?: Duration.Input | undefined
}) => ({
  heartbeat: Check.millis("heartbeat", options.heartbeat, "10 seconds"),
  heartbeatTimeout: Check.millis("heartbeatTimeout", options.heartbeatTimeout, "8 seconds"),
  ackTimeout: Check.millis("ackTimeout", options.ackTimeout, "30 seconds"),
  expirySweep: Check.millis("expirySweep", options.expirySweep, "60 seconds")
})

export const intensityOf = (
  options: { readonly restarts: number; readonly period: Parameters<typeof Check.millis>[1] } | undefined
): Intensity => ({
  restarts: Check.count("restartIntensity.restarts", options?.restarts, defaultIntensity.restarts, 0),
  periodMillis: Check.millis("restartIntensity.period", options?.period, defaultIntensity.periodMillis)
})
