/**
 * Looks at each message that a receiver was given: right connection, next in its row, right text. One miscount or
 * misorder spoils the measurement; none is tolerated for any peer.
 */
import { now } from "./clock.ts"
import { makeTexts } from "./messages.ts"
import type { Message, Receive } from "./Peer.ts"

export interface Expected {
  readonly count: number
  readonly connections: number
  /** Of a message as JSON. */
  readonly bytes: number
  /** Note how long each was under way. */
  readonly latencies?: "kept" | undefined
}

export class Verifier {
  /** When the last one was verified. Rejects at the first mistake. */
  readonly finished: Promise<number>
  /** Of message `n` as it arrived, in ms. */
  readonly latencies: Float64Array
  received = 0
  /** The first mistake, in words. */
  mistake: string | undefined
  readonly #expected: Expected
  readonly #next: Uint32Array
  readonly #texts: (connection: number, i: number) => string
  readonly #settle: { readonly resolve: (at: number) => void; readonly reject: (error: Error) => void }

  constructor(expected: Expected) {
    this.#expected = expected
    this.#next = new Uint32Array(expected.connections)
    this.#texts = makeTexts(expected.bytes)
    this.latencies = new Float64Array(expected.latencies === "kept" ? expected.count : 0)
    const { promise, reject, resolve } = Promise.withResolvers<number>()
    this.finished = promise
    this.#settle = { resolve, reject }
    // Whoever asks for it is told; nobody may have asked yet.
    promise.catch(() => {})
  }

  readonly receive: Receive = (connection, message) => {
    const wrong = this.#check(connection, message)
    if (wrong !== undefined) return this.#fail(wrong)
    if (this.latencies.length > 0 && "at" in message) this.latencies[this.received] = now() - message.at
    if (++this.received === this.#expected.count) this.#settle.resolve(now())
  }

  #check(connection: number, message: Message): string | undefined {
    const next = this.#next[connection]
    if (next === undefined) return `there is no connection ${connection}`
    if (message.i !== next) return `message ${message.i} on connection ${connection}, where ${next} was next`
    this.#next[connection] = next + 1
    if (this.received >= this.#expected.count) return `message ${message.i} on connection ${connection} is one too many`
    if (!("text" in message)) return undefined
    if (message.connection !== connection) return `a message of connection ${message.connection} on ${connection}`
    if (message.text !== this.#texts(connection, next)) return `message ${next} of connection ${connection} was altered`
    return undefined
  }

  #fail(wrong: string): void {
    this.mistake ??= wrong
    this.#settle.reject(new Error(`${wrong}, after ${this.received} of ${this.#expected.count}`))
  }
}
