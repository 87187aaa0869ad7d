/**
 * `StoreDriver` in memory: the reference that real drivers are compared with, and a store for tests of what stands on
 * drivers. Simple, not fast, and nothing is bounded. Several drivers on one database are several servers.
 *
 * Where driver.ts leaves a choice, the one made here is what `driverLaws.ts` asks of all:
 *
 * - `append` asks in this order: is the outbox there, the publish key, the outbox's bounds, the bound on keys.
 * - For `append` under a publish key, "now" is `enqueuedAt`. A claim is over at `until`, not after it.
 * - Keys are as old as their commit (`now`, or `enqueuedAt`), whatever the receipt says.
 * - The same claim or commit again, with the same token, succeeds again.
 * - Acks may come between the read and the `giveUp` that is made of it, so gaps that it adds are cut at `acked`, and
 *   stored gaps that these cover go, also when an ack has cut them and `removeGaps` names their old `first`.
 * - A position behind the stored one is `Behind`; the same again is `Saved` unless `strict`.
 * - A session that comes twice in a batch of acks or positions is taken in order.
 */
import { Clock, Effect } from "effect"
import type { Receipt } from "../../src/Deduplicator.ts"
import { type StoreDriver, StoreError } from "../../src/internal/store/driver.ts"
import {
  type AckOutcome,
  type AckRequest,
  type AdvanceRequest,
  type AppendRequest,
  type AppendResult,
  type Chunk,
  type Conditional,
  type Fate,
  type Gap,
  type GiveUpRequest,
  isSwept,
  type OpenRequest,
  type OutboxState,
  type ReadPage,
  type ReadRequest,
  type Stamp,
  sweptFate
} from "../../src/internal/store/outboxes.ts"
import type {
  ClaimKeyRequest,
  ClaimKeyResult,
  KeyClaim,
  KeyTarget,
  PublishKey
} from "../../src/internal/store/publishKeys.ts"
import type { PositionOutcome, PositionRequest, PutOutcome, SessionRow } from "../../src/internal/store/sessions.ts"

interface Outbox {
  /** Its `settled` says nothing: that follows from `history`. */
  state: OutboxState
  /** In which it was settled, and how far it went then. */
  history: string | undefined
  settledAt: number | undefined
  /** In which `unsettledFrom` was noted. */
  unsettledIn: string | undefined
  chunks: ReadonlyArray<Chunk>
  gaps: ReadonlyArray<Gap>
  fates: ReadonlyArray<Fate>
}

interface Session {
  readonly row: SessionRow
  readonly position: PositionRequest | undefined
}

interface Key {
  readonly fingerprint: string | undefined
  readonly token: string | undefined
  /** When the claim ends. */
  readonly until: number
  readonly committed: { readonly receipt: Receipt; readonly at: number } | undefined
}

interface Batch {
  readonly sequence: number
  readonly results: ReadonlyArray<AppendResult>
}

/** What drivers share. */
export interface MemoryDatabase {
  readonly outboxes: Map<string, Outbox>
  readonly sessions: Map<string, Session>
  /** Sessions that were ended, until when that is known. */
  readonly ended: Map<string, number>
  readonly keys: Map<string, Key>
  /** The newest batch of each writer. */
  readonly batches: Map<string, Batch>
  readonly nodes: Map<string, number>
  readonly nudges: Map<string, Set<string>>
  readonly listeners: Set<{ readonly node: string; readonly listener: () => void }>
  /** The history of the database, under its only key. */
  readonly history: Map<"now", string>
}

/** A database with nothing in it. */
export const makeMemoryDatabase = (): MemoryDatabase => ({
  outboxes: new Map(),
  sessions: new Map(),
  ended: new Map(),
  keys: new Map(),
  batches: new Map(),
  nodes: new Map(),
  nudges: new Map(),
  listeners: new Set(),
  history: new Map([["now", "1"]])
})

/** One server's driver. */
export const makeMemoryDriver = (database: MemoryDatabase): StoreDriver => {
  const { batches, ended, keys, listeners, nodes, nudges, outboxes, sessions } = database

  const nudge = (node: string, session: string): void => {
    const waiting = nudges.get(node) ?? new Set()
    nudges.set(node, waiting.add(session))
    for (const watcher of listeners) if (watcher.node === node) watcher.listener()
  }

  // --- outboxes

  const historyNow = (): string => database.history.get("now") ?? ""

  const stateOf = (outbox: Outbox): OutboxState => ({ ...outbox.state, settled: outbox.history === historyNow() })

  const openOutbox = ({ generation, isPutBack, newEpoch, node, session }: OpenRequest): OutboxState => {
    const outbox = outboxes.get(session) ??
      {
        state: emptyState(session, newEpoch),
        history: isPutBack === true ? undefined : historyNow(),
        settledAt: undefined,
        unsettledIn: undefined,
        chunks: [],
        gaps: [],
        fates: []
      }
    if (outbox.state.generation > generation) return stateOf(outbox)
    outbox.state = { ...outbox.state, generation, node, revision: outbox.state.revision + 1 }
    outboxes.set(session, outbox)
    return stateOf(outbox)
  }

  /** Takes the offsets up to `upTo` that are not there; how many. */
  const take = (outbox: Outbox, upTo: number, at: number): number => {
    const { last } = outbox.state
    if (upTo <= last) return 0
    outbox.gaps = [...outbox.gaps, { first: last + 1, end: upTo, reason: "fresh" }]
    note(outbox, [{ first: last + 1, end: upTo, reason: "fresh", maybeHandled: true, at }])
    update(outbox, { last: upTo })
    return upTo - last
  }

  /** What the peer may have seen goes up to `from` at most. */
  const settle = (outbox: Outbox, from: number): void => {
    outbox.history = historyNow()
    outbox.settledAt = from
    outbox.state = { ...outbox.state, unsettledFrom: undefined }
  }

  /** Whether it is settled for the owner of a generation: not for one whose opening the store has lost. */
  const isSettledFor = (outbox: Outbox, generation: number | undefined): boolean =>
    outbox.history === historyNow() && !((generation ?? 0) > outbox.state.generation)

  /** What comes after `from` goes, up to `last`. */
  const drop = (outbox: Outbox, from: number, last: number): void => {
    if (from >= last) return
    outbox.chunks = outbox.chunks.filter(({ last }) => last <= from)
    outbox.gaps = [
      ...outbox.gaps.flatMap((gap) => gap.first > from ? [] : [{ ...gap, end: Math.min(gap.end, from) }]),
      { first: from + 1, end: last, reason: "fresh" }
    ]
    update(outbox, { last, revision: outbox.state.revision + 1 })
  }

  /** What was appended in this history, and is to be moved behind what the peer has seen, comes after this. */
  const firstUnsettled = ({ history, settledAt, state }: Outbox): number =>
    Math.max(state.acked, (history === historyNow() ? settledAt : state.unsettledFrom) ?? Infinity)

  const appendOne = (request: AppendRequest, node: string): AppendResult => {
    const { body, bytes, count, enqueuedAt, expiresAt, publish, session } = request
    const outbox = outboxes.get(session)
    if (outbox === undefined) return { _tag: "Missing" }
    const known = request.known?.epoch === outbox.state.epoch ? request.known.last : 0
    const settled = isSettledFor(outbox, request.generation)
    const isOwner = request.generation === outbox.state.generation
    const from = firstUnsettled(outbox)
    const settles = isOwner &&
      (request.unsettled === "moved" ? outbox.state.last <= known : request.unsettled === "settle" && from === Infinity)
    if (!settled && !settles && request.unsettled !== "allow") return { _tag: "Unsettled", node: outbox.state.node }
    const used = publish === undefined ? undefined : usedKey(publish, enqueuedAt)
    if (used !== undefined) return used._tag === "Mismatch" ? { _tag: "Mismatch" } : used

    const { state } = outbox
    const full = (limit: "messages" | "bytes"): AppendResult => (
      { _tag: "Full", limit, messages: state.messages, bytes: state.bytes }
    )
    if (state.messages + count > request.maxMessages) return full("messages")
    if (state.bytes + bytes > request.maxBytes) return full("bytes")
    if (publish !== undefined && keysFull(publish, enqueuedAt)) return { _tag: "KeysFull" }

    if (!settled && request.unsettled === "moved") drop(outbox, from, known)
    const before = outbox.state.last
    if (outbox.history !== historyNow() && !settles) {
      outbox.unsettledIn = historyNow()
      outbox.state = { ...state, unsettledFrom: state.unsettledFrom ?? before }
    }
    const lost = take(outbox, known, enqueuedAt)
    if (!settled && settles) {
      settle(outbox, request.unsettled === "moved" ? before + lost : Math.min(from, before + lost))
    }
    const first = before + lost + 1
    const last = before + lost + count
    outbox.chunks = [...outbox.chunks, { first, last, bytes, enqueuedAt, expiresAt, body }]
    update(outbox, { last, expiresAt: Math.min(state.expiresAt, expiresAt) })
    if (publish !== undefined) {
      const receipt = { messageId: publish.key, epoch: state.epoch, offset: first, atMillis: enqueuedAt }
      const { fingerprint } = publish
      keys.set(keyOf(publish), {
        fingerprint,
        token: undefined,
        until: enqueuedAt,
        committed: { receipt, at: enqueuedAt }
      })
    }
    if (state.node !== undefined && state.node !== node) nudge(state.node, session)
    return { _tag: "Appended", epoch: state.epoch, first, ...(lost > 0 ? { lost } : {}) }
  }

  const append = (
    requests: ReadonlyArray<AppendRequest>,
    stamp: Stamp | undefined,
    node: string
  ): ReadonlyArray<AppendResult> | StoreError => {
    const before = stamp === undefined ? undefined : batches.get(stamp.writer)
    if (stamp !== undefined && before !== undefined) {
      if (before.sequence === stamp.sequence) return before.results
      if (before.sequence > stamp.sequence) return new StoreError("append", `${before.sequence} came before`)
    }
    const results = requests.map((request) => appendOne(request, node))
    if (stamp !== undefined) batches.set(stamp.writer, { sequence: stamp.sequence, results })
    return results
  }

  const read = ({ after, maxBytes, maxChunks, session }: ReadRequest): ReadPage | undefined => {
    const outbox = outboxes.get(session)
    if (outbox === undefined) return undefined
    const beyond = outbox.chunks.filter(({ last }) => last > after)
    const chunks: Array<Chunk> = []
    let size = 0
    for (const chunk of beyond) {
      size += chunk.body.length
      if (chunks.length > 0 && (chunks.length === maxChunks || size > maxBytes)) break
      chunks.push(chunk)
    }
    return {
      state: stateOf(outbox),
      chunks,
      gaps: outbox.gaps.filter(({ end }) => end > after),
      more: chunks.length < beyond.length
    }
  }

  const ack = ({ fates, generation, session, upTo }: AckRequest): AckOutcome => {
    const outbox = outboxes.get(session)
    if (outbox === undefined) return { _tag: "Missing" }
    if (outbox.state.generation > generation) return { _tag: "Fenced" }
    const { last } = outbox.state
    if (!isSettledFor(outbox, generation) && upTo > outbox.state.acked) return { _tag: "Unsettled" }
    const acked = Math.max(outbox.state.acked, upTo)
    const before = outbox.state.messages
    outbox.chunks = outbox.chunks.filter(({ last }) => last > acked)
    outbox.gaps = beyond(outbox.gaps, acked)
    note(outbox, fates)
    const lost = Math.max(0, upTo - last)
    update(outbox, { acked, last: last + lost })
    return { _tag: "Acked", released: before - outbox.state.messages, ...(lost > 0 ? { lost } : {}) }
  }

  const giveUp = (request: GiveUpRequest): Conditional => {
    const outbox = outboxes.get(request.session)
    if (outbox === undefined) return { _tag: "Missing" }
    const refused = refusal(outbox.state, request.generation, request.revision)
    if (refused !== undefined) return refused
    const added = beyond(request.addGaps, outbox.state.acked)
    outbox.chunks = outbox.chunks.filter(({ last }) => !request.removeChunks.includes(last))
    outbox.gaps = [
      ...outbox.gaps.filter((gap) =>
        !request.removeGaps.includes(gap.first) && !added.some((cover) => covers(cover, gap))
      ),
      ...added
    ].sort(byFirst)
    note(outbox, request.fates)
    const revision = outbox.state.revision + 1
    update(outbox, { revision, expiresAt: request.expiresAt ?? outbox.state.expiresAt })
    return { _tag: "Done", revision }
  }

  const markSent = (session: string, generation: number, revision: number, sent: number): Conditional => {
    const outbox = outboxes.get(session)
    if (outbox === undefined) return { _tag: "Missing" }
    const refused = refusal(outbox.state, generation, revision)
    if (refused !== undefined) return refused
    update(outbox, { sent, revision: revision + 1 })
    return { _tag: "Done", revision: revision + 1 }
  }

  const advance = ({ at, generation, isMoved, last, session, settledIn }: AdvanceRequest) => {
    const outbox = outboxes.get(session)
    if (outbox === undefined) return undefined
    if (outbox.state.generation > generation) return { state: stateOf(outbox), lost: 0 }
    if (settledIn !== undefined && outbox.unsettledIn === settledIn) {
      outbox.state = { ...outbox.state, unsettledFrom: undefined }
    }
    const isSettled = isSettledFor(outbox, generation)
    const from = firstUnsettled(outbox)
    const lost = take(outbox, last, at)
    if (isMoved && !isSettled && outbox.state.last <= last) settle(outbox, last)
    else if (!isSettled && from >= last) settle(outbox, Math.min(from, outbox.state.last))
    else if (!isSettled) {
      if (outbox.history === historyNow()) outbox.unsettledIn = undefined
      outbox.history = undefined
      outbox.state = { ...outbox.state, unsettledFrom: from }
    }
    return { state: stateOf(outbox), lost }
  }

  const removeOutbox = (session: string, last: number, revision: number | undefined): boolean => {
    const outbox = outboxes.get(session)
    if (outbox !== undefined && outbox.state.last > last) return false
    if (outbox !== undefined && outbox.state.revision !== (revision ?? outbox.state.revision)) return false
    outboxes.delete(session)
    return true
  }

  const sweepFates = (before: number, limit: number): number => {
    let swept = 0
    for (const outbox of outboxes.values()) {
      const over = outbox.fates.filter(({ at }) => at < before).slice(0, limit - swept)
      if (over.length === 0) continue
      const earlier = outbox.fates.find(isSwept)
      const left = sweptFate(Math.max(earlier?.end ?? 0, ...over.map(({ end }) => end)))
      outbox.fates = [left, ...outbox.fates.filter((fate) => fate !== earlier && !over.includes(fate))]
      swept += over.length
    }
    return swept
  }

  // --- sessions

  const putSession = (row: SessionRow): PutOutcome => {
    const stored = sessions.get(row.id)
    if (row.revision !== (stored?.row.revision ?? 0) + 1) return { _tag: "Conflict" }
    sessions.set(row.id, { row, position: stored?.position })
    if (stored === undefined) ended.delete(row.id)
    return { _tag: "Stored", position: stored?.position?.position }
  }

  const savePosition = (request: PositionRequest): PositionOutcome => {
    const stored = sessions.get(request.session)
    if (stored === undefined) return "Missing"
    if (stored.row.generation > request.generation) return "Fenced"
    const { position } = stored
    if (position !== undefined && position.epoch === request.epoch) {
      if (position.handled > request.handled) return "Behind"
      if (request.strict && position.handled === request.handled) return "Behind"
    }
    sessions.set(request.session, { row: stored.row, position: request })
    return "Saved"
  }

  const rows = (where: (row: SessionRow) => boolean): Array<SessionRow> =>
    [...sessions.values()].map(({ row }) => row).filter(where)

  // --- publish keys

  const liveKey = (target: KeyTarget, forgottenBefore: number, now: number): Key | undefined => {
    const key = keys.get(keyOf(target))
    return key !== undefined && isLive(key, forgottenBefore, now) ? key : undefined
  }

  /** Why an effect under this key must not be done now. */
  const usedKey = (request: PublishKey, now: number) => {
    const key = liveKey(request, request.forgottenBefore, now)
    if (key === undefined) return undefined
    const receipt = key.committed?.receipt
    if (differ(key.fingerprint, request.fingerprint)) return { _tag: "Mismatch", receipt } as const
    if (receipt !== undefined) return { _tag: "Duplicate", receipt } as const
    return { _tag: "InFlight", until: key.until } as const
  }

  const keysFull = ({ forgottenBefore, maxKeys }: PublishKey, now: number): boolean =>
    [...keys.values()].filter((key) => isLive(key, forgottenBefore, now)).length >= maxKeys

  const claimKey = (request: ClaimKeyRequest): ClaimKeyResult => {
    const { fingerprint, forgottenBefore, now, token, until } = request
    const held = liveKey(request, forgottenBefore, now)
    const isAgain = held !== undefined && held.committed === undefined && held.token === token
    if (!isAgain) {
      const used = usedKey(request, now)
      if (used !== undefined) return used
      if (keysFull(request, now)) return { _tag: "Full" }
    }
    keys.set(keyOf(request), { fingerprint, token, until, committed: undefined })
    return { _tag: "Claimed" }
  }

  /** The key that this token has claimed, unless the lease is over. */
  const heldKey = (claim: KeyClaim): Key | undefined => {
    const key = keys.get(keyOf(claim))
    const isHeld = key !== undefined && key.token === claim.token && key.committed === undefined
    return isHeld && key.until > claim.now ? key : undefined
  }

  const renewKey = (claim: KeyClaim & { readonly until: number }): boolean => {
    const key = heldKey(claim)
    if (key === undefined) return false
    keys.set(keyOf(claim), { ...key, until: claim.until })
    return true
  }

  const commitKey = (claim: KeyClaim & { readonly receipt: Receipt }): boolean => {
    const stored = keys.get(keyOf(claim))
    if (stored?.committed !== undefined) return stored.token === claim.token
    const key = heldKey(claim)
    if (key === undefined) return false
    keys.set(keyOf(claim), { ...key, committed: { receipt: claim.receipt, at: claim.now } })
    return true
  }

  const releaseKey = (claim: KeyTarget & { readonly token: string }): void => {
    const key = keys.get(keyOf(claim))
    if (key?.token === claim.token && key.committed === undefined) keys.delete(keyOf(claim))
  }

  const sweepKeys = (forgottenBefore: number, now: number, limit: number): number => {
    const over = [...keys].filter(([, key]) => !isLive(key, forgottenBefore, now)).slice(0, limit)
    for (const [id] of over) keys.delete(id)
    return over.length
  }

  // --- nodes

  const forgetNode = (node: string): void => {
    nodes.delete(node)
    nudges.delete(node)
    for (const writer of batches.keys()) {
      if (writer === node || writer.startsWith(`${node}/`)) batches.delete(writer)
    }
  }

  const takeNudges = (node: string, limit: number): ReadonlyArray<string> => {
    const waiting = nudges.get(node) ?? new Set()
    const taken = [...waiting].slice(0, limit)
    for (const session of taken) waiting.delete(session)
    return taken
  }

  return {
    name: "memory",
    clock: Clock.currentTimeMillis,
    history: Effect.sync(historyNow),
    transaction: undefined,

    openOutbox: (request) => Effect.sync(() => openOutbox(request)),
    append: (requests, stamp, node) =>
      Effect.suspend(() => {
        const results = append(requests, stamp, node)
        return results instanceof StoreError ? Effect.fail(results) : Effect.succeed(results)
      }),
    read: (request) => Effect.sync(() => read(request)),
    ack: (requests) => Effect.sync(() => requests.map(ack)),
    giveUp: (request) => Effect.sync(() => giveUp(request)),
    markSent: ({ generation, revision, sent, session }) =>
      Effect.sync(() => markSent(session, generation, revision, sent)),
    advance: (request) => Effect.sync(() => advance(request)),
    removeOutbox: (session, last, revision) => Effect.sync(() => removeOutbox(session, last, revision)),
    outboxes: (wanted) =>
      Effect.sync(() =>
        wanted.flatMap((session) => {
          const outbox = outboxes.get(session)
          return outbox === undefined ? [] : [stateOf(outbox)]
        })
      ),
    fates: (session, first, end) =>
      Effect.sync(() => (outboxes.get(session)?.fates ?? []).filter((fate) => fate.first <= end && fate.end >= first)),
    sweepFates: (before, limit) => Effect.sync(() => sweepFates(before, limit)),
    totals: Effect.sync(() => {
      const totals = { sessions: outboxes.size, messages: 0, bytes: 0 }
      for (const { state } of outboxes.values()) {
        totals.messages += state.messages
        totals.bytes += state.bytes
      }
      return totals
    }),

    findSession: (id) => Effect.sync(() => sessions.get(id)?.row),
    putSession: (row) => Effect.sync(() => putSession(row)),
    savePositions: (requests) => Effect.sync(() => requests.map(savePosition)),
    deleteSession: (id, tombstone) =>
      Effect.sync(() => {
        if (tombstone !== undefined) {
          for (const [other, until] of ended) if (until <= tombstone.at) ended.delete(other)
          ended.set(id, tombstone.until)
        }
        return sessions.delete(id)
      }),
    wasEnded: (id, at) => Effect.sync(() => (ended.get(id) ?? -Infinity) > at),
    detachedBefore: (at, limit) =>
      Effect.sync(() => {
        const since = ({ detachedAt = Infinity }: SessionRow) => detachedAt
        return rows(({ detachedAt }) => detachedAt !== undefined && detachedAt <= at)
          .sort((a, b) => since(a) - since(b))
          .slice(0, limit)
      }),
    sessionsOf: (node, limit) => Effect.sync(() => rows((row) => row.node === node).slice(0, limit)),
    sessionsOfPrincipal: (principal, limit) =>
      Effect.sync(() =>
        rows((row) => row.principal === principal && !row.ending)
          .sort((a, b) => (b.detachedAt ?? Infinity) - (a.detachedAt ?? Infinity) || 0)
          .slice(0, limit)
      ),
    countSessions: Effect.sync(() => ({
      sessions: sessions.size,
      attached: rows(({ detachedAt }) => detachedAt === undefined).length
    })),

    touchNode: (node, at) => Effect.sync(() => void nodes.set(node, at)),
    nodes: Effect.sync(() => [...nodes].map(([node, seenAt]) => ({ node, seenAt }))),
    forgetNode: (node) => Effect.sync(() => forgetNode(node)),

    claimKey: (request) => Effect.sync(() => claimKey(request)),
    renewKey: (claim) => Effect.sync(() => renewKey(claim)),
    commitKey: (claim) => Effect.sync(() => commitKey(claim)),
    releaseKey: (claim) => Effect.sync(() => releaseKey(claim)),
    lookupKey: (target, forgottenBefore) =>
      Effect.sync(() => liveKey(target, forgottenBefore, Infinity)?.committed?.receipt),
    sweepKeys: (forgottenBefore, now, limit) => Effect.sync(() => sweepKeys(forgottenBefore, now, limit)),
    countKeys: (forgottenBefore, now) =>
      Effect.sync(() => {
        const live = [...keys.values()].filter((key) => isLive(key, forgottenBefore, now))
        const committed = live.filter(({ committed }) => committed !== undefined).length
        return { keys: committed, inFlight: live.length - committed }
      }),

    nudge: (node, session) => Effect.sync(() => nudge(node, session)),
    takeNudges: (node, limit) => Effect.sync(() => takeNudges(node, limit)),
    watch: (node, listener) => {
      const watcher = { node, listener }
      return Effect.acquireRelease(
        Effect.sync(() => void listeners.add(watcher)),
        () => Effect.sync(() => void listeners.delete(watcher))
      )
    },
    warnings: Effect.succeed([])
  }
}

const emptyState = (session: string, epoch: string): OutboxState => ({
  session,
  generation: 0,
  epoch,
  acked: 0,
  last: 0,
  messages: 0,
  bytes: 0,
  sent: 0,
  revision: 0,
  expiresAt: Infinity,
  node: undefined,
  settled: true,
  unsettledFrom: undefined
})

/** Changes the state, with `messages` and `bytes` counted anew from what is there. */
const update = (outbox: Outbox, changes: Partial<OutboxState>): void => {
  const state = { ...outbox.state, ...changes }
  const given = outbox.gaps.reduce((sum, { end, first }) => sum + end - first + 1, 0)
  const bytes = outbox.chunks.reduce((sum, chunk) => sum + chunk.bytes, 0)
  outbox.state = { ...state, messages: state.last - state.acked - given, bytes }
}

/** The parts of gaps that are beyond `acked`. */
const beyond = (gaps: ReadonlyArray<Gap>, acked: number): ReadonlyArray<Gap> =>
  gaps.filter(({ end }) => end > acked).map((gap) => ({ ...gap, first: Math.max(gap.first, acked + 1) }))

const covers = (outer: Gap, inner: Gap): boolean => outer.first <= inner.first && outer.end >= inner.end

const byFirst = (a: { readonly first: number }, b: { readonly first: number }): number => a.first - b.first

/** A fate that is noted again replaces itself. */
const note = (outbox: Outbox, fates: ReadonlyArray<Fate>): void => {
  const kept = outbox.fates.filter(({ first }) => !fates.some((fate) => fate.first === first))
  outbox.fates = [...kept, ...fates].sort(byFirst)
}

const refusal = (state: OutboxState, generation: number | undefined, revision: number): Conditional | undefined => {
  if (generation !== undefined && state.generation > generation) return { _tag: "Fenced" }
  return state.revision === revision ? undefined : { _tag: "Conflict" }
}

const keyOf = ({ key, scope }: KeyTarget): string => JSON.stringify([scope, key])

const isLive = (key: Key, forgottenBefore: number, now: number): boolean =>
  key.committed === undefined ? key.until > now : key.committed.at >= forgottenBefore

const differ = (a: string | undefined, b: string | undefined): boolean => a !== undefined && b !== undefined && a !== b
