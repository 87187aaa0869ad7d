/** What the parts of a stored queue share: each object here is changed by its own methods only. */
import { Effect, Random } from "effect"
import type { Options, OverflowPolicy } from "../../MessageQueue.ts"
import { type QueueBounds, queueBounds } from "../bounds/queueBounds.ts"
import { Shares } from "../bounds/shares.ts"
import * as Check from "../kit/options.ts"
import { Subscribers } from "../kit/subscribers.ts"
import type { Calls } from "./calls.ts"
import { DoubtfulAppends } from "./doubtfulAppends.ts"
import type { StoreDriver } from "./driver.ts"
import { DoubtLedger, type GivingUp, makeGivingUp, shareOf } from "./givingUp.ts"
import { GoneFates } from "./goneFates.ts"
import type { StoreHistory } from "./history.ts"
import { type Logs, makeLogs } from "./logs.ts"
import { type LostTail, makeLostTail } from "./lostTail.ts"
import type { Members } from "./members.ts"
import { MovedLogs } from "./movedLogs.ts"
import { makeOutboxReader, type OutboxReader } from "./outboxReader.ts"
import { QueueTotals } from "./queueTotals.ts"
import { Removals } from "./removals.ts"
import type { StoredLog } from "./storedLog.ts"
import { Untold } from "./untold.ts"

export interface QueuePartsOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly history: StoreHistory
  readonly queue: Options
  readonly cacheBytes: number
}

export interface QueueParts {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly history: StoreHistory
  readonly bounds: QueueBounds
  readonly overflow: OverflowPolicy
  readonly shares: Shares
  /** The outboxes that this server has opened. */
  readonly logs: Logs
  /** Those of `logs` that other servers have opened since. */
  readonly moved: MovedLogs
  readonly totals: QueueTotals
  readonly reader: OutboxReader
  readonly givingUp: GivingUp
  readonly tail: LostTail
  /** What owners were giving up when something failed. */
  readonly ownDoubts: DoubtLedger<StoredLog>
  /** What senders were dropping to make room when something failed. */
  readonly roomDoubts: DoubtLedger<string>
  readonly doubtful: DoubtfulAppends
  readonly untold: Untold
  readonly removals: Removals
  readonly gone: GoneFates
  readonly onAppend: Subscribers<string>
  readonly onMoved: Subscribers<string, number>
}

export const makeQueueParts = Effect.fnUntraced(function*(options: QueuePartsOptions) {
  const { call, driver, history, members, queue } = options
  const random = yield* Random.Random
  const bounds = queueBounds(queue, Check.count("maxTotalBytes", queue.maxTotalBytes, 256 * 1024 * 1024))
  const shares = new Shares(bounds)
  const logs = makeLogs(options.cacheBytes, shares)
  const moved = new MovedLogs()
  const totals = new QueueTotals(yield* call("totals", driver.totals))
  const reader = makeOutboxReader(driver, call)
  const gone = new GoneFates()
  const onAppend = new Subscribers<string>()
  const givingUp = makeGivingUp({
    driver,
    call,
    now: members.now,
    share: shareOf(random),
    reader,
    gone: (session) => gone.of(session),
    onGivenUp: ({ bytes }) => totals.left(1, bytes)
  })
  const tail = yield* makeLostTail({
    driver,
    call,
    members,
    logs,
    reader,
    isOwned: (log) => !moved.has(log),
    onNews: (session) => onAppend.tell(session)
  })
  const parts: QueueParts = {
    driver,
    call,
    members,
    history,
    bounds,
    overflow: queue.overflow ?? "reject",
    shares,
    logs,
    moved,
    totals,
    reader,
    givingUp,
    tail,
    ownDoubts: new DoubtLedger(),
    roomDoubts: new DoubtLedger(),
    doubtful: new DoubtfulAppends(),
    untold: new Untold(),
    removals: new Removals(),
    gone,
    onAppend,
    onMoved: new Subscribers()
  }
  return parts
})
