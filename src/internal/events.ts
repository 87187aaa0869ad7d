/** Events for whoever listens: published synchronously, never waiting for a slow listener, who loses the oldest. */
import { Effect, Queue, Stream } from "effect"

/** How far a listener may fall behind. */
const capacity = 1_024

export const makeEvents = Effect.fnUntraced(function*<A>() {
  const listeners = new Set<Queue.Queue<A>>()
  yield* Effect.addFinalizer(() =>
    Effect.forEach([...listeners], (listener) => Queue.shutdown(listener), { discard: true })
  )
  const publish = (event: A): void => {
    for (const listener of listeners) Queue.offerUnsafe(listener, event)
  }
  const stream: Stream.Stream<A> = Stream.scoped(Stream.unwrap(Effect.gen(function*() {
    const listener = yield* Queue.sliding<A>(capacity)
    yield* Effect.acquireRelease(
      Effect.sync(() => listeners.add(listener)),
      () => Effect.sync(() => listeners.delete(listener))
    )
    return Stream.fromQueue(listener)
  })))
  return { publish, stream }
})
