/** The bounds of a queue, in memory or in a store, and which of them a batch would break. */
import type { NewMessage, Options } from "../../MessageQueue.ts"
import { QueueOverflowError } from "../../WebSocketError.ts"
import * as Check from "../kit/options.ts"
import type { OverPart, TotalBounds } from "./shares.ts"

/**
 * Bounds on one outbox, and on all together. The bytes of one outbox are those of its payloads. For the bytes of all
 * together, a store counts payloads, and a queue in memory counts the memory that messages take.
 */
export interface QueueBounds extends TotalBounds {
  readonly maxMessages: number
  readonly maxBytes: number
}

/** The bounds, with defaults. `maxTotalBytes` depends on what the queue counts, so the queue passes its value. */
export const queueBounds = (options: Options, maxTotalBytes: number): QueueBounds => ({
  maxMessages: Check.count("maxMessages", options.maxMessages, 1_000),
  maxBytes: Check.count("maxBytes", options.maxBytes, 16 * 1024 * 1024),
  maxTotalMessages: Check.count("maxTotalMessages", options.maxTotalMessages, 1_000_000),
  maxTotalBytes
})

/** A bound by its name, or a share's part of one. */
export type Limit = "messages" | "bytes" | "totalMessages" | "totalBytes" | OverPart

/** A bound that was reached, its value, and how much there is. */
export type Full = Pick<QueueOverflowError, "limit" | "bound" | "size">

/** The bound that one outbox would break if it had this much. */
export const ownLimit = (bounds: QueueBounds, messages: number, bytes: number): "messages" | "bytes" | undefined =>
  messages > bounds.maxMessages ? "messages" : bytes > bounds.maxBytes ? "bytes" : undefined

/** The bound that all outboxes would break if they had this much together. */
export const totalLimit = (
  bounds: QueueBounds,
  messages: number,
  bytes: number
): "totalMessages" | "totalBytes" | undefined =>
  messages > bounds.maxTotalMessages ? "totalMessages" : bytes > bounds.maxTotalBytes ? "totalBytes" : undefined

/** Whether the bound covers more than one outbox, so that room made in others helps. */
export const isOfAll = (limit: Limit | Full["limit"]): boolean => limit !== "messages" && limit !== "bytes"

/** The limit, as the error shows it. */
export const fullBy = (bounds: QueueBounds, limit: Exclude<Limit, OverPart>, size: number): Full => {
  switch (limit) {
    case "messages":
      return { limit, bound: bounds.maxMessages, size }
    case "bytes":
      return { limit, bound: bounds.maxBytes, size }
    case "totalMessages":
      return { limit, bound: bounds.maxTotalMessages, size }
    case "totalBytes":
      return { limit, bound: bounds.maxTotalBytes, size }
  }
}

/**
 * Without a stack trace: a sender that is refused a million times needs none, and the trace costs ten times as much as
 * the rest.
 */
export const overflowError = (session: string, full: Full): QueueOverflowError => {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return new QueueOverflowError({ session, ...full })
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** A batch's size as counted in the bound on the bytes of one outbox. */
export const payloadBytes = (messages: ReadonlyArray<NewMessage>): number => {
  let bytes = 0
  for (let i = 0; i < messages.length; i++) bytes += (messages[i] as NewMessage).bytes // in bounds
  return bytes
}
