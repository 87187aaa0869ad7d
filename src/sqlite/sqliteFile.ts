/**
 * An SQLite file, opened and set up: pragmas, a bounded cache of prepared statements, and what its errors mean. All of
 * it is synchronous and may throw what `node:sqlite` throws; `sqliteConnection.ts` makes effects of it.
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite"

/** How many prepared statements to keep; the least recently used goes first. */
const maxStatements = 256

/** Up to this size, in bytes, the write-ahead log's file is kept for reuse; a larger one is cut when it starts over. */
const walSizeLimit = 16 * 1024 * 1024

/** The page cache, in KiB. SQLite's own 2 MiB holds too little of the indexes of a hundred thousand sessions. */
const cacheKibibytes = 16 * 1024

export interface FileSettings {
  readonly filename: string
  readonly synchronous: "normal" | "full"
}

/** https://sqlite.org/rescode.html */
const busy = 5
const busySnapshot = 517

/**
 * Opens the file. The busy timeout stays 0, since SQLite's own waiting would stop the event loop: a locked file throws
 * at once, and the caller tries again.
 */
export const open = ({ filename, synchronous }: FileSettings): DatabaseSync => {
  const database = new DatabaseSync(filename)
  try {
    // In this order: WAL mode gives a file its first pages, and then auto_vacuum can't be changed.
    database.exec("PRAGMA auto_vacuum = INCREMENTAL")
    database.exec("PRAGMA journal_mode = WAL")
    database.exec(`
      PRAGMA synchronous = ${synchronous === "full" ? "FULL" : "NORMAL"};
      PRAGMA foreign_keys = ON;
      PRAGMA temp_store = MEMORY;
      PRAGMA cache_size = -${cacheKibibytes};
      PRAGMA journal_size_limit = ${walSizeLimit};
    `)
    return database
  } catch (cause) {
    database.close()
    throw cause
  }
}

/** Prepares each text only once, as long as it stays in use. */
export class StatementCache {
  private readonly database: DatabaseSync
  private readonly statements = new Map<string, StatementSync>()

  constructor(database: DatabaseSync) {
    this.database = database
  }

  get(sql: string): StatementSync {
    const known = this.statements.get(sql)
    const statement = known ?? this.database.prepare(sql)
    // A Map keeps insertion order: a used statement moves to the end.
    if (known !== undefined) this.statements.delete(sql)
    this.statements.set(sql, statement)
    if (this.statements.size > maxStatements) {
      const oldest = this.statements.keys().next()
      if (oldest.done !== true) this.statements.delete(oldest.value)
    }
    return statement
  }
}

/** A value as `node:sqlite` accepts it in a statement. */
export const toBindable = (value: unknown): SQLInputValue => {
  if (value === undefined || value === null) return null
  if (typeof value === "string" || typeof value === "number" || typeof value === "bigint") return value
  if (typeof value === "boolean") return value ? 1 : 0
  if (value instanceof Date) return value.toISOString()
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
  if (value instanceof ArrayBuffer) return new Uint8Array(value)
  throw new TypeError(`SQLite can't store a value of type ${typeof value}`)
}

/** SQLite's extended result code; undefined for other errors. */
export const resultCode = (cause: unknown): number | undefined =>
  typeof cause === "object" && cause !== null && "errcode" in cause && typeof cause.errcode === "number"
    ? cause.errcode
    : undefined

/**
 * Whether another connection holds a lock that it will release, so that a retry makes sense. False for a transaction
 * that read before others wrote and now wants to write (`SQLITE_BUSY_SNAPSHOT`): it must start over.
 */
export const isLocked = (cause: unknown): boolean => {
  const code = resultCode(cause)
  return code !== undefined && (code & 0xff) === busy && code !== busySnapshot
}
