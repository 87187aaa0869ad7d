/** Nodes, their nudges, and the stamps of their writers. Synchronous, inside a transaction. */
import type { AppendResult, Stamp } from "../internal/store/outboxes.ts"
import type { Prepare } from "./queries.ts"
import type { Names } from "./schema.ts"

export class Nodes {
  private readonly upsert
  private readonly selectAll
  private readonly remove
  private readonly removeNudges
  private readonly removeWriters
  private readonly insertNudge
  private readonly selectNudges
  private readonly removeNudge
  private readonly anyNudge
  private readonly selectBatch
  private readonly putBatch

  constructor(prepare: Prepare, { node, nudge, writer }: Names) {
    this.upsert = prepare(
      `INSERT INTO ${node} (node, seen_at) VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET seen_at = excluded.seen_at`
    )
    this.selectAll = prepare<{ readonly node: string; readonly seen_at: number }>(`SELECT node, seen_at FROM ${node}`)
    this.remove = prepare(`DELETE FROM ${node} WHERE node = ?`)
    this.removeNudges = prepare(`DELETE FROM ${nudge} WHERE node = ?`)
    // What begins with `<node>/` lies between that and `<node>0`, since "0" is the character after "/".
    this.removeWriters = prepare(
      `DELETE FROM ${writer} WHERE writer = ?1 OR (writer >= ?1 || '/' AND writer < ?1 || '0')`
    )
    this.insertNudge = prepare(`INSERT INTO ${nudge} (node, session) VALUES (?, ?) ON CONFLICT DO NOTHING`)
    this.selectNudges = prepare<{ readonly session: string }>(`SELECT session FROM ${nudge} WHERE node = ? LIMIT ?`)
    this.removeNudge = prepare(`DELETE FROM ${nudge} WHERE node = ? AND session = ?`)
    this.anyNudge = prepare<{ readonly one: number }>(`SELECT 1 AS one FROM ${nudge} WHERE node = ? LIMIT 1`)
    this.selectBatch = prepare<{ readonly sequence: number; readonly results: string }>(
      `SELECT sequence, results FROM ${writer} WHERE writer = ?`
    )
    this.putBatch = prepare(
      `INSERT INTO ${writer} (writer, sequence, results) VALUES (?, ?, ?)
       ON CONFLICT (writer) DO UPDATE SET sequence = excluded.sequence, results = excluded.results`
    )
  }

  touch(node: string, at: number): void {
    this.upsert.run(node, at)
  }

  all(): ReadonlyArray<{ readonly node: string; readonly seenAt: number }> {
    return this.selectAll.all().map(({ node, seen_at }) => ({ node, seenAt: seen_at }))
  }

  /** Whether this node is the only one known. */
  isOnly(node: string): boolean {
    const all = this.selectAll.all()
    return all.length === 1 && all[0]?.node === node
  }

  forget(node: string): void {
    this.remove.run(node)
    this.removeNudges.run(node)
    this.removeWriters.run(node)
  }

  nudge(node: string, session: string): void {
    this.insertNudge.run(node, session)
  }

  takeNudges(node: string, limit: number): ReadonlyArray<string> {
    const sessions = this.selectNudges.all(node, limit).map(({ session }) => session)
    for (const session of sessions) this.removeNudge.run(node, session)
    return sessions
  }

  hasNudges(node: string): boolean {
    return this.anyNudge.get(node) !== undefined
  }

  /** The results of this batch, if it was done. Throws if a newer batch of its writer was done. */
  doneBefore({ sequence, writer }: Stamp): ReadonlyArray<AppendResult> | undefined {
    const newest = this.selectBatch.get(writer)
    if (newest === undefined || newest.sequence < sequence) return undefined
    if (newest.sequence > sequence) {
      throw new Error(`batch ${sequence} of writer ${writer} comes after batch ${newest.sequence}`)
    }
    return decode(newest.results)
  }

  noteDone({ sequence, writer }: Stamp, results: ReadonlyArray<AppendResult>): void {
    this.putBatch.run(writer, sequence, encode(results))
  }
}

/** JSON has no `Infinity`, which a claim's `until` may be. Only results encoded here are decoded. */
const encode = (results: ReadonlyArray<AppendResult>): string =>
  JSON.stringify(results, (_, value: unknown) => value === Infinity ? "Infinity" : value)

const decode = (json: string): ReadonlyArray<AppendResult> =>
  JSON.parse(json, (key, value: unknown) => key === "until" && value === "Infinity" ? Infinity : value)
