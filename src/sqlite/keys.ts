/** Publish keys: claimed for a while, or committed with a receipt. Synchronous, inside a transaction. */
import type { Receipt } from "../Deduplicator.ts"
import type { AppendRequest, AppendResult } from "../internal/store/outboxes.ts"
import type { ClaimKeyRequest, ClaimKeyResult, KeyClaim, KeyTarget, PublishKey } from "../internal/store/publishKeys.ts"
import type { Prepare } from "./queries.ts"
import type { Names } from "./schema.ts"
import type { Totals } from "./totals.ts"

interface KeyRow {
  readonly fingerprint: string | null
  readonly token: string | null
  readonly until: number
  readonly committed_at: number | null
  readonly message_id: string | null
  readonly epoch: string | null
  readonly message_offset: number | null
  readonly at_millis: number | null
}

interface Count {
  readonly count: number
}

type Used = Extract<ClaimKeyResult, { readonly _tag: "Duplicate" | "Mismatch" | "InFlight" }>

const columns = "fingerprint, token, until, committed_at, message_id, epoch, message_offset, at_millis"

/** SQL's "no limit". */
const all = -1

export class Keys {
  private readonly totals: Totals
  private readonly select
  private readonly put
  private readonly extend
  private readonly commitClaim
  private readonly releaseClaim
  private readonly forgottenUpTo
  private readonly endedUpTo
  private readonly claimed
  private readonly dropForgotten
  private readonly dropEnded

  constructor(prepare: Prepare, { key }: Names, totals: Totals) {
    this.totals = totals
    this.select = prepare<KeyRow>(`SELECT ${columns} FROM ${key} WHERE scope = ? AND key = ?`)
    this.put = prepare(
      `INSERT INTO ${key} (scope, key, ${columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (scope, key) DO UPDATE SET fingerprint = excluded.fingerprint, token = excluded.token,
         until = excluded.until, committed_at = excluded.committed_at, message_id = excluded.message_id,
         epoch = excluded.epoch, message_offset = excluded.message_offset, at_millis = excluded.at_millis`
    )
    const held = "scope = ? AND key = ? AND token = ? AND committed_at IS NULL"
    this.extend = prepare(`UPDATE ${key} SET until = ? WHERE ${held} AND until > ?`)
    this.commitClaim = prepare(
      `UPDATE ${key} SET committed_at = ?, message_id = ?, epoch = ?, message_offset = ?, at_millis = ?
       WHERE ${held} AND until > ?`
    )
    this.releaseClaim = prepare(`DELETE FROM ${key} WHERE ${held}`)
    const forgotten = `FROM ${key} WHERE committed_at < ?`
    const ended = `FROM ${key} WHERE committed_at IS NULL AND until <= ?`
    this.forgottenUpTo = prepare<Count>(`SELECT count(*) AS count FROM (SELECT 1 ${forgotten} LIMIT ?)`)
    this.endedUpTo = prepare<Count>(`SELECT count(*) AS count FROM (SELECT 1 ${ended} LIMIT ?)`)
    this.claimed = prepare<Count>(`SELECT count(*) AS count FROM ${key} WHERE committed_at IS NULL AND until > ?`)
    this.dropForgotten = prepare(`DELETE FROM ${key} WHERE rowid IN (SELECT rowid ${forgotten} LIMIT ?)`)
    this.dropEnded = prepare(`DELETE FROM ${key} WHERE rowid IN (SELECT rowid ${ended} LIMIT ?)`)
  }

  /** Why nothing may be appended under this key now, even with room. */
  appendRefusal(request: PublishKey, now: number): AppendResult | undefined {
    const used = this.used(request, this.find(request), now)
    return used?._tag === "Mismatch" ? { _tag: "Mismatch" } : used
  }

  /** Commits the key of a message that is being appended, if there is room. */
  commitAppended(request: PublishKey, { enqueuedAt }: AppendRequest, epoch: string, offset: number): boolean {
    const isNew = this.find(request) === undefined
    if (this.isFull(request, enqueuedAt)) return false
    const receipt = { messageId: request.key, epoch, offset, atMillis: enqueuedAt }
    this.store(request, request.fingerprint, undefined, enqueuedAt, enqueuedAt, receipt)
    if (isNew) this.totals.add({ keys: 1 })
    return true
  }

  claim(request: ClaimKeyRequest): ClaimKeyResult {
    const { fingerprint, now, token, until } = request
    const row = this.find(request)
    // The same claim again, as its first answer was lost.
    const isAgain = row !== undefined && row.committed_at === null && row.token === token && row.until > now
    if (!isAgain) {
      const used = this.used(request, row, now)
      if (used !== undefined) return used
      if (this.isFull(request, now)) return { _tag: "Full" }
    }
    this.store(request, fingerprint, token, until, undefined, undefined)
    if (row === undefined) this.totals.add({ keys: 1 })
    return { _tag: "Claimed" }
  }

  renew({ key, now, scope, token, until }: KeyClaim & { readonly until: number }): boolean {
    return this.extend.run(until, scope, key, token, now) > 0
  }

  commit({ key, now, receipt, scope, token }: KeyClaim & { readonly receipt: Receipt }): boolean {
    const { atMillis, epoch, messageId, offset } = receipt
    if (this.commitClaim.run(now, messageId, epoch, offset, atMillis, scope, key, token, now) > 0) return true
    const row = this.find({ scope, key })
    return row !== undefined && row.committed_at !== null && row.token === token
  }

  release({ key, scope, token }: KeyTarget & { readonly token: string }): void {
    this.totals.add({ keys: -this.releaseClaim.run(scope, key, token) })
  }

  lookup(target: KeyTarget, forgottenBefore: number): Receipt | undefined {
    const row = this.find(target)
    return row === undefined || (row.committed_at ?? -Infinity) < forgottenBefore ? undefined : receiptOf(row)
  }

  sweep(forgottenBefore: number, now: number, limit: number): number {
    const forgotten = this.dropForgotten.run(forgottenBefore, limit)
    const swept = forgotten + this.dropEnded.run(now, limit - forgotten)
    this.totals.add({ keys: -swept })
    return swept
  }

  /** Costs as much as there are claimed or old keys, however many are kept. */
  count(forgottenBefore: number, now: number): { readonly keys: number; readonly inFlight: number } {
    const inFlight = this.claimed.get(now)?.count ?? 0
    return { keys: this.totals.sums.keys - inFlight - this.countOver(forgottenBefore, now, all), inFlight }
  }

  private find({ key, scope }: KeyTarget): KeyRow | undefined {
    return this.select.get(scope, key)
  }

  private store(
    { key, scope }: KeyTarget,
    fingerprint: string | undefined,
    token: string | undefined,
    until: number,
    committedAt: number | undefined,
    receipt: Receipt | undefined
  ): void {
    this.put.run(
      scope,
      key,
      fingerprint ?? null,
      token ?? null,
      until,
      committedAt ?? null,
      receipt?.messageId ?? null,
      receipt?.epoch ?? null,
      receipt?.offset ?? null,
      receipt?.atMillis ?? null
    )
  }

  private used(request: PublishKey, row: KeyRow | undefined, now: number): Used | undefined {
    if (row === undefined) return undefined
    const isOver = row.committed_at === null ? row.until <= now : row.committed_at < request.forgottenBefore
    if (isOver) return undefined
    const receipt = receiptOf(row)
    const { fingerprint } = request
    if (fingerprint !== undefined && row.fingerprint !== null && fingerprint !== row.fingerprint) {
      return { _tag: "Mismatch", receipt }
    }
    return receipt === undefined ? { _tag: "InFlight", until: row.until } : { _tag: "Duplicate", receipt }
  }

  /**
   * Whether `maxKeys` keys are kept. Old rows don't count, even before they are swept. They are counted only when it
   * matters, and only up to the number that makes room.
   */
  private isFull({ forgottenBefore, maxKeys }: PublishKey, now: number): boolean {
    const excess = this.totals.sums.keys - maxKeys + 1
    if (excess <= 0) return false
    return this.countOver(forgottenBefore, now, excess) < excess
  }

  private countOver(forgottenBefore: number, now: number, limit: number): number {
    const forgotten = this.forgottenUpTo.get(forgottenBefore, limit)?.count ?? 0
    return forgotten === limit ? limit : forgotten + (this.endedUpTo.get(now, limit)?.count ?? 0)
  }
}

const receiptOf = (row: KeyRow): Receipt | undefined =>
  row.message_id === null || row.epoch === null || row.message_offset === null || row.at_millis === null
    ? undefined
    : { messageId: row.message_id, epoch: row.epoch, offset: row.message_offset, atMillis: row.at_millis }
