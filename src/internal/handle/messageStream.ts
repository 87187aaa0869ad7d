/**
 * Incoming messages as a stream, built on a handler. The handler offers a message and is done when the stream's
 * consumer asks for the next one. A consumer that stops before that leaves its message to the next consumer.
 */
import { type Cause, Deferred, Effect, Exit, Queue, Stream } from "effect"

interface Offer<A> {
  /** Undefined when withdrawn: the offering handler was interrupted, and the message is handled elsewhere. */
  value: A | undefined
  /** True when the consumer is done with it, false when it stopped before that. */
  readonly done: Deferred.Deferred<boolean>
}

/** How many withdrawn offers may stay in the queue. */
const maxWithdrawn = 64

export const makeMessageStream = Effect.fnUntraced(function*<A extends object>() {
  // Each session offers one message at a time, so the sessions bound this queue; withdrawn offers are swept out.
  const offers = yield* Queue.unbounded<Offer<A>, Cause.Done>()
  // Offers that nobody took stay unhandled: none may be handed out once the scope is closed.
  yield* Effect.addFinalizer(() => Effect.andThen(Queue.clear(offers), Queue.end(offers)))

  let consumers = 0
  let inHand = 0
  let withdrawn = 0
  const withdraw = (offer: Offer<A>) =>
    Effect.suspend(() => {
      offer.value = undefined
      return ++withdrawn < maxWithdrawn ? Effect.void : sweep
    })
  const sweep = Effect.map(Queue.clear(offers), (all) => {
    withdrawn = 0
    for (const offer of all) if (offer.value !== undefined) Queue.offerUnsafe(offers, offer)
  })
  const offer = Effect.fnUntraced(function*(value: A) {
    while (true) {
      const offer: Offer<A> = { value, done: yield* Deferred.make<boolean>() }
      yield* Queue.offer(offers, offer)
      if (yield* Effect.onInterrupt(Deferred.await(offer.done), () => withdraw(offer))) return
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
      while (true) {
        const offer = yield* Queue.take(offers)
        if (offer.value === undefined) continue
        current = offer
        inHand++
        return [offer.value] as const
      }
    })
  })

  return {
    offer,
    /** Made on demand: many programs have a handler instead. */
    get stream(): Stream.Stream<A> {
      return Stream.scoped(Stream.fromPull(pull))
    },
    hasConsumer: () => consumers > 0,
    /** Whether a consumer is still working on a message. */
    isConsuming: () => inHand > 0
  }
})
