/** What laws are made of: the errors, the time, and comparisons that say what was expected and what came. */
import { Context, Effect, Equal, Formatter, Schema } from "effect"
import type { Deduplicator } from "../Deduplicator.ts"
import type * as MemoryStore from "../MemoryStore.ts"
import type { MessageQueue, NewMessage, Operation, ReadResult } from "../MessageQueue.ts"
import type { SessionRegistry } from "../SessionRegistry.ts"
import type { WebSocketError } from "../WebSocketError.ts"

/**
 * A store broke a law: `what` says of what, `expected` and `actual` what should have come and what came.
 *
 * @since 0.1.0
 * @category errors
 */
export class LawViolation extends Schema.TaggedError<LawViolation>()("resilient-websocket/LawViolation", {
  /** The law's name. */
  law: Schema.String,
  what: Schema.String,
  expected: Schema.String,
  actual: Schema.String
}) {
  override get message() {
    return `${this.law}: of ${this.what}, expected ${this.expected}, got ${this.actual}`
  }
}

/**
 * Lets this many milliseconds pass, for the store and for Effect's clock: `TestClock.adjust`, or a sleep if the store
 * has a clock of its own.
 *
 * @since 0.1.0
 * @category services
 */
export class PassTime extends Context.Service<PassTime, (millis: number) => Effect.Effect<void>>()(
  "resilient-websocket/testing/PassTime"
) {}

/**
 * The services of a store that laws are about.
 *
 * @since 0.1.0
 * @category models
 */
export type Services = MessageQueue | SessionRegistry | Deduplicator

/**
 * One law: its name is a sentence about behaviour. Run `law` once, on a new and empty store made with `options`.
 *
 * @since 0.1.0
 * @category models
 */
export interface StoreLaw {
  readonly name: string
  readonly options: MemoryStore.Options
  readonly law: Effect.Effect<void, LawViolation | WebSocketError, Services | PassTime>
}

/** What a law is written with, before it knows its name. */
type Body<E, R> = Effect.Effect<void, E | LawViolation, R>

export const law = (
  name: string,
  body: Body<WebSocketError, Services | PassTime>,
  options: MemoryStore.Options = {}
): StoreLaw => ({
  name,
  options,
  law: Effect.mapError(
    body,
    (error) => error._tag === "resilient-websocket/LawViolation" ? new LawViolation({ ...error, law: name }) : error
  )
})

const violation = (what: string, expected: string, actual: string) =>
  Effect.fail(new LawViolation({ law: "", what, expected, actual }))

/** Expects a value, compared in depth. */
export const same = <A>(what: string, actual: A, expected: A): Effect.Effect<void, LawViolation> =>
  Effect.suspend(() =>
    Equal.equals(actual, expected) ? Effect.void : violation(what, Formatter.format(expected), Formatter.format(actual))
  )

/** Expects that what `expected` describes holds. */
export const holds = (
  what: string,
  condition: boolean,
  expected: string,
  actual: unknown
): Effect.Effect<void, LawViolation> => condition ? Effect.void : violation(what, expected, Formatter.format(actual))

/** Expects a failure whose fields are as given. */
export const refused = <A, E extends object, R>(
  what: string,
  effect: Effect.Effect<A, E, R>,
  fields: Readonly<Record<string, unknown>>
): Effect.Effect<void, LawViolation, R> =>
  Effect.matchEffect(effect, {
    onSuccess: (value) => violation(what, `a failure, ${Formatter.format(fields)}`, Formatter.format(value)),
    onFailure: (error) => {
      const found = Object.fromEntries(
        Object.keys(fields).map((name): [string, unknown] => [name, Reflect.get(error, name)])
      )
      return same(what, found, fields)
    }
  })

/** Does an operation as the engine does: synchronously if it can. */
export const perform = <Args extends ReadonlyArray<unknown>, A, E>(
  operation: Operation<Args, A, E>,
  ...args: Args
): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    const done = operation.unsafe?.(...args)
    return done === undefined ? operation(...args) : Effect.succeed(done)
  })

/** Checks until something holds that other fibers or the store bring about: for 1,000 ms of the law's time. */
export const eventually = Effect.fnUntraced(function*<E, R>(what: string, condition: Effect.Effect<boolean, E, R>) {
  const passTime = yield* PassTime
  for (let look = 0; look < 1_000; look++) {
    if (yield* condition) return
    yield* passTime(1)
  }
  return yield* violation(what, "to happen within a second", "nothing")
})

/** A message whose payload is a text. */
export const textMessage = (text: string, fields: Partial<NewMessage> = {}): NewMessage => {
  const payload = JSON.stringify(text)
  return { payload, bytes: new TextEncoder().encode(payload).length, ...fields }
}

/** A read limit too high to matter. */
export const everything = { maxMessages: 10_000, maxBytes: 1_000_000_000 }

/** What was read, offset by offset: `3 "text"`, or `4 expired`. */
export const readOut = ({ slots }: ReadResult): ReadonlyArray<string> =>
  slots.flatMap((slot) =>
    slot.kind === "message"
      ? [`${slot.offset} ${slot.payload}`]
      : Array.from({ length: slot.end - slot.offset + 1 }, (_, i) => `${slot.offset + i} ${slot.reason}`)
  )

export const payloads = (messages: ReadonlyArray<{ readonly payload: string }>): ReadonlyArray<string> =>
  messages.map(({ payload }) => payload)

/** Texts that a store may take apart, fold together or misread. */
export const oddTexts: ReadonlyArray<string> = [
  "plain",
  "PLAIN",
  "plain ",
  `'single' "double" \`back\``,
  "back\\slash \\u0041",
  "line\nfeed\ttab",
  "percent % under _ star *",
  "a:b",
  "a/b",
  "{tag}",
  "$1 ? ; --",
  "null",
  "0",
  "00",
  "é",
  "e\u0301",
  "日本語",
  "👩‍👩‍👧‍👦"
]
