/** What is on its way and comes late, in order, by Effect's Clock. */
import { type Duration, Effect } from "effect"
import { Deque } from "../core/Deque.ts"
import * as Check from "../internal/kit/options.ts"

/** A direction of a connection. A wrapper at either end knows which of its calls go which way. */
export type Direction = "toServer" | "toClient"

export const directions: ReadonlyArray<Direction> = ["toServer", "toClient"]

/** This direction, or both. */
export const chosen = (direction: Direction | undefined): ReadonlyArray<Direction> =>
  direction === undefined ? directions : [direction]

/** One thing on its way: it either arrives or is lost, once. */
export interface Traveller {
  readonly bytes: number
  readonly arrive: () => void
  readonly lose?: (() => void) | undefined
  /** It arrives even while the line is held, if it is the first. */
  readonly passesHeld?: boolean | undefined
}

/** How late things are, and what is told of those that wait. All lines of a layer or a proxy share one. */
export interface Lateness {
  /** In ms, by direction. 0 for not at all. */
  readonly millis: Record<Direction, number>
  /** Runs a sleep, and what follows it. */
  readonly fork: (effect: Effect.Effect<void>) => void
  /** Runs a task outside of the caller's call. */
  readonly later: (task: () => void) => void
  /** So many more wait than before, or fewer. */
  readonly waiting: (difference: number) => void
}

/** A duration in ms; throws if it is none. */
export const delayMillis = (duration: Duration.Input): number => {
  const millis = Check.millisOf(duration)
  return millis >= 0 ? millis : Check.fail("duration", duration, "a duration")
}

interface Item {
  readonly traveller: Traveller
  isDue: boolean
}

/**
 * One direction of one connection. While nothing is late and nobody holds it, it calls `arrive` at once, within `push`.
 * Each late thing has a fiber that sleeps, so the line reads no clock.
 */
export class DelayLine {
  private readonly items = new Deque<Item>()
  private readonly lateness: Lateness
  private readonly direction: Direction
  private isHeld = false
  private isFlushing = false
  /** Bytes that wait. */
  bytes = 0

  constructor(direction: Direction, lateness: Lateness) {
    this.direction = direction
    this.lateness = lateness
  }

  push(traveller: Traveller): void {
    const millis = this.lateness.millis[this.direction]
    const isFree = !this.isHeld || traveller.passesHeld === true
    if (this.items.size === 0 && !this.isFlushing && millis === 0 && isFree) return traveller.arrive()
    const item = { traveller, isDue: millis === 0 }
    this.append(item)
    // It never comes by itself. No timer is that long.
    if (item.isDue || millis === Infinity) return
    this.lateness.fork(Effect.andThen(
      Effect.sleep(millis),
      Effect.sync(() => {
        item.isDue = true
        this.lateness.later(() => this.flush())
      })
    ))
  }

  /** Nothing arrives until `release`. */
  hold(): void {
    this.isHeld = true
  }

  release(): void {
    this.isHeld = false
    this.lateness.later(() => this.flush())
  }

  /** All that waits is due now, and then `last`. */
  hurry(last?: Traveller): void {
    if (last !== undefined) this.append({ traveller: last, isDue: true })
    this.items.forEach((item) => void (item.isDue = true))
    this.lateness.later(() => this.flush())
  }

  /** Loses all that waits. */
  drop(): void {
    const lost: Array<Traveller> = []
    this.items.forEach(({ traveller }) => lost.push(traveller))
    this.items.clear()
    this.bytes = 0
    this.lateness.waiting(-lost.length)
    for (const { lose } of lost) lose?.()
  }

  private append(item: Item): void {
    this.items.pushBack(item)
    this.bytes += item.traveller.bytes
    this.lateness.waiting(1)
  }

  private flush(): void {
    // An arrival may cause another push, and so on: that one waits for its turn here.
    if (this.isFlushing) return
    this.isFlushing = true
    while (true) {
      const item = this.items.front()
      if (item === undefined || !item.isDue || (this.isHeld && item.traveller.passesHeld !== true)) break
      this.items.popFront()
      this.bytes -= item.traveller.bytes
      this.lateness.waiting(-1)
      item.traveller.arrive()
    }
    this.isFlushing = false
  }
}
