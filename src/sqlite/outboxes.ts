/** Outboxes: chunks, gaps and fates, and the state kept beside them. Synchronous, inside a transaction. */
import type { FateReason, GapReason } from "../core/Protocol.ts"
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
  type MarkSentRequest,
  type OpenRequest,
  type OutboxState,
  type ReadPage,
  type ReadRequest,
  sweptFate
} from "../internal/store/outboxes.ts"
import type { Keys } from "./keys.ts"
import type { Nodes } from "./nodes.ts"
import type { Prepare } from "./queries.ts"
import type { Names } from "./schema.ts"
import type { Totals } from "./totals.ts"

interface OutboxRow {
  readonly id: number
  readonly session: string
  readonly generation: number
  readonly epoch: string
  readonly acked: number
  readonly last: number
  readonly messages: number
  readonly bytes: number
  readonly sent: number
  readonly revision: number
  readonly expires_at: number
  readonly node: string | null
}

interface ChunkRow {
  readonly first: number
  readonly last: number
  readonly bytes: number
  readonly enqueued_at: number
  readonly expires_at: number
  readonly body: string
}

interface GapRow {
  readonly first: number
  readonly end: number
  readonly reason: GapReason
}

interface FateRow {
  readonly first: number
  readonly end: number
  readonly reason: FateReason
  readonly maybe_handled: number
  readonly at: number
}

interface Bytes {
  readonly bytes: number
}

interface Services {
  readonly keys: Keys
  readonly nodes: Nodes
  readonly totals: Totals
}

export class Outboxes {
  private readonly keys: Keys
  private readonly nodes: Nodes
  private readonly totals: Totals
  private readonly select
  private readonly create
  private readonly takeOver
  private readonly appended
  private readonly acked
  private readonly gaveUp
  private readonly setSent
  private readonly setLast
  private readonly drop
  private readonly insertChunk
  private readonly selectChunks
  private readonly removeAll
  private readonly removeUpTo
  private readonly removeChunk
  private readonly insertGap
  private readonly selectGaps
  private readonly removeGap
  private readonly removeGapsWithin
  private readonly removeGaps
  private readonly putFate
  private readonly selectFates
  private readonly removeFates
  private readonly dropFates
  private readonly extendSwept

  constructor(prepare: Prepare, { chunk, fate, gap, outbox }: Names, { keys, nodes, totals }: Services) {
    this.keys = keys
    this.nodes = nodes
    this.totals = totals
    this.select = prepare<OutboxRow>(`SELECT * FROM ${outbox} WHERE session = ?`)
    this.create = prepare(
      `INSERT INTO ${outbox} (session, generation, epoch, revision, expires_at, node) VALUES (?, ?, ?, 1, ?, ?)`
    )
    this.takeOver = prepare(`UPDATE ${outbox} SET generation = ?, node = ?, revision = revision + 1 WHERE id = ?`)
    this.appended = prepare(
      `UPDATE ${outbox} SET last = ?, messages = messages + ?, bytes = bytes + ?, expires_at = min(expires_at, ?)
       WHERE id = ?`
    )
    this.acked = prepare(`UPDATE ${outbox} SET acked = ?, messages = messages - ?, bytes = bytes - ? WHERE id = ?`)
    this.gaveUp = prepare(
      `UPDATE ${outbox} SET messages = messages - ?, bytes = bytes - ?, expires_at = ?, revision = ? WHERE id = ?`
    )
    this.setSent = prepare(`UPDATE ${outbox} SET sent = ?, revision = ? WHERE id = ?`)
    this.setLast = prepare(`UPDATE ${outbox} SET last = ? WHERE id = ?`)
    this.drop = prepare(`DELETE FROM ${outbox} WHERE id = ?`)

    this.insertChunk = prepare(
      `INSERT INTO ${chunk} (outbox, first, last, bytes, enqueued_at, expires_at, body) VALUES (?, ?, ?, ?, ?, ?, ?)`
    )
    this.selectChunks = prepare<ChunkRow>(
      `SELECT first, last, bytes, enqueued_at, expires_at, body FROM ${chunk}
       WHERE outbox = ? AND last > ? ORDER BY last`
    )
    this.removeAll = prepare(`DELETE FROM ${chunk} WHERE outbox = ?`)
    this.removeUpTo = prepare<Bytes>(`DELETE FROM ${chunk} WHERE outbox = ? AND last <= ? RETURNING bytes`)
    this.removeChunk = prepare<Bytes>(`DELETE FROM ${chunk} WHERE outbox = ? AND last = ? RETURNING bytes`)

    this.insertGap = prepare(`INSERT INTO ${gap} (outbox, first, "end", reason) VALUES (?, ?, ?, ?)`)
    this.selectGaps = prepare<GapRow>(
      `SELECT first, "end", reason FROM ${gap} WHERE outbox = ? AND "end" > ? ORDER BY first`
    )
    this.removeGap = prepare<GapRow>(`DELETE FROM ${gap} WHERE outbox = ? AND first = ? RETURNING *`)
    this.removeGapsWithin = prepare<GapRow>(
      `DELETE FROM ${gap} WHERE outbox = ? AND first >= ? AND first <= ?3 AND "end" <= ?3 RETURNING *`
    )
    this.removeGaps = prepare(`DELETE FROM ${gap} WHERE outbox = ?`)

    this.putFate = prepare(
      `INSERT INTO ${fate} (outbox, first, "end", reason, maybe_handled, at) VALUES (?, ?, ?, ?, ?, ?)
       ON CONFLICT (outbox, first) DO UPDATE SET "end" = excluded."end", reason = excluded.reason,
         maybe_handled = excluded.maybe_handled, at = excluded.at`
    )
    this.selectFates = prepare<FateRow>(
      `SELECT first, "end", reason, maybe_handled, at FROM ${fate}
       WHERE outbox = (SELECT id FROM ${outbox} WHERE session = ?) AND first <= ? AND "end" >= ? ORDER BY first`
    )
    this.removeFates = prepare(`DELETE FROM ${fate} WHERE outbox = ?`)
    this.dropFates = prepare<{ readonly outbox: number; readonly end: number }>(
      `DELETE FROM ${fate} WHERE (outbox, first) IN (SELECT outbox, first FROM ${fate} WHERE at < ? LIMIT ?)
       RETURNING outbox, "end"`
    )
    this.extendSwept = prepare(
      `INSERT INTO ${fate} (outbox, first, "end", reason, maybe_handled, at) VALUES (?, ?, ?, ?, ?, ?)
       ON CONFLICT (outbox, first) DO UPDATE SET "end" = max("end", excluded."end")`
    )
  }

  open({ generation, newEpoch, node, session }: OpenRequest): OutboxState {
    const row = this.select.get(session)
    if (row === undefined) {
      this.create.run(session, generation, newEpoch, Infinity, node)
      this.totals.add({ outboxes: 1 })
    } else {
      if (row.generation > generation) return toState(row)
      this.takeOver.run(generation, node, row.id)
    }
    return this.state(session)
  }

  /** Appends messages to an outbox; nudges its owner, unless that is `node`. */
  append(request: AppendRequest, node: string): AppendResult {
    const { body, bytes, count, enqueuedAt, expiresAt, publish, session } = request
    const row = this.select.get(session)
    if (row === undefined) return { _tag: "Missing" }
    const refusal = publish && this.keys.appendRefusal(publish, enqueuedAt)
    if (refusal !== undefined) return refusal
    if (row.messages + count > request.maxMessages) return full(row, "messages")
    if (row.bytes + bytes > request.maxBytes) return full(row, "bytes")
    const known = request.known?.epoch === row.epoch ? request.known.last : 0
    const lost = Math.max(0, known - row.last)
    const first = row.last + lost + 1
    if (publish !== undefined && !this.keys.commitAppended(publish, request, row.epoch, first)) {
      return { _tag: "KeysFull" }
    }
    if (lost > 0) this.take(row, known, enqueuedAt)
    const last = first + count - 1
    this.insertChunk.run(row.id, first, last, bytes, enqueuedAt, expiresAt, body)
    this.appended.run(last, count, bytes, expiresAt, row.id)
    this.totals.add({ messages: count, bytes })
    if (row.node !== null && row.node !== node) this.nodes.nudge(row.node, session)
    return { _tag: "Appended", epoch: row.epoch, first, ...(lost > 0 ? { lost } : {}) }
  }

  read({ after, maxBytes, maxChunks, session }: ReadRequest): ReadPage | undefined {
    const row = this.select.get(session)
    if (row === undefined) return undefined
    const chunks: Array<Chunk> = []
    let size = 0
    let more = false
    for (const chunk of this.selectChunks.iterate(row.id, after)) {
      size += chunk.body.length
      more = chunks.length > 0 && (chunks.length >= maxChunks || size > maxBytes)
      if (more) break
      chunks.push(toChunk(chunk))
    }
    const gaps = this.hasGaps(row) ? this.selectGaps.all(row.id, after).map(toGap) : []
    return { state: toState(row), chunks, gaps, more }
  }

  ack({ fates, generation, session, upTo }: AckRequest): AckOutcome {
    const row = this.select.get(session)
    if (row === undefined) return { _tag: "Missing" }
    if (row.generation > generation) return { _tag: "Fenced" }
    this.note(row.id, fates)
    if (upTo <= row.acked) return { _tag: "Acked", released: 0 }
    const isAll = upTo >= row.last
    const released = Math.min(upTo, row.last) - row.acked - (this.hasGaps(row) ? this.cutGaps(row.id, upTo) : 0)
    const bytes = isAll ? row.bytes : sumOf(this.removeUpTo.all(row.id, upTo))
    if (isAll) this.removeAll.run(row.id)
    this.acked.run(upTo, released, bytes, row.id)
    const lost = Math.max(0, upTo - row.last)
    if (lost > 0) this.setLast.run(upTo, row.id)
    this.totals.add({ messages: -released, bytes: -bytes })
    return { _tag: "Acked", released, ...(lost > 0 ? { lost } : {}) }
  }

  giveUp(request: GiveUpRequest): Conditional {
    const row = this.select.get(request.session)
    if (row === undefined) return { _tag: "Missing" }
    const refused = refusal(row, request.generation, request.revision)
    if (refused !== undefined) return refused
    // An ack may have come since the caller read: what it released is no longer given up.
    const added = request.addGaps.filter(({ end }) => end > row.acked)
      .map((gap) => ({ ...gap, first: Math.max(gap.first, row.acked + 1) }))
    let given = 0
    for (const first of request.removeGaps) given -= lengthOf(this.removeGap.all(row.id, first))
    for (const { end, first } of added) given -= lengthOf(this.removeGapsWithin.all(row.id, first, end))
    for (const { end, first, reason } of added) this.insertGap.run(row.id, first, end, reason)
    given += lengthOf(added)
    let bytes = 0
    for (const last of request.removeChunks) bytes += sumOf(this.removeChunk.all(row.id, last))
    this.note(row.id, request.fates)
    const revision = row.revision + 1
    this.gaveUp.run(given, bytes, request.expiresAt ?? row.expires_at, revision, row.id)
    this.totals.add({ messages: -given, bytes: -bytes })
    return { _tag: "Done", revision }
  }

  markSent({ generation, revision, sent, session }: MarkSentRequest): Conditional {
    const row = this.select.get(session)
    if (row === undefined) return { _tag: "Missing" }
    const refused = refusal(row, generation, revision)
    if (refused !== undefined) return refused
    this.setSent.run(sent, revision + 1, row.id)
    return { _tag: "Done", revision: revision + 1 }
  }

  advance({ at, generation, last, session }: AdvanceRequest) {
    const row = this.select.get(session)
    if (row === undefined) return undefined
    if (row.generation > generation || last <= row.last) return { state: toState(row), lost: 0 }
    this.take(row, last, at)
    return { state: this.state(session), lost: last - row.last }
  }

  /** Takes the missing offsets up to `upTo`. */
  private take({ id, last }: OutboxRow, upTo: number, at: number): void {
    this.insertGap.run(id, last + 1, upTo, "fresh")
    this.note(id, [{ first: last + 1, end: upTo, reason: "fresh", maybeHandled: true, at }])
    this.setLast.run(upTo, id)
  }

  remove(session: string, last: number, revision: number | undefined): boolean {
    const row = this.select.get(session)
    if (row === undefined) return true
    if (row.last > last || row.revision !== (revision ?? row.revision)) return false
    for (const remove of [this.removeAll, this.removeGaps, this.removeFates, this.drop]) remove.run(row.id)
    this.totals.add({ outboxes: -1, messages: -row.messages, bytes: -row.bytes })
    return true
  }

  find(session: string): OutboxState | undefined {
    const row = this.select.get(session)
    return row && toState(row)
  }

  fates(session: string, first: number, end: number): ReadonlyArray<Fate> {
    return this.selectFates.all(session, end, first).map((fate) => ({
      first: fate.first,
      end: fate.end,
      reason: fate.reason,
      maybeHandled: fate.maybe_handled !== 0,
      at: fate.at
    }))
  }

  sweepFates(before: number, limit: number): number {
    const dropped = this.dropFates.all(before, limit)
    for (const [outbox, swept] of Map.groupBy(dropped, (fate) => fate.outbox)) {
      const { at, end, first, maybeHandled, reason } = sweptFate(Math.max(...swept.map((fate) => fate.end)))
      this.extendSwept.run(outbox, first, end, reason, maybeHandled ? 1 : 0, at)
    }
    return dropped.length
  }

  /** Removes gaps up to `acked`, and cuts one that reaches beyond. Returns how many offsets they had up to there. */
  private cutGaps(outbox: number, acked: number): number {
    let gone = 0
    for (const { end, first, reason } of this.selectGaps.all(outbox, 0)) {
      if (first > acked) break
      this.removeGap.all(outbox, first)
      if (end > acked) this.insertGap.run(outbox, acked + 1, end, reason)
      gone += Math.min(end, acked) - first + 1
    }
    return gone
  }

  /** Spares a query: there are gaps if there are fewer messages than offsets. */
  private hasGaps({ acked, last, messages }: OutboxRow): boolean {
    return messages !== last - acked
  }

  private note(outbox: number, fates: ReadonlyArray<Fate>): void {
    for (const { at, end, first, maybeHandled, reason } of fates) {
      this.putFate.run(outbox, first, end, reason, maybeHandled ? 1 : 0, at)
    }
  }

  private state(session: string): OutboxState {
    const state = this.find(session)
    if (state === undefined) throw new Error("the outbox that was just written is not there")
    return state
  }
}

const full = ({ bytes, messages }: OutboxRow, limit: "messages" | "bytes"): AppendResult => (
  { _tag: "Full", limit, messages, bytes }
)

const refusal = (row: OutboxRow, generation: number | undefined, revision: number): Conditional | undefined => {
  if (generation !== undefined && row.generation > generation) return { _tag: "Fenced" }
  return row.revision === revision ? undefined : { _tag: "Conflict" }
}

const sumOf = (rows: ReadonlyArray<Bytes>): number => rows.reduce((sum, { bytes }) => sum + bytes, 0)

const lengthOf = (gaps: ReadonlyArray<Pick<Gap, "first" | "end">>): number =>
  gaps.reduce((sum, { end, first }) => sum + end - first + 1, 0)

const toChunk = ({ body, bytes, enqueued_at, expires_at, first, last }: ChunkRow): Chunk => (
  { first, last, bytes, enqueuedAt: enqueued_at, expiresAt: expires_at, body }
)

// A plain object instead of SQLite's row, which has no prototype.
const toGap = ({ end, first, reason }: GapRow): Gap => ({ first, end, reason })

const toState = (row: OutboxRow): OutboxState => ({
  session: row.session,
  generation: row.generation,
  epoch: row.epoch,
  acked: row.acked,
  last: row.last,
  messages: row.messages,
  bytes: row.bytes,
  sent: row.sent,
  revision: row.revision,
  expiresAt: row.expires_at,
  node: row.node ?? undefined,
  // A file has one history: no other file takes its place while it is open.
  settled: true,
  unsettledFrom: undefined
})
