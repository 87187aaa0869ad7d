/**
 * What peers, plain ones too, may make this process take in: unhandled bytes each and in total, rates, turns.
 * A peer over a limit is not read for a while, so that TCP makes it wait: for room in its own share of what waits to be
 * handled, for room in the total, for its rate, or for its turn.
 *
 * Only what must wait is weighed: messages handled at once cost a few additions a frame.
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

/** The reasons that may last as long as handlers do. */
const heldUp = reason.share | reason.total

/**
 * Over the total, each peer is read for one frame at a time. From this multiple of it on those are not read who count
 * together with others and have, all of them, more than their part …
 */
const crowdedAt = 2
/** … and from this one on nobody is. */
const fullAt = 4
/** How often a held-up peer is read for one more thing, in ms: by PROTOCOL.md §6.3 a sender waits at least 10 s. */
const sipMillis = 5_000
/** How often peers over their rate are checked, in ms. */
const rateMillis = 100
/** What a turn may cost, in bytes: some two or three milliseconds of work. */
const turnCost = 256 * 1024
/** The size of a piece that is always read at once, in bytes. */
const pieceCost = 64 * 1024
/** What a frame costs beside its bytes. */
const frameCost = 512
/** A peer that costs less than this in a turn never waits. */
const freeCost = 32 * 1024
/** How many of those in line are read in a turn. */
const readAtOnce = 8

/** Whether the peer may be unread for as long as handlers take: then its silence means nothing. */
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
  /** Memory of all that waits to be handled, in bytes. */
  private held = 0
  /** Shares that hold anything, even those of peers without a connection, whose messages are still handled. */
  private readonly groups = new Map<string, Group>()
  /** When crowded: the shares that have more than their part. None of their peers is read, even one that holds nothing. */
  private readonly shut = new Set<string>()
  /** Their part, as of the last check. */
  private level = Infinity
  /** The total at which the parts are checked again. */
  private lookAt: number
  /** Nobody is read. */
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
    connection?.pause() // even if paused before: the program that registered it may have resumed it
    if ((why & heldUp) !== 0 && !isHeldUp(peer)) reading.stoppedAt = this.now()
    reading.stopped |= why
  }

  /** Reads on. `isOneOfMany`: hundreds may go on at once, so they are read one after the other. */
  private start(peer: Peer, why: number, isOneOfMany = false): void {
    const { connection, reading } = peer
    if (reading.stopped === 0) return
    reading.stopped &= ~why
    if (reading.stopped !== 0) return
    // A kept frame is handled once nothing else is going on.
    if (isOneOfMany || reading.kept !== undefined) this.standInLine(peer)
    else connection?.resume()
  }

  // --- what waits to be handled

  /** Whether what is handled next should be packed first. */
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

  /** Whether the peer is not read even one frame at a time. */
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

  /** Shares that are down to half of their part are read again; all of them once it is no longer crowded. */
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

  /** Adds to what the peer holds, and takes from it. */
  private weighIn(peer: Peer, weight: number): Group {
    const { reading } = peer
    const group = reading.group ??= this.groupOf(peer.share)
    reading.held += weight
    group.held += weight
    this.held += weight
    // It may be in another share when it next holds anything.
    if (reading.held === 0) reading.group = undefined
    if (group.held === 0) this.groups.delete(group.share)
    return group
  }

  private groupOf(share: string): Group {
    let group = this.groups.get(share)
    if (group === undefined) this.groups.set(share, group = { share, held: 0 })
    return group
  }

  /** The last `count` deliveries came together: all of them count until the last is handled. */
  hold(peer: Peer, count: number): void {
    const { incoming } = peer
    let weight = 0
    for (let i = incoming.size - count; i < incoming.size; i++) weight += this.weigh(incoming.at(i) as Delivery) // in bounds
    const last = incoming.back()
    if (last !== undefined) last.weight = weight
    this.weighIn(peer, weight)
    if (this.held >= this.lookAt) this.look()
    this.check(peer)
  }

  /** This much of what the peer holds is handled or given up. */
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

  /** Peers that wait because of the total: they go on when there is room, and else one frame at a time. */
  private relieve(peer: Peer): void {
    if (this.held <= (this.unhandledBytes * 3) / 4) {
      for (const other of this.overTotal) this.startForTotal(other, true)
    } else if (peer.reading.held === 0 && !this.isShut(peer)) this.startForTotal(peer, false)
  }

  /**
   * A peer of the protocol that is held up for long is read until one more thing comes. Otherwise it would give the
   * connection up, as nothing it sends is received, and its acks come behind that. Its window bounds it.
   */
  sip(peer: Peer, at: number): void {
    if (this.isShut(peer) || at - peer.reading.stoppedAt < sipMillis) return
    this.overTotal.delete(peer)
    this.start(peer, heldUp)
  }

  // --- how fast it comes

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

  /** A peer over its rate is read again once the rate allows. */
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
   * What one turn of the event loop takes in is bounded, so that peers who send all the time don't hold up those who send
   * little: they wait in line, and each turn reads a few of them.
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

  /** Whether a frame must wait, as it is large and this turn has had enough. */
  keep(peer: Peer, data: string, bytes: number): boolean {
    if (bytes < freeCost || this.connected.size < 2) return false
    // A frame that fills a turn by itself comes after all others of its turn.
    if (this.spent < turnCost && bytes < turnCost) return false
    peer.reading.kept = { data, bytes }
    this.standInLine(peer)
    return true
  }

  /** Its turn has come. */
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

  /** A frame of this many bytes came, or a ping or pong. */
  took(peer: Peer, bytes: number): void {
    if (this.rate !== undefined) this.checkRate(peer, bytes, this.rate)
    if (this.connected.size > 1) this.takeTurn(peer, bytes)
  }

  /** A piece of this many bytes came. It is not taken in if the peer is paused after this call. */
  coming(peer: Peer, bytes: number): void {
    if (this.connected.size < 2) return
    if (this.spent > turnCost) this.standInLine(peer)
    else this.takeTurn(peer, bytes)
  }

  /** Unpacks a delivery whose turn has come, once there is room for it. */
  unpack(delivery: Delivery): Effect.Effect<void> {
    return this.unpacking.unpack(delivery)
  }

  /** It is handled, or never will be. */
  done(delivery: Delivery): void {
    this.unpacking.done(delivery)
  }

  /** Whether the peer, or all together, hold so much that droppable messages should be dropped. */
  isScarce(peer: Peer): boolean {
    return peer.reading.held >= this.maxShare / 2 || this.held >= this.unhandledBytes
  }

  /** Nothing of what the peer holds will be handled here. */
  releaseAll(peer: Peer): void {
    this.release(peer, peer.reading.held)
  }

  /** It has a new connection. */
  attached(peer: Peer): void {
    this.check(peer)
  }

  /** Its connection is gone, or another's. */
  detached(peer: Peer): void {
    this.overTotal.delete(peer)
    this.overRate.delete(peer)
    this.inLine.delete(peer)
    peer.reading.kept = undefined
    if (peer.reading.stopped === 0) return
    peer.reading.stopped = 0
    peer.connection?.resume()
  }

  /** Memory of all that waits to be handled, in bytes. */
  total(): number {
    return this.held
  }
}
