/** One connection with faults: what each does to it, whichever end of it this is. */
import { highWaterBytes } from "../core/Protocol.ts"
import { utf8Length } from "../core/utf8.ts"
import type { Connection, ConnectionSink, Request } from "../Transport.ts"
import { DelayLine, type Direction, directions, type Lateness } from "./delayLine.ts"

/** What connections ask of the faults in force, and tell of themselves. */
export interface Surroundings {
  readonly lateness: Lateness
  /** Whether this frame is one to be lost, and the connection with it. */
  readonly loses: (direction: Direction, frame: string | Uint8Array) => boolean
  /** A frame was lost. */
  readonly lost: () => void
  /** This end was told that the connection is over. */
  readonly ended: () => void
  /** Nothing of the connection is left, at either end. */
  readonly gone: () => void
}

export class FaultyConnection implements Connection {
  readonly protocol: string
  readonly request: Request
  readonly missed: boolean | undefined
  readonly upgradeMillis: number | undefined
  private readonly inner: Connection
  private readonly around: Surroundings
  /** Which way goes what this end sends, and what it gets. */
  private readonly out: Direction
  private readonly in: Direction
  private readonly outLine: DelayLine
  private readonly inLine: DelayLine
  private sink: ConnectionSink | undefined
  /** The directions in which everything vanishes. */
  private readonly lost = new Set<Direction>()
  private paused = false
  /** Whether the inner connection was told to pause: also while too much of what it gave us is late. */
  private isInnerPaused = false
  private awaitsDrain = false
  /** Set once this end is done with it. What still comes is dropped. */
  private isDeaf = false
  /** Whether the inner connection has ended, or was told to end. */
  private isInnerDone = false
  private isInnerClosed = false
  private ending: { readonly code: number; readonly reason: string } | undefined

  constructor(inner: Connection, out: Direction, around: Surroundings) {
    this.protocol = inner.protocol
    this.request = inner.request
    this.missed = inner.missed
    this.upgradeMillis = inner.upgradeMillis
    this.inner = inner
    this.around = around
    this.out = out
    this.in = out === "toServer" ? "toClient" : "toServer"
    this.outLine = new DelayLine(this.out, this.around.lateness)
    this.inLine = new DelayLine(this.in, this.around.lateness)
  }

  // What its user does.

  open(sink: ConnectionSink): void {
    this.sink = sink
    const { ending } = this
    if (ending !== undefined) return this.later(() => sink.closed(ending.code, ending.reason))
    this.inner.open({
      frame: (data, bytes) => this.received(data, bytes),
      incoming: (bytes) => {
        if (!this.isDeaf && !this.lost.has(this.in)) sink.incoming?.(bytes)
      },
      drained: () => this.checkDrain(),
      alive: () => {
        if (!this.lost.has(this.in)) this.inLine.push({ bytes: 0, arrive: () => this.tellAlive() })
      },
      closed: (code, reason) => this.innerClosed(code, reason)
    })
  }

  send(frame: string, written?: (ok: boolean) => void): void {
    const answer = (ok: boolean) => written !== undefined && this.later(() => written(ok))
    if (this.isDeaf) return void answer(false)
    if (this.lost.has(this.out)) {
      this.around.lost()
      return void answer(true) // the socket takes it
    }
    if (this.around.loses(this.out, frame)) {
      this.around.lost()
      answer(false)
      return this.cut()
    }
    this.outLine.push({
      bytes: utf8Length(frame),
      arrive: () =>
        this.inner.send(frame, (ok) => {
          written?.(ok)
          this.checkDrain()
        }),
      lose: () => {
        this.around.lost()
        answer(false)
      }
    })
    if (this.buffered() >= highWaterBytes) this.awaitsDrain = true
  }

  buffered(): number {
    return this.outLine.bytes + this.inner.buffered()
  }

  pause(): void {
    if (this.isDeaf) return
    this.paused = true
    this.inLine.hold()
    this.steer()
  }

  resume(): void {
    this.paused = false
    this.inLine.release()
    this.steer()
  }

  ping(): void {
    if (this.lost.has(this.out)) return
    this.outLine.push({ bytes: 0, arrive: () => this.inner.ping() })
  }

  close(code: number, reason: string): void {
    if (this.isDeaf) return
    this.isDeaf = true
    this.inLine.drop()
    this.resume() // a connection that is not read never sees the peer's close
    if (!this.lost.has(this.out)) {
      // A shutdown waits for its connections by the Clock, which may stand still at the end of a test.
      this.outLine.hurry({
        bytes: 0,
        arrive: () => {
          this.isInnerDone = true
          this.inner.close(code, reason)
        }
      })
    }
    // The answer vanishes, or has been dropped.
    if (this.lost.size > 0 || this.isInnerClosed) this.endLater()
  }

  terminate(): void {
    this.isDeaf = true
    this.outLine.drop()
    if (!this.lost.has(this.out)) this.endInner()
    this.endLater()
  }

  // What faults do to it.

  /** Ends it at both ends at once. */
  cut(): void {
    this.isDeaf = true
    this.dropAll()
    this.endInner()
    this.endLater()
  }

  /** From now on, everything in this direction vanishes. */
  lose(direction: Direction): void {
    this.lost.add(direction)
    const line = direction === this.out ? this.outLine : this.inLine
    line.drop()
  }

  /** Nothing passes any more, and only this end, or only the other one, is told. */
  breakFor(side: "near" | "far"): void {
    for (const direction of directions) this.lose(direction)
    if (side === "far") return this.endInner()
    this.isDeaf = true
    this.endLater()
  }

  /** What was late arrives. What was half-open has lost frames and can't go on. */
  heal(): void {
    if (this.lost.size > 0) return this.cut()
    this.outLine.hurry()
    this.inLine.hurry()
  }

  private get isEnded(): boolean {
    return this.ending !== undefined
  }

  /** At which end this is. */
  get side(): "client" | "server" {
    return this.out === "toServer" ? "client" : "server"
  }

  private received(data: string | Uint8Array, bytes: number): void {
    if (this.isDeaf) return
    if (this.lost.has(this.in)) return this.around.lost()
    if (this.around.loses(this.in, data)) {
      this.around.lost()
      return this.cut()
    }
    this.inLine.push({
      bytes,
      arrive: () => {
        if (!this.isDeaf) this.sink?.frame(data, bytes)
        this.steer()
      },
      lose: () => this.around.lost()
    })
    this.steer()
  }

  private tellAlive(): void {
    if (!this.isDeaf) this.sink?.alive()
  }

  private innerClosed(code: number, reason: string): void {
    this.isInnerDone = true
    this.isInnerClosed = true
    if (!this.lost.has(this.in)) {
      if (this.isDeaf) this.end(code, reason)
      else this.inLine.push({ bytes: 0, passesHeld: true, arrive: () => this.end(code, reason) })
    }
    this.checkGone()
  }

  private endInner(): void {
    this.isInnerDone = true
    this.inner.terminate()
    this.checkGone()
  }

  /** Pauses the inner connection while its user does, or while too much that came from it is late. */
  private steer(): void {
    const isFull = this.inLine.bytes >= (this.isInnerPaused ? highWaterBytes / 2 : highWaterBytes)
    const wanted = this.paused || isFull
    if (wanted === this.isInnerPaused) return
    this.isInnerPaused = wanted
    if (wanted) this.inner.pause()
    else this.inner.resume()
  }

  private checkDrain(): void {
    if (!this.awaitsDrain || this.isDeaf || this.buffered() >= highWaterBytes) return
    this.awaitsDrain = false
    this.sink?.drained()
  }

  private dropAll(): void {
    this.outLine.drop()
    this.inLine.drop()
  }

  private endLater(): void {
    this.later(() => this.end(1006, ""))
  }

  private end(code: number, reason: string): void {
    if (this.ending !== undefined) return
    this.ending = { code, reason }
    this.isDeaf = true
    this.dropAll()
    this.around.ended()
    this.sink?.closed(code, reason)
    this.checkGone()
  }

  private checkGone(): void {
    if (this.isInnerDone && this.isEnded) this.around.gone()
  }

  private later(task: () => void): void {
    this.around.lateness.later(task)
  }
}
