/**
 * Incoming messages as a stream, built on a handler. The handler offers a message and is done when the stream's
 * consumer asks for the next one. A consumer that stops half-way leaves its message to the next consumer.
 */
import { type Cause, Deferred, Effect, Exit, Queue, Stream } from "effect"

interface Offer<A> {
  /** Undefined once withdrawn: the offering fiber was interrupted, and the message will be handled elsewhere. */
  value: A | undefined
  /** True when the consumer is done with it, false when it stopped before. */
  readonly done: Deferred.Deferred<boolean>
}

/** How many withdrawn messages may stay before they are swept out. */
const maxWithdrawn = 64

export const makeMessageStream = Effect.fnUntraced(function*<A extends object>() {
  // Each session offers one at a time, so this is bounded by the sessions; what was withdrawn is swept out.
  const offers = yield* Queue.unbounded<Offer<A>, Cause.Done>()
  // What nobody took is not handled: it must not be given out once nobody hears of it any more.
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
    /** Made on demand, as many programs have a handler instead. */
    get stream(): Stream.Stream<A> {
      return Stream.scoped(Stream.fromPull(pull))
    },
    hasConsumer: () => consumers > 0,
    /** Whether a consumer is still at work on a message. */
    isConsuming: () => inHand > 0
  }
})
