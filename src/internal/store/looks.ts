/** What others do to outboxes opened here: this server looks when it is nudged, and in rounds. */
import { Duration, Effect } from "effect"
import type { StoreError } from "./driver.ts"
import type { OutboxState } from "./outboxes.ts"
import type { QueueParts } from "./queueParts.ts"
import type { StoredLog } from "./storedLog.ts"

/** How many outboxes one call asks for. */
const lookSize = 500
/** After this many rounds, all outboxes have been looked at. */
const roundsOfLooks = 12
/** How often the totals of all outboxes are asked for. */
const totalsMillis = 5_000
/** How long a session is remembered to have moved away. */
const movedMillis = 60_000
/** How long what a removal took out is kept for its next try. */
export const removalMillis = 60_000

/** Looks as long as the scope is open. */
export const startLooks = Effect.fnUntraced(function*(parts: QueueParts) {
  const { history, logs, members } = parts
  members.onNudges((sessions) => Effect.ignore(look(parts, sessions)))
  members.onRejoin(Effect.suspend(() => lookAt(parts, logs.sessions())))
  history.onChange(putBack(parts))
  // A failed round is followed by the next, whatever the failure.
  yield* Effect.forkScoped(
    Effect.forever(
      Effect.catchCause(round(parts), (cause) => Effect.logDebug("a look into the store is put off", cause))
    ),
    { startImmediately: true }
  )
})

const round = Effect.fnUntraced(function*(parts: QueueParts): Effect.fn.Return<void, StoreError> {
  const { call, doubtful, driver, logs, moved, totals } = parts
  yield* Effect.sleep(Duration.millis(totalsMillis))
  totals.renewed(yield* call("totals", driver.totals))
  forgetOld(parts)
  // Nudges may be lost with their sender, or with the answer that brought them: so each outbox is looked at once a
  // minute.
  const next = logs.takeNext(lookSize, roundsOfLooks).filter((log) => !moved.has(log))
  yield* lookAt(parts, next.map(({ session }) => session))
  const sessions = doubtful.first(lookSize)
  yield* look(parts, sessions)
  doubtful.looked(sessions)
})

const forgetOld = ({ gone, logs, members: { steady }, moved, removals }: QueueParts): void => {
  const now = steady()
  removals.sweep(now - removalMillis)
  gone.sweep(now - removalMillis)
  for (const log of moved.take(now - movedMillis)) if (logs.get(log.session) === log) logs.forget(log.session)
}

const lookAt = (parts: QueueParts, sessions: ReadonlyArray<string>): Effect.Effect<void, StoreError> =>
  Effect.forEach(slicesOf(sessions), (slice) => look(parts, slice), { discard: true })

const slicesOf = <A>(all: ReadonlyArray<A>): ReadonlyArray<ReadonlyArray<A>> =>
  Array.from({ length: Math.ceil(all.length / lookSize) }, (_, i) => all.slice(i * lookSize, (i + 1) * lookSize))

/** Looks at what became of these outboxes, and tells listeners. */
const look = (parts: QueueParts, sessions: ReadonlyArray<string>): Effect.Effect<void, StoreError> => {
  const { call, driver, history, logs, tail } = parts
  const mine = sessions.flatMap((session) => logs.get(session) ?? [])
  if (mine.length === 0) return Effect.void
  const known = mine.map(({ acked, reach }) => ({ acked, reach }))
  return Effect.flatMap(call("outboxes", driver.outboxes(mine.map(({ session }) => session))), (states) => {
    const found = new Map(states.map((state) => [state.session, state]))
    const behind: Array<StoredLog> = []
    const missing = mine.filter(({ session }) => !found.has(session))
    mine.forEach((log, index) => {
      const state = found.get(log.session)
      if (state !== undefined) hear(parts, log.session, state)
      const isOwn = state !== undefined && state.generation <= log.generation && logs.get(log.session) === log
      // An outbox that is just being opened is settled by what its peer says.
      if (isOwn && log.isCertain && tail.isBehind(log, known[index] ?? log, state)) behind.push(log)
    })
    const settled = Effect.forEach(
      behind,
      (log) =>
        Effect.catchTag(
          Effect.asVoid(tail.settle(log, 0)),
          "resilient-websocket/MessageQueueError",
          ({ reason }) => reason === "fenced" ? hearAgain(parts, log) : Effect.void
        ),
      { concurrency: 16, discard: true }
    )
    if (missing.length === 0) return settled
    // They ended, or the store has lost them: those are put back after all others are looked at.
    const told = Effect.forEach(
      missing,
      ({ session }) =>
        Effect.map(history.endedOrMissed(session), (isEnded) => {
          if (isEnded) hear(parts, session, undefined)
        }),
      { concurrency: 16, discard: true }
    )
    return Effect.andThen(settled, told)
  })
}

/** Somebody has opened the outbox since the look: another server, or this one by a newer attachment. */
const hearAgain = (parts: QueueParts, log: StoredLog): Effect.Effect<void, StoreError> => {
  const { call, driver, logs } = parts
  return Effect.map(call("outboxes", driver.outboxes([log.session])), ([state]) => {
    if (logs.get(log.session) !== log) return
    if (state?.epoch === log.epoch) hear(parts, log.session, state)
    else leave(parts, log, Infinity)
  })
}

/** The outbox's state is this now; undefined means that it is gone. */
const hear = (parts: QueueParts, session: string, state: OutboxState | undefined): void => {
  const { logs, onAppend } = parts
  const log = logs.get(session)
  if (log === undefined) return
  const generation = state?.generation ?? Infinity
  if (state !== undefined && generation === log.generation) {
    const isNews = logs.tracked(log, () => log.refresh(state))
    logs.schedule(log)
    if (isNews) onAppend.tell(session)
  } else if (generation > log.generation) leave(parts, log, generation)
}

/** The outbox has another owner, or has been replaced by another outbox. */
const leave = ({ members, moved, onMoved }: QueueParts, log: StoredLog, generation: number): void => {
  moved.note(log, members.steady())
  onMoved.tell(log.session, generation)
}

/** Puts back outboxes that the store has lost, each under the identity it had. */
const putBack = (parts: QueueParts): Effect.Effect<void, StoreError> => {
  const { call, driver, history, logs, moved, tail } = parts
  const remake = Effect.fnUntraced(function*(some: ReadonlyArray<StoredLog>) {
    const sessions = some.map(({ session }) => session)
    const states = yield* call("outboxes", driver.outboxes(sessions))
    const found = new Set(states.map(({ session }) => session))
    for (const log of some) {
      if (!found.has(log.session) && !(yield* history.wasEnded(log.session))) yield* tail.reopen(log)
    }
    yield* look(parts, sessions)
  })
  return Effect.suspend(() => {
    const own = logs.sessions().flatMap((session) => logs.get(session) ?? []).filter((log) => !moved.has(log))
    return Effect.forEach(slicesOf(own), remake, { discard: true })
  })
}
