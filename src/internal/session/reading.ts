/** How much of one session this process has taken in, and why it is not read; the intake decides by it. */

/** One peer's part of the intake. Only `handle/` changes it. */
export class Reading {
  /** Memory of what waits to be handled, in bytes. */
  held = 0
  /** Why the connection is not read, as bits that the intake knows; 0 while it is. */
  stopped = 0
  /** Since when it has been held up. */
  stoppedAt = 0
  /** When all that has come would have arrived at the limited rates: each frame counts by the slower of the two for it. */
  until = 0
  /** The last turn of the event loop in which something came, and what it cost. */
  turn = 0
  spent = 0
  /** A large frame that has to wait for the peer's turn. */
  kept: Frame | undefined
  /** The group it counts with while it holds anything. */
  group: Group | undefined
}

/** What all of a share hold. */
export interface Group {
  readonly share: string
  held: number
}

interface Frame {
  readonly data: string
  readonly bytes: number
}
