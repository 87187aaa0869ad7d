/**
 * Events for listeners that may be slow, and then lose the oldest. Publishing is synchronous and never waits. Late
 * listeners get the newest events.
 */
import { Cause, Effect, Stream } from "effect"
import { Deque } from "../../core/Deque.ts"

export interface EventsOptions<A> {
  /** How many events are kept for late listeners. Default none. */
  readonly replay?: number
  /** How far a listener may fall behind, besides what was kept for it. Default 1,024. */
  readonly capacity?: number
  /** Memory that an event takes, in bytes. Default 0: all are small. */
  readonly bytesOf?: (event: A) => number
  /** The most memory for all kept events, and for all that one listener is behind, in bytes. Default no bound. */
  readonly maxBytes?: number
}

export interface Events<A> {
  readonly publish: (event: A) => void
  readonly stream: Stream.Stream<A>
  /** A listener from now on, which may fall behind by this many. `end` ends it once it has all that came before. */
  readonly listen: (
    capacity: number,
    onDropped: (events: number) => void
  ) => { readonly pull: Pulled<A>; readonly end: () => void }
}

export const makeEvents = Effect.fnUntraced(function*<A>(
  { bytesOf = () => 0, capacity = 1_024, maxBytes = Infinity, replay = 0 }: EventsOptions<A> = {}
) {
  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  const later = (task: () => void) => dispatcher.scheduleTask(task, 0)
  const listeners = new Set<Listener<A>>()
  const recent = new Line<A>(replay, maxBytes)
  let closed = false
  // Listeners still get what was published before the end, and late ones what is kept.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      closed = true
      for (const listener of listeners) listener.end()
    })
  )

  const publish = (event: A): void => {
    const bytes = bytesOf(event)
    if (replay > 0) recent.push(event, bytes)
    for (const listener of listeners) listener.push(event, bytes)
  }

  const subscribe = Effect.gen(function*() {
    const listener = new Listener<A>(capacity + replay, maxBytes, later)
    recent.forEach((event, bytes) => listener.push(event, bytes))
    if (closed) listener.end()
    yield* Effect.acquireRelease(
      Effect.sync(() => listeners.add(listener)),
      () => Effect.sync(() => listeners.delete(listener))
    )
    return listener.pull
  })
  const listen: Events<A>["listen"] = (most, onDropped) => {
    const listener = new Listener<A>(most, maxBytes, later, onDropped)
    listeners.add(listener)
    return {
      pull: listener.pull,
      end: () => {
        listeners.delete(listener)
        listener.end()
      }
    }
  }
  const events: Events<A> = {
    publish,
    listen,
    /** Made on demand: most clients have no listener. */
    get stream(): Stream.Stream<A> {
      return Stream.scoped(Stream.fromPull(subscribe))
    }
  }
  return events
})

/**
 * A bounded line of events that loses the oldest. It is a ring: in the linked list of a `PubSub`, each dead node keeps
 * its younger successors alive until the next full collection, which at a million events costs 200 MB.
 */
class Line<A> {
  private readonly events = new Deque<A>()
  private readonly sizes = new Deque<number>()
  private bytes = 0
  private readonly maxEvents: number
  private readonly maxBytes: number

  constructor(maxEvents: number, maxBytes: number) {
    this.maxEvents = maxEvents
    this.maxBytes = maxBytes
  }

  /** Gives how many older ones had to go. */
  push(event: A, bytes: number): number {
    this.events.pushBack(event)
    this.sizes.pushBack(bytes)
    this.bytes += bytes
    let dropped = 0
    // The newest is kept, however large it is.
    while (this.events.size > this.maxEvents || (this.bytes > this.maxBytes && this.events.size > 1)) {
      this.events.popFront()
      this.bytes -= this.sizes.popFront() ?? 0
      dropped++
    }
    return dropped
  }

  get isEmpty(): boolean {
    return this.events.size === 0
  }

  forEach(visit: (event: A, bytes: number) => void): void {
    for (let i = 0; i < this.events.size; i++) visit(this.events.at(i) as A, this.sizes.at(i) ?? 0) // in bounds
  }

  takeAll(): Array<A> {
    const taken: Array<A> = []
    this.forEach((event) => taken.push(event))
    this.events.clear()
    this.sizes.clear()
    this.bytes = 0
    return taken
  }
}

type Pulled<A> = Effect.Effect<readonly [A, ...Array<A>], Cause.Done>

class Listener<A> {
  private readonly line: Line<A>
  private isOver = false
  private isWaking = false
  private readonly later: (task: () => void) => void
  private readonly onDropped: ((events: number) => void) | undefined
  private waiter: ((effect: Pulled<A>) => void) | undefined

  constructor(
    maxEvents: number,
    maxBytes: number,
    later: (task: () => void) => void,
    onDropped?: (events: number) => void
  ) {
    this.line = new Line(maxEvents, maxBytes)
    this.later = later
    this.onDropped = onDropped
  }

  push(event: A, bytes: number): void {
    if (this.isOver) return
    const dropped = this.line.push(event, bytes)
    if (dropped > 0) this.onDropped?.(dropped)
    if (this.waiter === undefined || this.isWaking) return
    // Not synchronously: the publisher is in the middle of its work.
    this.isWaking = true
    this.later(() => {
      this.isWaking = false
      if (!this.line.isEmpty) this.wake(this.take)
    })
  }

  end(): void {
    this.isOver = true
    if (this.line.isEmpty) this.wake(Cause.done())
  }

  /** Waits until there is an event, then takes all there are. */
  readonly pull: Pulled<A> = Effect.callback((resume) => {
    if (!this.line.isEmpty) return resume(this.take)
    if (this.isOver) return resume(Cause.done())
    this.waiter = resume
    return Effect.sync(() => {
      if (this.waiter === resume) this.waiter = undefined
    })
  })

  /** Takes all events, those since the wake-up included. Not empty, since only this listener takes. */
  private readonly take: Pulled<A> = Effect.sync(() => this.line.takeAll() as [A, ...Array<A>])

  private wake(effect: Pulled<A>): void {
    const { waiter } = this
    this.waiter = undefined
    waiter?.(effect)
  }
}
