/**
 * Who waits for which message of a session to be handled. A tracked receipt is a small object in offset order; only
 * while somebody awaits it does it hold a callback.
 */
import { Effect } from "effect"
import { Deque, emptyDeque } from "../../core/Deque.ts"
import type { FateReason } from "../../core/Protocol.ts"
import { detailOf, isRejection } from "../../core/Text.ts"
import { DeadLetterError, type DeadLetterReason } from "../../WebSocketError.ts"
import { callbackLater } from "../kit/signal.ts"

export interface Dead {
  readonly reason: FateReason
  readonly maybeHandled: boolean
}

/** A reason as programs see it: the words of a rejection stand beside it. */
export const reasonOf = (reason: FateReason): DeadLetterReason => isRejection(reason) ? "rejected" : reason

const deadLetterError = (session: string, messageId: string, { maybeHandled, reason }: Dead): DeadLetterError => {
  const detail = detailOf(reason)
  return new DeadLetterError({
    session,
    messageId,
    reason: reasonOf(reason),
    maybeHandled,
    ...(detail === undefined ? {} : { detail })
  })
}

/** Finds out what became of messages delivered elsewhere, while somebody waits for one. */
export interface RemoteOutbox {
  readonly watch: (tracked: Tracked) => void
  readonly unwatch: (tracked: Tracked) => void
}

/** How many dead letters a session remembers for late questions. */
const rememberedDead = 1_024

export class Tracked {
  readonly offset: number
  state: "pending" | "handled" | Dead | RemoteOutbox = "pending"
  private waiters: Set<() => void> | undefined

  constructor(offset: number) {
    this.offset = offset
  }

  settle(state: "handled" | Dead): void {
    if (!isOpen(this.state)) return
    this.state = state
    const { waiters } = this
    this.waiters = undefined
    if (waiters !== undefined) { for (const wake of waiters) wake() }
  }

  /** From now on another server delivers its message. */
  leaveTo(remote: RemoteOutbox): void {
    if (this.state !== "pending") return
    this.state = remote
    if (this.waiters !== undefined && this.waiters.size > 0) remote.watch(this)
  }

  /** Ends when the message is settled. */
  settled(session: string, messageId: string): Effect.Effect<void, DeadLetterError> {
    const outcome = Effect.suspend(() =>
      typeof this.state === "object" && !("watch" in this.state)
        ? Effect.fail(deadLetterError(session, messageId, this.state))
        : Effect.void
    )
    return Effect.suspend(() =>
      !isOpen(this.state) ? outcome : callbackLater<void, DeadLetterError>((resume) => {
        const wake = () => resume(outcome)
        // The fiber may have yielded since it looked.
        if (!isOpen(this.state)) {
          wake()
          return Effect.void
        }
        if (this.waiters === undefined) this.waiters = new Set()
        this.waiters.add(wake)
        if (typeof this.state === "object") this.state.watch(this)
        return Effect.sync(() => this.giveUp(wake))
      })
    )
  }

  private giveUp(wake: () => void): void {
    this.waiters?.delete(wake)
    if (this.waiters?.size === 0 && typeof this.state === "object" && "watch" in this.state) this.state.unwatch(this)
  }
}

const isOpen = (state: Tracked["state"]): state is "pending" | RemoteOutbox =>
  state === "pending" || (typeof state === "object" && "watch" in state)

export class Receipts {
  /** Everything up to here is settled, or was sent before this server had the session. */
  private settledUpTo: number
  /** Up to here, messages were sent before this server had the session: their fate is asked for elsewhere. */
  private readonly remoteUpTo: number
  private readonly remote: RemoteOutbox | undefined
  /** Set once the messages are no longer this side's: the fate of receipts that still come, from sends under way. */
  private gone: RemoteOutbox | Dead | undefined
  /** By offset. Made with the first. */
  private pending: Deque<Tracked> = emptyDeque
  /** How many in `pending` are dead: they stay there until `handled` passes them, or there are too many. */
  private settledInside = 0
  private dead: Map<number, Dead> | undefined // few sessions have any

  constructor(settledUpTo: number, remote?: RemoteOutbox) {
    this.settledUpTo = settledUpTo
    this.remoteUpTo = remote === undefined ? 0 : settledUpTo
    this.remote = remote
  }

  /** Follows what becomes of the message of a new receipt. */
  add(tracked: Tracked): void {
    if (this.gone !== undefined) return this.addGone(tracked, this.gone)
    const { offset } = tracked
    const back = this.pending.back()
    if (offset <= this.settledUpTo || (back !== undefined && back.offset >= offset)) return this.addLate(tracked)
    const dead = this.dead?.get(offset)
    if (dead !== undefined) tracked.settle(dead)
    else this.push(tracked)
  }

  /** The receipt that is followed for this offset, or a new one. */
  find(offset: number): Tracked {
    const found = this.pending.at(this.indexOf(offset))
    if (found !== undefined) return found
    const tracked = new Tracked(offset)
    this.add(tracked)
    return tracked
  }

  /** Whether there are any that are not settled. */
  get isAwaited(): boolean {
    return this.pending.size > this.settledInside
  }

  /** Why the message at `offset` was given up, if it was and that is remembered. */
  deadAt(offset: number): Dead | undefined {
    return this.dead?.get(offset)
  }

  /** What is known of the message at `offset`, which is no longer in the outbox. */
  stateOf(offset: number): "handled" | "unknown" {
    return offset <= this.settledUpTo && this.dead?.has(offset) !== true ? "handled" : "unknown"
  }

  /** The peer handled everything up to `upTo`, except what is dead. */
  handled(upTo: number): void {
    if (upTo <= this.settledUpTo) return
    this.settledUpTo = upTo
    let front = this.pending.front()
    while (front !== undefined && front.offset <= upTo) {
      this.pending.popFront()
      if (front.state !== "pending") this.settledInside--
      front.settle("handled")
      front = this.pending.front()
    }
  }

  /** The messages at `first..end` were given up, perhaps by somebody else. Receipts of some may come after that. */
  lost(first: number, end: number, dead: Dead): void {
    for (let offset = Math.max(first, end - rememberedDead + 1); offset <= end; offset++) {
      if (this.dead?.has(offset) !== true) this.remember(offset, dead)
    }
    for (let i = this.firstFrom(first); i < this.pending.size; i++) {
      const tracked = this.pending.at(i)
      if (tracked === undefined || tracked.offset > end) return
      if (tracked.state !== "pending") continue
      tracked.settle(dead)
      this.settledInside++
    }
  }

  /** The messages are no longer delivered from here. */
  leaveTo(remote: RemoteOutbox): void {
    this.gone = remote
    this.pending.forEach((tracked) => tracked.leaveTo(remote))
    this.pending = emptyDeque
    this.settledInside = 0
  }

  /** The message at `offset` became a dead letter. To be called before `handled` passes it. */
  died(offset: number, dead: Dead): void {
    this.remember(offset, dead)
    const tracked = this.pending.at(this.indexOf(offset))
    if (tracked?.state !== "pending") return
    tracked.settle(dead)
    this.settledInside++
    if (this.settledInside > 64 && this.settledInside * 2 > this.pending.size) this.compact()
  }

  /** The session is over, and its messages are given up: fails whoever waits. */
  ended(): void {
    const { pending } = this
    this.pending = emptyDeque
    this.settledInside = 0
    const over: Dead = { reason: "sessionEnded", maybeHandled: true }
    this.gone = over
    pending.forEach((tracked) => tracked.settle(over))
  }

  private push(tracked: Tracked): void {
    if (this.pending === emptyDeque) this.pending = new Deque()
    this.pending.pushBack(tracked)
  }

  private remember(offset: number, dead: Dead): void {
    const remembered = this.dead ??= new Map()
    remembered.set(offset, dead)
    if (remembered.size <= rememberedDead) return
    const oldest = remembered.keys().next().value
    if (oldest !== undefined) remembered.delete(oldest)
  }

  /** Removes the dead: a queue that keeps dropping its oldest must not keep a receipt of each. */
  private compact(): void {
    const live = new Deque<Tracked>()
    this.pending.forEach((tracked) => {
      if (tracked.state === "pending") live.pushBack(tracked)
    })
    this.pending = live
    this.settledInside = 0
  }

  /** A sender that learns its message's offset only now gets the fate that was known when the messages left. */
  private addGone(tracked: Tracked, gone: RemoteOutbox | Dead): void {
    const { offset } = tracked
    const dead = this.dead?.get(offset)
    if (dead !== undefined) tracked.settle(dead)
    else if (isRemote(gone)) tracked.leaveTo(gone)
    else tracked.settle(this.remoteUpTo < offset && offset <= this.settledUpTo ? "handled" : gone)
  }

  /** A sender that waited for room may come after a later one, or after its message was handled. */
  private addLate(tracked: Tracked): void {
    const { offset } = tracked
    const dead = this.dead?.get(offset)
    if (this.remote !== undefined && offset <= this.remoteUpTo) return tracked.leaveTo(this.remote)
    if (dead !== undefined || offset <= this.settledUpTo) return tracked.settle(dead ?? "handled")
    const later: Array<Tracked> = []
    let back = this.pending.back()
    while (back !== undefined && back.offset > offset) {
      later.push(back)
      this.pending.popBack()
      back = this.pending.back()
    }
    this.push(tracked)
    for (let next = later.pop(); next !== undefined; next = later.pop()) this.pending.pushBack(next)
  }

  /** Index in `pending`, or -1. */
  private indexOf(offset: number): number {
    const index = this.firstFrom(offset)
    return this.pending.at(index)?.offset === offset ? index : -1
  }

  /** Index in `pending` of the first one at or beyond `offset`. */
  private firstFrom(offset: number): number {
    let low = 0
    let high = this.pending.size
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.pending.at(middle)?.offset ?? Infinity) < offset) low = middle + 1
      else high = middle
    }
    return low
  }
}

const isRemote = (state: RemoteOutbox | Dead): state is RemoteOutbox => "watch" in state
