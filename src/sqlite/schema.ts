/**
 * The tables, and the migrations that make them. Each entry of `migrations` is run once, in order, and never changed
 * after a release: a change is a new entry.
 *
 * Nothing here says `REFERENCES`: SQLite would look up the parent for every message. When `outboxes.ts` removes an
 * outbox, it also removes what belongs to it.
 */
import type { DatabaseSync } from "node:sqlite"

/** Quoted names of the tables. */
export interface Names {
  readonly store: string
  readonly outbox: string
  readonly chunk: string
  readonly gap: string
  readonly fate: string
  readonly writer: string
  readonly session: string
  readonly ended: string
  readonly key: string
  readonly node: string
  readonly nudge: string
}

const quote = (name: string): string => `"${name.replaceAll("\"", "\"\"")}"`

export const namesOf = (prefix: string): Names => ({
  store: quote(`${prefix}store`),
  outbox: quote(`${prefix}outbox`),
  chunk: quote(`${prefix}chunk`),
  gap: quote(`${prefix}gap`),
  fate: quote(`${prefix}fate`),
  writer: quote(`${prefix}writer`),
  session: quote(`${prefix}session`),
  ended: quote(`${prefix}ended`),
  key: quote(`${prefix}key`),
  node: quote(`${prefix}node`),
  nudge: quote(`${prefix}nudge`)
})

/**
 * Times are REAL, which holds `Infinity`, and whole numbers up to 2^53 as exactly as INTEGER. A chunk's body comes
 * last, so that the rest is read without it. Chunks have a rowid and a separate index: so they are appended at the end
 * of the table, not among the bodies of other sessions.
 */
const migrations: ReadonlyArray<(names: Names, index: (name: string) => string) => string> = [
  (t, index) => `
    CREATE TABLE ${t.outbox} (
      id INTEGER PRIMARY KEY,
      session TEXT NOT NULL UNIQUE,
      generation INTEGER NOT NULL,
      epoch TEXT NOT NULL,
      acked INTEGER NOT NULL DEFAULT 0,
      last INTEGER NOT NULL DEFAULT 0,
      messages INTEGER NOT NULL DEFAULT 0,
      bytes INTEGER NOT NULL DEFAULT 0,
      sent INTEGER NOT NULL DEFAULT 0,
      revision INTEGER NOT NULL,
      expires_at REAL NOT NULL,
      node TEXT
    ) STRICT;
    CREATE TABLE ${t.chunk} (
      outbox INTEGER NOT NULL,
      first INTEGER NOT NULL,
      last INTEGER NOT NULL,
      bytes INTEGER NOT NULL,
      enqueued_at REAL NOT NULL,
      expires_at REAL NOT NULL,
      body TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX ${index("chunk_by_last")} ON ${t.chunk} (outbox, last);
    CREATE TABLE ${t.gap} (
      outbox INTEGER NOT NULL,
      first INTEGER NOT NULL,
      "end" INTEGER NOT NULL,
      reason TEXT NOT NULL,
      PRIMARY KEY (outbox, first)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ${t.fate} (
      outbox INTEGER NOT NULL,
      first INTEGER NOT NULL,
      "end" INTEGER NOT NULL,
      reason TEXT NOT NULL,
      maybe_handled INTEGER NOT NULL,
      at REAL NOT NULL,
      PRIMARY KEY (outbox, first)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX ${index("fate_by_age")} ON ${t.fate} (at);
    CREATE TABLE ${t.writer} (
      writer TEXT PRIMARY KEY,
      sequence INTEGER NOT NULL,
      results TEXT NOT NULL
    ) STRICT;
    CREATE TABLE ${t.session} (
      id TEXT NOT NULL UNIQUE,
      principal TEXT,
      token_hash TEXT NOT NULL,
      previous_token_hash TEXT,
      generation INTEGER NOT NULL,
      instance TEXT NOT NULL,
      attempt INTEGER NOT NULL,
      node TEXT,
      detached_at REAL,
      wanted_by TEXT,
      ending INTEGER NOT NULL,
      revision INTEGER NOT NULL,
      position TEXT,
      position_epoch TEXT,
      handled INTEGER
    ) STRICT;
    CREATE INDEX ${index("session_detached")} ON ${t.session} (detached_at) WHERE detached_at IS NOT NULL;
    CREATE INDEX ${index("session_of_node")} ON ${t.session} (node) WHERE node IS NOT NULL;
    CREATE TABLE ${t.key} (
      scope TEXT NOT NULL,
      key TEXT NOT NULL,
      fingerprint TEXT,
      token TEXT,
      until REAL NOT NULL,
      committed_at REAL,
      message_id TEXT,
      epoch TEXT,
      message_offset REAL,
      at_millis REAL,
      UNIQUE (scope, key)
    ) STRICT;
    CREATE INDEX ${index("key_committed")} ON ${t.key} (committed_at) WHERE committed_at IS NOT NULL;
    CREATE INDEX ${index("key_claimed")} ON ${t.key} (until) WHERE committed_at IS NULL;
    CREATE TABLE ${t.node} (node TEXT PRIMARY KEY, seen_at REAL NOT NULL) STRICT;
    CREATE TABLE ${t.nudge} (node TEXT NOT NULL, session TEXT NOT NULL, PRIMARY KEY (node, session))
      STRICT, WITHOUT ROWID;
  `,
  (t, index) => `
    CREATE INDEX ${index("session_of_principal")} ON ${t.session} (principal, detached_at) WHERE principal IS NOT NULL;
  `,
  (t, index) => `
    CREATE TABLE ${t.ended} (session TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX ${index("ended_until")} ON ${t.ended} (until);
  `
]

/** Makes or updates the tables, in the caller's transaction. Throws if a newer version of the library made them. */
export const migrate = (database: DatabaseSync, prefix: string): void => {
  const names = namesOf(prefix)
  // The version, and beside it the sums over all outboxes and keys, which would otherwise take a scan.
  database.exec(`
    CREATE TABLE IF NOT EXISTS ${names.store} (
      one INTEGER PRIMARY KEY CHECK (one = 1),
      version INTEGER NOT NULL,
      outboxes INTEGER NOT NULL DEFAULT 0,
      messages INTEGER NOT NULL DEFAULT 0,
      bytes INTEGER NOT NULL DEFAULT 0,
      keys INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT OR IGNORE INTO ${names.store} (one, version) VALUES (1, 0);
  `)
  const version = Number(database.prepare(`SELECT version FROM ${names.store}`).get()?.["version"])
  if (version > migrations.length) {
    throw new Error(
      `the tables are of version ${version}, and this release of resilient-websocket knows ${migrations.length}`
    )
  }
  for (const migration of migrations.slice(version)) {
    database.exec(migration(names, (name) => quote(prefix + name)))
  }
  database.exec(`UPDATE ${names.store} SET version = ${migrations.length}`)
}
