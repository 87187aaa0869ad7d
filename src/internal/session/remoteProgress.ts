/**
 * What became of messages that this server sent but does not deliver, since it does not have their session. It asks the
 * store as long as somebody waits, for all sessions at once, each at intervals that grow while nothing changes.
 */
import { Effect } from "effect"
import type { MessageQueue, Progress } from "../../MessageQueue.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { makeSignal, type Signal } from "../kit/signal.ts"
import type { Dead, RemoteOutbox, Tracked } from "./receipts.ts"

/** An outbox and those of its messages that somebody waits for. Dropped when nobody waits. */
interface Watch {
  readonly session: string
  readonly epoch: string
  readonly tracked: Set<Tracked>
  pauseMillis: number
  dueAt: number
}

const shortestPause = 100
const longestPause = 2_000

/** Outboxes asked about in one call. */
const batchSize = 500

/** The outbox ended where we could not see it. */
const ended: Dead = { reason: "sessionEnded", maybeHandled: true }

export interface RemoteProgressOptions {
  readonly queue: MessageQueue["Service"]
  readonly now: () => number
  /**
   * The fate of a message that this server gave up itself, after the session came here. The store only says that the
   * client is past its offset.
   */
  readonly deadHere: (session: string, epoch: string, offset: number) => Dead | undefined
}

export const makeRemoteProgress = (options: RemoteProgressOptions): Effect.Effect<RemoteProgress> =>
  Effect.map(makeSignal, (work) => new RemoteProgress(options, work))

export class RemoteProgress {
  private readonly options: RemoteProgressOptions
  private readonly work: Signal
  private readonly watches = new Map<string, Watch>()

  constructor(options: RemoteProgressOptions, work: Signal) {
    this.options = options
    this.work = work
  }

  private watch(session: string, epoch: string, tracked: Tracked): void {
    const key = keyOf(session, epoch)
    let found = this.watches.get(key)
    if (found === undefined) {
      found = { session, epoch, tracked: new Set(), pauseMillis: shortestPause, dueAt: 0 }
      this.watches.set(key, found)
      this.work.notify()
    }
    found.tracked.add(tracked)
    found.pauseMillis = shortestPause
    found.dueAt = Math.min(found.dueAt === 0 ? Infinity : found.dueAt, this.options.now() + shortestPause)
  }

  private unwatch(session: string, epoch: string, tracked: Tracked): void {
    const key = keyOf(session, epoch)
    const found = this.watches.get(key)
    found?.tracked.delete(tracked)
    if (found?.tracked.size === 0) this.watches.delete(key)
  }

  /** Settles the receipts whose fate is known by now. */
  private learn(asked: Watch, progress: Progress | undefined): void {
    const { epoch, session, tracked } = asked
    for (const one of tracked) {
      const told = progress?.epoch === epoch ? fateOf(one.offset, progress) : ended
      const fate = told === "handled" ? this.options.deadHere(session, epoch, one.offset) ?? told : told
      if (fate === undefined) continue
      this.unwatch(session, epoch, one)
      one.settle(fate)
      asked.pauseMillis = shortestPause / 2
    }
  }

  /** This server gives up messages of this outbox. Returns what settles the receipts of one; undefined if none wait. */
  dying(session: string, epoch: string): ((offset: number, dead: Dead) => void) | undefined {
    const found = this.watches.get(keyOf(session, epoch))
    if (found === undefined) return undefined
    const waiting = Map.groupBy(found.tracked, ({ offset }) => offset)
    return (offset, dead) => {
      for (const one of waiting.get(offset) ?? []) {
        this.unwatch(session, epoch, one)
        one.settle(dead)
      }
    }
  }

  private readonly ask = Effect.fnUntraced(
    function*(this: RemoteProgress, batch: ReadonlyArray<Watch>): Effect.fn.Return<void, MessageQueueError> {
      const answers = yield* this.options.queue.progress(
        batch.map(({ session, tracked }) => ({ session, after: lowestOf(tracked) - 1 }))
      )
      for (const [index, asked] of batch.entries()) this.learn(asked, answers[index])
    }
  )

  private readonly round = Effect.fnUntraced(function*(this: RemoteProgress) {
    const at = this.options.now()
    const due = [...this.watches.values()].filter(({ dueAt }) => dueAt <= at)
    for (let i = 0; i < due.length; i += batchSize) {
      const batch = due.slice(i, i + batchSize).filter(({ tracked }) => tracked.size > 0)
      if (batch.length > 0) {
        yield* Effect.catch(this.ask(batch), (error) => Effect.logWarning("receipts from elsewhere are put off", error))
      }
      for (const asked of batch) {
        asked.pauseMillis = Math.min(asked.pauseMillis * 2, longestPause)
        asked.dueAt = this.options.now() + asked.pauseMillis
      }
    }
  })

  readonly loop = Effect.gen({ self: this }, function*() {
    while (true) {
      if (this.watches.size === 0) yield* this.work.wait
      else {
        yield* Effect.sleep(shortestPause)
        yield* this.round()
      }
    }
  })

  /** Follows the messages of one outbox. */
  of(session: string, epoch: string): RemoteOutbox {
    return {
      watch: (tracked) => this.watch(session, epoch, tracked),
      unwatch: (tracked) => this.unwatch(session, epoch, tracked)
    }
  }

  /** How many outboxes are being asked about. */
  size(): number {
    return this.watches.size
  }
}

const keyOf = (session: string, epoch: string): string => `${epoch} ${session}`

const lowestOf = (tracked: ReadonlySet<Tracked>): number => {
  let lowest = Infinity
  for (const { offset } of tracked) lowest = Math.min(lowest, offset)
  return lowest
}

/** The fate of the message at `offset`; undefined while it is open. */
export const fateOf = (offset: number, { acked, dead }: Progress): Dead | "handled" | undefined => {
  for (const { end, first, maybeHandled, reason } of dead) {
    if (first <= offset && offset <= end) return { reason, maybeHandled }
  }
  return offset <= acked ? "handled" : undefined
}
