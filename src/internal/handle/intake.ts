/**
 * How much peers, plain ones too, may make this process take in: unhandled bytes for each and in total, rates, turns.
 * A peer that goes beyond a limit is not read for a while, and TCP makes it wait. The limits are its own part of what
 * waits to be handled, the total of all peers, its rate, and its turn.
 *
 * Only what has to wait is weighed: a frame that is handled as it comes costs a few additions.
 */
import { Effect } from "effect"
import type { Recorder } from "../../Metrics.ts"
import { Rounds } from "../bounds/rounds.ts"
import { memoryOf, messageBytes } from "../kit/weight.ts"
import type { Delivery } from "../session/incoming.ts"
import type { Peer } from "../session/peer.ts"
import type { Group } from "../session/reading.ts"
import type { IntakeLimits } from "./intakeLimits.ts"
import { levelOf } from "./level.ts"
import { makeUnpacking, pack } from "./packing.ts"

/** Why a peer is not read. */
const reason = { share: 1, total: 2, rate: 4, turn: 8 } as const

/** Reasons that may last as long as handlers take. */
const heldUp = reason.share | reason.total

/**
 * Over the total, each peer is read one frame at a time. From this multiple of the total on, peers of a share that
 * holds more than its part are not read at all …
 */
const crowdedAt = 2
/** … and from this multiple on, no peer is. */
const fullAt = 4
/** How often a held-up peer is read for one thing more, in ms: PROTOCOL.md §6.3 lets a sender wait at least 10 s. */
const sipMillis = 5_000
/** How often peers over their rate are checked, in ms. */
const rateMillis = 100
/** What a turn may cost, in bytes: two or three ms of work. */
const turnCost = 256 * 1024
/** The assumed cost of a peer whose last turn cost nothing, in bytes: one piece. */
const pieceCost = 64 * 1024
/** What a frame costs besides its bytes. */
const frameCost = 512
/** A peer that costs less than this in a turn need not wait. */
const freeCost = 32 * 1024
/** How many peers in line are read in one turn. */
const readAtOnce = 8

/** Whether the peer may stay unread for as long as handlers take: its silence then says nothing about it. */
export const isHeldUp = (peer: Peer): boolean => (peer.reading.stopped & heldUp) !== 0

type Rate = NonNullable<IntakeLimits["rate"]>

export interface IntakeOptions {
  readonly limits: IntakeLimits
  readonly now: () => number
  /** Runs a task in the next turn of the event loop. */
  readonly later: (task: () => void) => void
  readonly run: (effect: Effect.Effect<void>) => void
  readonly connected: ReadonlySet<Peer>
  readonly recorder: Recorder
  /** Handles a frame that was kept. */
  readonly onTurn: (peer: Peer, data: string, bytes: number) => void
  /** A peer is over its rate. */
  readonly onLimited: (peer: Peer) => void
}

export class Intake {
  private readonly options: IntakeOptions
  private readonly now: () => number
  private readonly connected: ReadonlySet<Peer>
  private readonly rate: IntakeLimits["rate"]
  private readonly unhandledBytes: number
  private readonly maxShare: number
  private readonly unpacking: ReturnType<typeof makeUnpacking>
  /** Memory that unhandled deliveries of all peers take, in bytes. */
  private held = 0
  /** Shares that hold anything. Peers without a connection count too: their messages are still handled. */
  private readonly groups = new Map<string, Group>()
  /** While it is crowded: shares with more than their part. No peer of theirs is read, even one that holds nothing. */
  private readonly shut = new Set<string>()
  /** A share's part, as of the last look. */
  private level = Infinity
  /** The total at which to look again. */
  private lookAt: number
  /** No peer is read. */
  private isFull = false
  private readonly overTotal = new Set<Peer>()
  private readonly overRate = new Set<Peer>()
  private isWatchingRates = false
  private turn = 1
  private spent = 0
  private isTurnEnding = false
  private readonly inLine = new Rounds<Peer>()

  constructor(options: IntakeOptions) {
    const { rate, unhandledBytes } = options.limits
    this.options = options
    this.now = options.now
    this.connected = options.connected
    this.rate = rate
    this.unhandledBytes = unhandledBytes
    this.maxShare = unhandledBytes / 4
    this.lookAt = crowdedAt * unhandledBytes
    this.unpacking = makeUnpacking(unhandledBytes)
  }

  private stop(peer: Peer, why: number): void {
    const { connection, reading } = peer
    connection?.pause() // even if paused already: whoever gave us the connection may have resumed it
    if ((why & heldUp) !== 0 && !isHeldUp(peer)) reading.stoppedAt = this.now()
    reading.stopped |= why
  }

  /** Reads the peer again. With `isOneOfMany`, hundreds may start at once: they line up and are read in turn. */
  private start(peer: Peer, why: number, isOneOfMany = false): void {
    const { connection, reading } = peer
    if (reading.stopped === 0) return
    reading.stopped &= ~why
    if (reading.stopped !== 0) return
    // A kept frame is handled when the peer's turn comes.
    if (isOneOfMany || reading.kept !== undefined) this.standInLine(peer)
    else connection?.resume()
  }

  // --- what waits to be handled

  /** Whether memory is so tight that what waits is packed. */
  isTight(): boolean {
    return this.held >= this.unhandledBytes / 2
  }

  private weigh(delivery: Delivery): number {
    if (this.isTight()) return pack(delivery)
    return messageBytes + (delivery.kind === "gap" ? 0 : memoryOf(delivery.value))
  }

  private maxWaiting({ core, dialect }: Peer): number {
    return core.options.window.messages * dialect.waitingWindows
  }

  private stopForTotal(peer: Peer): void {
    this.overTotal.add(peer)
    this.stop(peer, reason.total)
  }

  private startForTotal(peer: Peer, isOneOfMany: boolean): void {
    if (this.overTotal.delete(peer)) this.start(peer, reason.total, isOneOfMany)
  }

  private check(peer: Peer): void {
    const { held } = peer.reading
    if (held >= this.maxShare || peer.incoming.size >= this.maxWaiting(peer)) this.stop(peer, reason.share)
    if (this.isShut(peer) || (this.held >= this.unhandledBytes && held > 0)) this.stopForTotal(peer)
  }

  /** Whether the peer is not read at all, not even one frame at a time. */
  private isShut({ share }: Peer): boolean {
    return this.isFull || this.shut.has(share)
  }

  private look(): void {
    this.lookAt = this.held + this.unhandledBytes / 4
    this.isFull = this.held >= fullAt * this.unhandledBytes
    this.level = levelOf(Array.from(this.groups.values(), ({ held }) => held), (crowdedAt - 1) * this.unhandledBytes)
    for (const { held, share } of this.groups.values()) if (held > this.level) this.shut.add(share)
    for (const peer of this.connected) if (this.isShut(peer)) this.stopForTotal(peer)
    this.openAgain()
  }

  /** Reads shares again that are down to half of their part; once it is no longer crowded, all of them. */
  private openAgain(): void {
    const isCrowded = this.held > (crowdedAt - 1) * this.unhandledBytes
    if (!isCrowded) this.lookAt = crowdedAt * this.unhandledBytes
    let opened = 0
    if (this.isFull && this.held <= (fullAt - 1) * this.unhandledBytes) {
      this.isFull = false
      opened++
    }
    for (const share of this.shut) {
      if (isCrowded && (this.groups.get(share)?.held ?? 0) > this.level / 2) continue
      this.shut.delete(share)
      opened++
    }
    if (opened === 0) return
    for (const other of this.overTotal) {
      if (other.reading.held === 0 && !this.isShut(other)) this.startForTotal(other, true)
    }
  }

  /** Adds `weight`, which may be negative, to what the peer holds. */
  private weighIn(peer: Peer, weight: number): Group {
    const { reading } = peer
    const group = reading.group ??= this.groupOf(peer.share)
    reading.held += weight
    group.held += weight
    this.held += weight
    // The peer may be in another share when it next holds anything.
    if (reading.held === 0) reading.group = undefined
    if (group.held === 0) this.groups.delete(group.share)
    return group
  }

  private groupOf(share: string): Group {
    let group = this.groups.get(share)
    if (group === undefined) this.groups.set(share, group = { share, held: 0 })
    return group
  }

  /** The last `count` deliveries came in one frame: all of them count until the last one is handled. */
  hold(peer: Peer, count: number): void {
    const { incoming } = peer
    let weight = 0
    // Each `i` is in bounds.
    for (let i = incoming.size - count; i < incoming.size; i++) weight += this.weigh(incoming.at(i) as Delivery)
    const last = incoming.back()
    if (last !== undefined) last.weight = weight
    this.weighIn(peer, weight)
    if (this.held >= this.lookAt) this.look()
    this.check(peer)
  }

  /** This much of what the peer holds is handled, or given up. */
  release(peer: Peer, weight: number): void {
    const { reading } = peer
    const group = this.weighIn(peer, -weight)
    if (
      (reading.stopped & reason.share) !== 0 && reading.held <= this.maxShare / 2 &&
      peer.incoming.size <= this.maxWaiting(peer) / 2
    ) {
      this.start(peer, reason.share)
    }
    const mayOpen = this.isFull || this.held <= (crowdedAt - 1) * this.unhandledBytes ||
      (group.held <= this.level / 2 && this.shut.has(group.share))
    if (mayOpen && this.lookAt > crowdedAt * this.unhandledBytes) this.openAgain()
    if (this.overTotal.size > 0) this.relieve(peer)
  }

  /** Reads all peers that the total held up once there is room; until then this one, when it holds nothing. */
  private relieve(peer: Peer): void {
    if (this.held <= (this.unhandledBytes * 3) / 4) {
      for (const other of this.overTotal) this.startForTotal(other, true)
    } else if (peer.reading.held === 0 && !this.isShut(peer)) this.startForTotal(peer, false)
  }

  /**
   * Reads a protocol peer that has long been held up, until one more thing comes: it would give up a connection on
   * which nothing that it sends is received, and its acks lie behind that. Its window bounds what comes.
   */
  sip(peer: Peer, at: number): void {
    if (this.isShut(peer) || at - peer.reading.stoppedAt < sipMillis) return
    this.overTotal.delete(peer)
    this.start(peer, heldUp)
  }

  // --- how fast peers may send

  private checkRate(peer: Peer, bytes: number, limit: Rate): void {
    const at = this.now()
    const { reading } = peer
    reading.until = Math.max(reading.until, at) + Math.max(limit.millisAFrame, bytes * limit.millisAByte)
    if (reading.until - at <= limit.burstMillis || this.overRate.has(peer)) return
    this.options.recorder.count("connectionsThrottled")
    this.options.onLimited(peer)
    this.stop(peer, reason.rate)
    this.overRate.add(peer)
    if (this.isWatchingRates) return
    this.isWatchingRates = true
    this.options.run(this.untilNoneIsOver(limit))
  }

  /** Reads peers that were over their rate again, once they have some to spare. */
  private untilNoneIsOver(limit: Rate): Effect.Effect<void> {
    return Effect.flatMap(Effect.sleep(rateMillis), () => {
      const enough = this.now() + limit.burstMillis - Math.min(rateMillis, limit.burstMillis / 2)
      for (const peer of this.overRate) {
        if (peer.reading.until > enough) continue
        this.overRate.delete(peer)
        this.start(peer, reason.rate, true)
      }
      if (this.overRate.size > 0) return this.untilNoneIsOver(limit)
      this.isWatchingRates = false
      return Effect.void
    })
  }

  // --- whose turn it is

  /**
   * Bounds what one turn of the event loop takes in, so that peers that send little need not wait for those that send
   * all the time. These stand in line, and each turn reads a few of them.
   */
  private takeTurn(peer: Peer, bytes: number): void {
    const { reading } = peer
    if (reading.turn !== this.turn) {
      reading.turn = this.turn
      reading.spent = 0
    }
    const cost = bytes + frameCost
    reading.spent += cost
    this.spent += cost
    if (this.spent > turnCost && reading.spent > freeCost) this.standInLine(peer)
    this.endTurnLater()
  }

  private standInLine(peer: Peer): void {
    this.stop(peer, reason.turn)
    this.inLine.add(peer)
    this.endTurnLater()
  }

  /** Keeps a frame that is too large for what is left of this turn. Returns whether it did. */
  keep(peer: Peer, data: string, bytes: number): boolean {
    if (bytes < freeCost || this.connected.size < 2) return false
    // A frame that fills a turn by itself always waits for the others of its turn.
    if (this.spent < turnCost && bytes < turnCost) return false
    peer.reading.kept = { data, bytes }
    this.standInLine(peer)
    return true
  }

  /** The peer's turn has come. */
  private goOn(peer: Peer): void {
    const { kept } = peer.reading
    if (kept === undefined || (peer.reading.stopped & ~reason.turn) !== 0) return this.start(peer, reason.turn)
    peer.reading.kept = undefined
    this.spent += kept.bytes
    if (this.rate !== undefined) this.checkRate(peer, kept.bytes, this.rate)
    this.options.onTurn(peer, kept.data, kept.bytes)
    this.start(peer, reason.turn)
  }

  private endTurnLater(): void {
    if (this.isTurnEnding) return
    this.isTurnEnding = true
    this.options.later(this.endTurn)
  }

  private readonly endTurn = (): void => {
    this.isTurnEnding = false
    this.turn++
    this.spent = 0
    let expected = 0
    for (let left = readAtOnce; left > 0 && this.spent + expected <= turnCost; left--) {
      const next = this.inLine.take()
      if (next === undefined) break
      expected += next.reading.spent || pieceCost // as last time
      this.goOn(next)
    }
    if (this.inLine.size > 0) this.endTurnLater()
  }

  /** A frame of this size came; 0 for a ping or pong. */
  took(peer: Peer, bytes: number): void {
    if (this.rate !== undefined) this.checkRate(peer, bytes, this.rate)
    if (this.connected.size > 1) this.takeTurn(peer, bytes)
  }

  /** A piece of this size came. If this call stops the peer, the piece is not taken in yet. */
  coming(peer: Peer, bytes: number): void {
    if (this.connected.size < 2) return
    if (this.spent > turnCost) this.standInLine(peer)
    else this.takeTurn(peer, bytes)
  }

  /** Unpacks a delivery whose turn has come, once there is room for it. */
  unpack(delivery: Delivery): Effect.Effect<void> {
    return this.unpacking.unpack(delivery)
  }

  /** The delivery is handled, or never will be. */
  done(delivery: Delivery): void {
    this.unpacking.done(delivery)
  }

  /** Whether the peer or all peers together hold so much that volatile messages should be dropped. */
  isScarce(peer: Peer): boolean {
    return peer.reading.held >= this.maxShare / 2 || this.held >= this.unhandledBytes
  }

  /** Nothing of what the peer holds will be handled here. */
  releaseAll(peer: Peer): void {
    this.release(peer, peer.reading.held)
  }

  /** The peer has a new connection. */
  attached(peer: Peer): void {
    this.check(peer)
  }

  /** The peer's connection is gone, or no longer its own. */
  detached(peer: Peer): void {
    this.overTotal.delete(peer)
    this.overRate.delete(peer)
    this.inLine.delete(peer)
    peer.reading.kept = undefined
    if (peer.reading.stopped === 0) return
    peer.reading.stopped = 0
    peer.connection?.resume()
  }

  /** Memory that unhandled deliveries of all peers take, in bytes. */
  total(): number {
    return this.held
  }
}
