/** Sessions, with the inbox position of each. Synchronous, inside a transaction. */
import type { PositionOutcome, PositionRequest, PutOutcome, SessionRow, Tombstone } from "../internal/store/sessions.ts"
import type { Prepare } from "./queries.ts"
import type { Names } from "./schema.ts"

interface StoredSession {
  readonly id: string
  readonly principal: string | null
  readonly token_hash: string
  readonly previous_token_hash: string | null
  readonly generation: number
  readonly instance: string
  readonly attempt: number
  readonly node: string | null
  readonly detached_at: number | null
  readonly wanted_by: string | null
  readonly ending: number
  readonly revision: number
}

interface Position {
  readonly rowid: number
  readonly generation: number
  readonly position_epoch: string | null
  readonly handled: number | null
}

interface Count {
  readonly count: number
}

const columns = "id, principal, token_hash, previous_token_hash, generation, instance, attempt, node, detached_at, " +
  "wanted_by, ending, revision"

export class Sessions {
  private readonly select
  private readonly insert
  private readonly replace
  private readonly selectPosition
  private readonly updatePosition
  private readonly remove
  private readonly detached
  private readonly ofNode
  private readonly attachedOf
  private readonly detachedOf
  private readonly countAll
  private readonly countDetached
  private readonly bury
  private readonly unbury
  private readonly removeOld
  private readonly selectEnded

  constructor(prepare: Prepare, { ended, session }: Names) {
    this.select = prepare<StoredSession>(`SELECT ${columns} FROM ${session} WHERE id = ?`)
    this.insert = prepare(
      `INSERT INTO ${session} (${columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`
    )
    this.replace = prepare<{ readonly position: string | null }>(
      `UPDATE ${session} SET principal = ?2, token_hash = ?3, previous_token_hash = ?4, generation = ?5, instance = ?6,
         attempt = ?7, node = ?8, detached_at = ?9, wanted_by = ?10, ending = ?11, revision = ?12
       WHERE id = ?1 AND revision = ?12 - 1 RETURNING position`
    )
    this.selectPosition = prepare<Position>(
      `SELECT rowid, generation, position_epoch, handled FROM ${session} WHERE id = ?`
    )
    this.updatePosition = prepare(
      `UPDATE ${session} SET position = ?, position_epoch = ?, handled = ? WHERE rowid = ?`
    )
    this.remove = prepare(`DELETE FROM ${session} WHERE id = ?`)
    this.detached = prepare<StoredSession>(
      `SELECT ${columns} FROM ${session} WHERE detached_at <= ? ORDER BY detached_at LIMIT ?`
    )
    this.ofNode = prepare<StoredSession>(`SELECT ${columns} FROM ${session} WHERE node = ? LIMIT ?`)
    this.attachedOf = prepare<StoredSession>(
      `SELECT ${columns} FROM ${session} WHERE principal = ? AND detached_at IS NULL AND ending = 0 LIMIT ?`
    )
    this.detachedOf = prepare<StoredSession>(
      `SELECT ${columns} FROM ${session} WHERE principal = ? AND detached_at IS NOT NULL AND ending = 0
       ORDER BY detached_at DESC LIMIT ?`
    )
    this.countAll = prepare<Count>(`SELECT count(*) AS count FROM ${session}`)
    this.countDetached = prepare<Count>(`SELECT count(*) AS count FROM ${session} WHERE detached_at IS NOT NULL`)
    this.bury = prepare(`INSERT OR REPLACE INTO ${ended} (session, until) VALUES (?, ?)`)
    this.unbury = prepare(`DELETE FROM ${ended} WHERE session = ?`)
    this.removeOld = prepare(
      `DELETE FROM ${ended} WHERE session IN (SELECT session FROM ${ended} WHERE until <= ? ORDER BY until LIMIT 2)`
    )
    this.selectEnded = prepare<{ readonly until: number }>(`SELECT until FROM ${ended} WHERE session = ?`)
  }

  find(id: string): SessionRow | undefined {
    const row = this.select.get(id)
    return row && toSession(row)
  }

  put(row: SessionRow): PutOutcome {
    const values = [
      row.id,
      row.principal ?? null,
      row.tokenHash,
      row.previousTokenHash ?? null,
      row.generation,
      row.instance,
      row.attempt,
      row.node ?? null,
      row.detachedAt ?? null,
      row.wantedBy ?? null,
      row.ending ? 1 : 0,
      row.revision
    ]
    if (row.revision === 1) {
      if (this.insert.run(...values) === 0) return { _tag: "Conflict" }
      this.unbury.run(row.id)
      return { _tag: "Stored", position: undefined }
    }
    const replaced = this.replace.get(...values)
    return replaced === undefined
      ? { _tag: "Conflict" }
      : { _tag: "Stored", position: replaced.position ?? undefined }
  }

  savePosition({ epoch, generation, handled, position, session, strict }: PositionRequest): PositionOutcome {
    const stored = this.selectPosition.get(session)
    if (stored === undefined) return "Missing"
    if (stored.generation > generation) return "Fenced"
    if (stored.position_epoch === epoch && stored.handled !== null) {
      if (strict ? handled <= stored.handled : handled < stored.handled) return "Behind"
    }
    this.updatePosition.run(position, epoch, handled, stored.rowid)
    return "Saved"
  }

  delete(id: string, tombstone: Tombstone | undefined): boolean {
    if (tombstone !== undefined) {
      this.removeOld.run(tombstone.at)
      this.bury.run(id, tombstone.until)
    }
    return this.remove.run(id) > 0
  }

  wasEnded(id: string, at: number): boolean {
    return (this.selectEnded.get(id)?.until ?? -Infinity) > at
  }

  detachedBefore(at: number, limit: number): ReadonlyArray<SessionRow> {
    return this.detached.all(at, limit).map(toSession)
  }

  of(node: string, limit: number): ReadonlyArray<SessionRow> {
    return this.ofNode.all(node, limit).map(toSession)
  }

  ofPrincipal(principal: string, limit: number): ReadonlyArray<SessionRow> {
    const attached = this.attachedOf.all(principal, limit)
    const detached = this.detachedOf.all(principal, limit - attached.length)
    return [...attached, ...detached].map(toSession)
  }

  count(): { readonly sessions: number; readonly attached: number } {
    const sessions = this.countAll.get()?.count ?? 0
    return { sessions, attached: sessions - (this.countDetached.get()?.count ?? 0) }
  }
}

const toSession = (row: StoredSession): SessionRow => ({
  id: row.id,
  principal: row.principal ?? undefined,
  tokenHash: row.token_hash,
  previousTokenHash: row.previous_token_hash ?? undefined,
  generation: row.generation,
  instance: row.instance,
  attempt: row.attempt,
  node: row.node ?? undefined,
  detachedAt: row.detached_at ?? undefined,
  wantedBy: row.wanted_by ?? undefined,
  ending: row.ending !== 0,
  revision: row.revision
})
