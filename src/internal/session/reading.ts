/** How much of one session this process has taken in, and why its connection is not read. */

/** Written by the intake alone, which decides by it. */
export class Reading {
  /** Memory that unhandled deliveries take, in bytes. */
  held = 0
  /** Why the connection is not read, as the intake's bits; 0 while it is read. */
  stopped = 0
  /** When it was last held up. */
  stoppedAt = 0
  /** When all that came so far would have arrived at the limited rates, each frame at the slower of the two. */
  until = 0
  /** The last turn of the event loop in which something came, and its cost so far. */
  turn = 0
  spent = 0
  /** A large frame that has to wait for the peer's turn. */
  kept: Frame | undefined
  /** Its share's total, while it holds anything. */
  group: Group | undefined
}

/** What all peers of a share hold together. */
export interface Group {
  readonly share: string
  held: number
}

interface Frame {
  readonly data: string
  readonly bytes: number
}
