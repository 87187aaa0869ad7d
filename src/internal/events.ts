/**
 * Events for whoever listens: published synchronously, never waiting for a slow listener, who loses the oldest; the
 * newest ones also for those who come late.
 */
import { type Cause, Effect, Queue, Stream } from "effect"

export interface EventsOptions {
  /** How many events are kept for late listeners. Default none. */
  readonly replay?: number
  /** How far a listener may fall behind. Default 1,024. */
  readonly capacity?: number
}

/**
 * Events are kept in a ring: in the linked list of a `PubSub` each dead node keeps its younger successors alive until
 * the next full collection, which at a million events costs 200 MB.
 */
export const makeEvents = Effect.fnUntraced(function*<A>({ capacity = 1_024, replay = 0 }: EventsOptions = {}) {
  const listeners = new Set<Queue.Queue<A, Cause.Done>>()
  const recent: Array<A> = []
  let published = 0
  let closed = false
  // Listeners are given what was published before the end; those who come later, what is kept.
  yield* Effect.addFinalizer(() => {
    closed = true
    return Effect.forEach([...listeners], (listener) => Queue.end(listener), { discard: true })
  })

  const publish = (event: A): void => {
    if (replay > 0) recent[published++ % replay] = event
    for (const listener of listeners) Queue.offerUnsafe(listener, event)
  }

  /** The kept events, oldest first. */
  const kept = (): ReadonlyArray<A> => {
    const start = published % Math.max(1, replay)
    return published <= replay ? [...recent] : [...recent.slice(start), ...recent.slice(0, start)]
  }

  const subscribe = Effect.gen(function*() {
    if (closed) return Stream.fromIterable(kept())
    const listener =
      yield* (capacity === Infinity ? Queue.unbounded<A, Cause.Done>() : Queue.sliding<A, Cause.Done>(capacity))
    const before = yield* Effect.acquireRelease(
      Effect.sync(() => {
        listeners.add(listener)
        return kept()
      }),
      () => Effect.sync(() => listeners.delete(listener))
    )
    return Stream.concat(Stream.fromIterable(before), Stream.fromQueue(listener))
  })
  return {
    publish,
    /** Made when somebody asks for it: most clients have no listener. */
    get stream(): Stream.Stream<A> {
      return Stream.scoped(Stream.unwrap(subscribe))
    }
  }
})
