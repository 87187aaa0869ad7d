/** One connection through the fault proxy: a client's socket, its counterpart to the target, what is done to them. */
import { Effect, Latch } from "effect"
import type { Socket } from "node:net"
import { highWaterBytes } from "../../core/Protocol.ts"
import { DelayLine, type Direction, type Lateness } from "../delayLine.ts"
import type { Fault } from "./faultPlan.ts"

export type Strike = Extract<Fault, { readonly kind: "cut" | "halfOpen" }>

export interface LinkEvents {
  readonly opened: () => void
  readonly forwarded: (bytes: number) => void
  readonly struck: (strike: Strike) => void
  /** One side of a half-open link gave it up. */
  readonly givenUp: () => void
  readonly closed: (wasOpen: boolean) => void
}

/** What goes in one direction. */
interface Stream {
  readonly from: Socket
  readonly to: Socket
  readonly line: DelayLine
  /** Whether its bytes vanish. */
  isLost: boolean
}

export class Link {
  /** The place among {@link Targets}, -1 if it is not one of them. */
  slot = -1
  readonly closed: Promise<void>
  private readonly client: Socket
  private readonly upstream: Socket
  private readonly events: LinkEvents
  private readonly streams: Readonly<Record<Direction, Stream>>
  private wasOpen = false
  private stalls = 0
  private armed: Strike | undefined
  /** Of a half-open link, the sides that have given up. */
  private readonly givers = new Set<Socket>()

  constructor(client: Socket, upstream: Socket, lateness: Lateness, events: LinkEvents) {
    this.client = client
    this.upstream = upstream
    this.events = events
    this.streams = {
      toServer: { from: client, to: upstream, line: new DelayLine("toServer", lateness), isLost: false },
      toClient: { from: upstream, to: client, line: new DelayLine("toClient", lateness), isLost: false }
    }
    upstream.on("error", ignore)
    upstream.once("connect", () => {
      this.wasOpen = true
      for (const stream of Object.values(this.streams)) this.pipe(stream)
      this.flow()
      events.opened()
    })
    const socketClosed = (stream: Stream) =>
      new Promise<void>((resolve) =>
        stream.from.once("close", () => {
          this.sideClosed(stream)
          resolve()
        })
      )
    this.closed = Promise.all(Object.values(this.streams).map(socketClosed)).then(() => {
      for (const { line } of Object.values(this.streams)) line.drop()
      events.closed(this.wasOpen)
    })
  }

  get isClosing(): boolean {
    return this.client.destroyed || this.upstream.destroyed
  }

  get isHalfOpen(): boolean {
    return this.streams.toServer.isLost || this.streams.toClient.isLost
  }

  stall(): void {
    this.stalls++
    this.flow()
  }

  endStall(): void {
    this.stalls--
    this.flow()
  }

  /** From now on, the bytes of these directions vanish. */
  lose(directions: ReadonlyArray<Direction>): void {
    for (const direction of directions) {
      this.streams[direction].isLost = true
      this.streams[direction].line.drop()
    }
    this.flow()
  }

  /** What is late arrives now. */
  hurry(): void {
    for (const { line } of Object.values(this.streams)) line.hurry()
  }

  /** The next chunk, of either direction, is forwarded up to a random byte; then the strike happens. */
  arm(strike: Strike): void {
    this.armed = strike
  }

  /** Takes an armed strike back; false if it has happened already. */
  disarm(): boolean {
    const wasArmed = this.armed !== undefined
    this.armed = undefined
    return wasArmed
  }

  strikeNow(): void {
    const strike = this.armed
    if (strike === undefined || this.isClosing) return
    this.armed = undefined
    this.events.struck(strike)
    if (strike.kind === "halfOpen") {
      this.lose(["toServer", "toClient"])
    } else if (strike.reset) {
      this.client.resetAndDestroy()
      this.upstream.resetAndDestroy()
    } else {
      this.destroy()
    }
  }

  destroy(): void {
    this.client.destroy()
    this.upstream.destroy()
  }

  private pipe(stream: Stream): void {
    const { from, line, to } = stream
    from.on("data", (chunk) => {
      if (stream.isLost) return
      const part = this.armed === undefined ? chunk : chunk.subarray(0, Math.floor(this.armed.at * chunk.length))
      line.push({ bytes: part.length, arrive: () => this.forward(stream, part) })
      // Node hands a write to the kernel before `write` returns unless earlier ones wait, so a cut now loses the
      // rest of the chunk and what was queued: a suffix.
      if (this.armed !== undefined) this.strikeNow()
      else this.flow()
    })
    to.on("drain", () => this.flow())
    from.on("end", () => {
      if (stream.isLost) return this.giveUp(from)
      line.push({ bytes: 0, arrive: () => to.end(), lose: () => stream.isLost && this.giveUp(from) })
    })
  }

  private forward({ to }: Stream, bytes: Uint8Array): void {
    if (to.destroyed) return
    this.events.forwarded(bytes.length)
    to.write(bytes)
    this.flow()
  }

  /** Reads from each side if the other can take it, and nothing is stalled. */
  private flow(): void {
    if (!this.wasOpen || this.isClosing) return
    for (const { from, isLost, line, to } of Object.values(this.streams)) {
      const isFree = this.stalls === 0 && !to.writableNeedDrain && line.bytes < highWaterBytes
      if (isLost || isFree) from.resume()
      else from.pause()
    }
  }

  private sideClosed({ from, isLost, to }: Stream): void {
    if (isLost) return this.giveUp(from)
    // Ended both ways, the other side closes by itself once it has written what it was given.
    if (to.destroyed || (to.readableEnded && to.writableEnded)) return
    to.resetAndDestroy()
  }

  /** A half-open link: the side is gone, and the other must not learn of it from us before it is, or lingered. */
  private giveUp(side: Socket): void {
    const isFirst = this.givers.size === 0
    this.givers.add(side)
    if (this.givers.size === 2) this.destroy()
    else if (isFirst) this.events.givenUp()
  }
}

export const ignore = (): void => {}

/** The links that a fault at random may choose, with an O(1) random pick that waits while there is none. */
export class Targets {
  private readonly links: Array<Link> = []
  private readonly some = Latch.makeUnsafe(false)

  add(link: Link): void {
    if (link.slot >= 0 || link.isClosing) return
    link.slot = this.links.push(link) - 1
    this.some.openUnsafe()
  }

  delete(link: Link): void {
    const last = this.links.at(-1)
    if (link.slot < 0 || last === undefined) return
    this.links[link.slot] = last
    last.slot = link.slot
    this.links.pop()
    link.slot = -1
    if (this.links.length === 0) this.some.closeUnsafe()
  }

  pick(victim: number): Effect.Effect<Link> {
    return Effect.flatMap(this.some.await, () => {
      const link = this.links[Math.floor(victim * this.links.length)]
      // It may have gone between the latch's opening and now.
      return link === undefined ? this.pick(victim) : Effect.succeed(link)
    })
  }
}
