/**
 * Messages as a stream, built on a handler: the handler offers a message and is done when the stream's consumer asks
 * for the next one. A consumer that stops half-way leaves its message to the next consumer.
 */
import { type Cause, Deferred, Effect, Exit, Queue, Stream } from "effect"

interface Offer<A> {
  readonly value: A
  /** True when the consumer is done with it, false when it stopped before. */
  readonly done: Deferred.Deferred<boolean>
}

export const makeHandoff = Effect.fnUntraced(function*<A>() {
  // Each session offers one at a time, so this is bounded by the sessions.
  const offers = yield* Queue.unbounded<Offer<A>, Cause.Done>()
  // What nobody took is not handled: it must not be given out once nobody hears of it any more.
  yield* Effect.addFinalizer(() => Effect.andThen(Queue.clear(offers), Queue.end(offers)))

  let consumers = 0
  let inHand = 0
  const offer = Effect.fnUntraced(function*(value: A) {
    while (true) {
      const done = yield* Deferred.make<boolean>()
      yield* Queue.offer(offers, { value, done })
      if (yield* Deferred.await(done)) return
    }
  })

  const pull = Effect.gen(function*() {
    let current: Offer<A> | undefined
    const finish = (completed: boolean) =>
      Effect.suspend(() => {
        if (current === undefined) return Effect.void
        const { done } = current
        current = undefined
        inHand--
        return Deferred.succeed(done, completed)
      })
    consumers++
    yield* Effect.addFinalizer((exit) => {
      consumers--
      return finish(Exit.isSuccess(exit))
    })
    return Effect.gen(function*() {
      yield* finish(true)
      current = yield* Queue.take(offers)
      inHand++
      return [current.value] as const
    })
  })

  return {
    offer,
    /** Made when somebody asks for it: many have a handler instead. */
    get stream(): Stream.Stream<A> {
      return Stream.scoped(Stream.fromPull(pull))
    },
    hasConsumer: () => consumers > 0,
    /** Whether a consumer has a message that it is not done with. */
    isConsuming: () => inHand > 0
  }
})
