/** The messages that are sent: fresh objects of a wanted size, with content that the receiver can check. */
import { now } from "./clock.ts"
import type { Message, Plan, Quote, Shape } from "./Peer.ts"

export interface Content {
  readonly count: number
  readonly connections: number
  /** Of a message as JSON, about; {@link tickBytes} makes ticks of them. */
  readonly bytes: number
}

/** What most workloads send. */
export const usualBytes = 128
/** This or less can't be a {@link Quote}. */
export const tickBytes = 10

/** Different texts that there are; a power of two. */
const texts = 64
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .:"

export const shapeOf = (bytes: number): Shape => bytes <= tickBytes ? "tick" : "quote"

/** The text of a connection's message `i`, so long that the message has the wanted size. */
export const makeTexts = (bytes: number): (connection: number, i: number) => string => {
  const bare: Quote = { i: 100_000, connection: 10, at: 100_000_000, kind: "quote", text: "" }
  const length = Math.max(0, bytes - JSON.stringify(bare).length)
  const pool = Array.from({ length: texts }, (_, seed) => textOf(seed, length))
  return (connection, i) => pool[(i + 7 * connection) & (texts - 1)] ?? ""
}

/** By way of a buffer: a flat string, not a tree of its parts. */
const textOf = (seed: number, length: number): string => {
  const buffer = Buffer.alloc(length)
  for (let i = 0; i < length; i++) buffer[i] = alphabet.charCodeAt((seed * 31 + i * (seed + 7)) % alphabet.length)
  return buffer.toString("latin1")
}

/** A plan of messages that say when they were made only roughly: the clock is not what is measured. */
export const planOf = ({ bytes, connections, count }: Content): Plan => {
  if (shapeOf(bytes) === "tick") {
    return { count, connections, make: (n) => ({ i: Math.floor(n / connections) }) }
  }
  const textFor = makeTexts(bytes)
  const at = Math.floor(now())
  const make = (n: number): Message => {
    const i = Math.floor(n / connections)
    const connection = n % connections
    return { i, connection, at, kind: "quote", text: textFor(connection, i) }
  }
  return { count, connections, make }
}

/** Messages that say when they were made. */
export const timedMaker = (bytes: number): (connection: number, i: number) => Quote => {
  const textFor = makeTexts(bytes)
  return (connection, i) => ({ i, connection, at: now(), kind: "quote", text: textFor(connection, i) })
}
