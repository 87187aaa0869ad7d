/** Sessions and positions as a driver stores them: what a driver is asked, and what it answers. */

/** A session as stored. {@link StoreDriver.putSession} replaces it whole, except for the position. */
export interface SessionRow {
  readonly id: string
  readonly principal: string | undefined
  readonly tokenHash: string
  readonly previousTokenHash: string | undefined
  readonly generation: number
  readonly instance: string
  /** The client instance numbers its dials. */
  readonly attempt: number
  /** The server whose process has what was received and not yet handled; undefined when none has. */
  readonly node: string | undefined
  /** Undefined while a connection is attached. */
  readonly detachedAt: number | undefined
  /** Another server that wants the session from `node`. */
  readonly wantedBy: string | undefined
  /** Whether it is being removed: nobody may attach. */
  readonly ending: boolean
  /** 1 for a new row; each `putSession` writes the next one. */
  readonly revision: number
}

export interface Tombstone {
  readonly at: number
  readonly until: number
}

export type PutOutcome =
  /** `position` is the one stored when the row was replaced. */
  | { readonly _tag: "Stored"; readonly position: string | undefined }
  | { readonly _tag: "Conflict" }

export interface PositionRequest {
  readonly session: string
  readonly generation: number
  /** Opaque. */
  readonly position: string
  /**
   * `epoch` is the log that the position is in, `handled` how far it is in that log. A position behind the stored one
   * of the same log is not stored.
   */
  readonly epoch: string
  readonly handled: number
  /**
   * Whether the position must be ahead of the stored one; otherwise the outcome is `Behind`. For handlers that commit
   * their work with it.
   */
  readonly strict: boolean
}

/** `Locked` as in {@link Locked}. */
export type PositionOutcome = "Saved" | "Behind" | "Fenced" | "Missing" | "Locked"
