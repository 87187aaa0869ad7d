/**
 * What peers, plain ones too, may make this process take in: unhandled bytes for each and in total, rates, turns. A peer that goes
 * beyond it is not read for a while, and TCP makes it wait: for its own share of what waits to be handled, for the
 * total of all, for its rate, or for its turn.
 *
 * Only what has to wait is weighed: what is handled as it comes costs a few additions a frame.
 */
import { type Duration, Effect } from "effect"
import type { Recorder } from "../../Metrics.ts"
import { Rounds } from "../bounds/rounds.ts"
import { count, millis } from "../kit/options.ts"
import { memoryOf, messageBytes } from "../kit/weight.ts"
import type { Delivery } from "../session/incoming.ts"
import type { Peer } from "../session/peer.ts"
import type { Group } from "../session/reading.ts"
import { levelOf } from "./level.ts"
import { makeUnpacking, pack } from "./packing.ts"

/**
 * How much one client may send before it is not read for a while.
 *
 * @since 0.1.0
 * @category models
 */
export interface RateLimit {
  /** WebSocket messages, pings and pongs a second; a frame of the protocol carries many messages. Default 10,000. */
  readonly framesPerSecond?: number | undefined
  /** Their bytes a second. Default 256 MiB. */
  readonly bytesPerSecond?: number | undefined
  /** How much may come at once: what the rates allow in this time. Default 2 seconds. */
  readonly burst?: Duration.Input | undefined
}

export interface IntakeLimits {
  /** Memory of what was received and is not handled, of all peers together, in bytes. */
  readonly unhandledBytes: number
  readonly rate: {
    readonly millisAFrame: number
    readonly millisAByte: number
    /** How far a peer may be ahead of its rate. */
    readonly burstMillis: number
  } | undefined
}

export const limitsOf = (options: {
  readonly maxUnhandledBytes?: number | undefined
  readonly rateLimit?: RateLimit | "none" | undefined
}): IntakeLimits => {
  const unhandledBytes = count("maxUnhandledBytes", options.maxUnhandledBytes, defaultUnhandledBytes)
  const { rateLimit = {} } = options
  if (rateLimit === "none") return { unhandledBytes, rate: undefined }
  const { burst, bytesPerSecond, framesPerSecond } = rateLimit
  return {
    unhandledBytes,
    rate: {
      millisAFrame: 1_000 / count("rateLimit.framesPerSecond", framesPerSecond, 10_000),
      millisAByte: 1_000 / count("rateLimit.bytesPerSecond", bytesPerSecond, 256 * 1024 * 1024),
      burstMillis: millis("rateLimit.burst", burst, "2 seconds")
    }
  }
}

/** Why a peer is not read. */
const reason = { share: 1, total: 2, rate: 4, turn: 8 } as const

/** What may take as long as handlers do. */
const heldUp = reason.share | reason.total

/** Whether what the peer says lies unread for as long as handlers take: then silence says nothing about it. */
export const isHeldUp = (peer: Peer): boolean => (peer.reading.stopped & heldUp) !== 0

export type Intake = ReturnType<typeof makeIntake>

export const makeIntake = (options: {
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
}) => {
  const { connected, now, recorder } = options
  const { rate, unhandledBytes } = options.limits
  const maxShare = unhandledBytes / 4
  let total = 0
  /** Shares that hold anything. Also of peers that lost their connection, whose messages are handled all the same. */
  const groups = new Map<string, Group>()
  /** Where it is crowded, the shares that have more than their part: not even those of them who hold nothing are read. */
  const shut = new Set<string>()
  /** What their part is, since it was looked last. */
  let level = Infinity
  /** At this total it is looked again. */
  let lookAt = crowdedAt * unhandledBytes
  /** Nobody is read. */
  let isFull = false
  const overTotal = new Set<Peer>()
  const overRate = new Set<Peer>()
  let isWatchingRates = false
  let turn = 1
  let spent = 0
  let isTurnEnding = false
  const inLine = new Rounds<Peer>()
  const { done, unpack } = makeUnpacking(unhandledBytes)

  const stop = (peer: Peer, why: number): void => {
    const { connection, reading } = peer
    connection?.pause() // also again: who it was given by may have let it go on
    if ((why & heldUp) !== 0 && !isHeldUp(peer)) reading.stoppedAt = now()
    reading.stopped |= why
  }

  /** Reads on; where `isOneOfMany`, hundreds may go on at once, and are read one after the other. */
  const start = (peer: Peer, why: number, isOneOfMany = false): void => {
    const { connection, reading } = peer
    if (reading.stopped === 0) return
    reading.stopped &= ~why
    if (reading.stopped !== 0) return
    // What is kept is handled when nothing else is going on.
    if (isOneOfMany || reading.kept !== undefined) standInLine(peer)
    else connection?.resume()
  }

  // --- what waits to be handled

  /** Whether what is handled next should be packed first. */
  const isTight = (): boolean => total >= unhandledBytes / 2

  const weigh = (delivery: Delivery): number => {
    if (isTight()) return pack(delivery)
    return messageBytes + (delivery.kind === "gap" ? 0 : memoryOf(delivery.value))
  }

  const maxWaiting = ({ core, dialect }: Peer): number => core.options.window.messages * dialect.waitingWindows

  const stopForTotal = (peer: Peer): void => {
    overTotal.add(peer)
    stop(peer, reason.total)
  }

  const startForTotal = (peer: Peer, isOneOfMany: boolean): void => {
    if (overTotal.delete(peer)) start(peer, reason.total, isOneOfMany)
  }

  const check = (peer: Peer): void => {
    const { held } = peer.reading
    if (held >= maxShare || peer.incoming.size >= maxWaiting(peer)) stop(peer, reason.share)
    if (isShut(peer) || (total >= unhandledBytes && held > 0)) stopForTotal(peer)
  }

  /** Whether it is not even read for one frame at a time. */
  const isShut = ({ share }: Peer): boolean => isFull || shut.has(share)

  const look = (): void => {
    lookAt = total + unhandledBytes / 4
    isFull = total >= fullAt * unhandledBytes
    level = levelOf(Array.from(groups.values(), ({ held }) => held), (crowdedAt - 1) * unhandledBytes)
    for (const { held, share } of groups.values()) if (held > level) shut.add(share)
    for (const peer of connected) if (isShut(peer)) stopForTotal(peer)
    openAgain()
  }

  /** Shares that have half of their part by now, or less, are read again; and all where it is crowded no more. */
  const openAgain = (): void => {
    const isCrowded = total > (crowdedAt - 1) * unhandledBytes
    if (!isCrowded) lookAt = crowdedAt * unhandledBytes
    let opened = 0
    if (isFull && total <= (fullAt - 1) * unhandledBytes) {
      isFull = false
      opened++
    }
    for (const share of shut) {
      if (isCrowded && (groups.get(share)?.held ?? 0) > level / 2) continue
      shut.delete(share)
      opened++
    }
    if (opened === 0) return
    for (const other of overTotal) if (other.reading.held === 0 && !isShut(other)) startForTotal(other, true)
  }

  /** Adds to what the peer holds, and takes from it. */
  const weighIn = (peer: Peer, weight: number): Group => {
    const { reading } = peer
    const group = reading.group ??= groupOf(peer.share)
    reading.held += weight
    group.held += weight
    total += weight
    // It may be of another share when it next holds anything.
    if (reading.held === 0) reading.group = undefined
    if (group.held === 0) groups.delete(group.share)
    return group
  }

  const groupOf = (share: string): Group => {
    let group = groups.get(share)
    if (group === undefined) groups.set(share, group = { share, held: 0 })
    return group
  }

  /** The last `count` of what waits came together: all of it counts until the last is handled. */
  const hold = (peer: Peer, count: number): void => {
    const { incoming } = peer
    let weight = 0
    for (let i = incoming.size - count; i < incoming.size; i++) weight += weigh(incoming.at(i) as Delivery) // in bounds
    const last = incoming.back()
    if (last !== undefined) last.weight = weight
    weighIn(peer, weight)
    if (total >= lookAt) look()
    check(peer)
  }

  /** So much of what the peer holds is handled, or given up. */
  const release = (peer: Peer, weight: number): void => {
    const { reading } = peer
    const group = weighIn(peer, -weight)
    if (
      (reading.stopped & reason.share) !== 0 && reading.held <= maxShare / 2 &&
      peer.incoming.size <= maxWaiting(peer) / 2
    ) {
      start(peer, reason.share)
    }
    const mayOpen = isFull || total <= (crowdedAt - 1) * unhandledBytes ||
      (group.held <= level / 2 && shut.has(group.share))
    if (mayOpen && lookAt > crowdedAt * unhandledBytes) openAgain()
    if (overTotal.size > 0) relieve(peer)
  }

  /** Whoever has to wait because of all together: goes on when there is room again, and else with one frame at a time. */
  const relieve = (peer: Peer): void => {
    if (total <= (unhandledBytes * 3) / 4) { for (const other of overTotal) startForTotal(other, true) }
    else if (peer.reading.held === 0 && !isShut(peer)) startForTotal(peer, false)
  }

  /**
   * Who speaks the protocol and is held up for long is read until it brings one thing more: it would give the connection
   * up where nothing is received of what it sends, and its acks come behind that. Its window bounds it.
   */
  const sip = (peer: Peer, at: number): void => {
    if (isShut(peer) || at - peer.reading.stoppedAt < sipMillis) return
    overTotal.delete(peer)
    start(peer, heldUp)
  }

  // --- how fast it comes

  const checkRate = (peer: Peer, bytes: number, limit: NonNullable<typeof rate>): void => {
    const at = now()
    const { reading } = peer
    reading.until = Math.max(reading.until, at) + Math.max(limit.millisAFrame, bytes * limit.millisAByte)
    if (reading.until - at <= limit.burstMillis || overRate.has(peer)) return
    recorder.count("connectionsThrottled")
    options.onLimited(peer)
    stop(peer, reason.rate)
    overRate.add(peer)
    if (isWatchingRates) return
    isWatchingRates = true
    options.run(untilNoneIsOver(limit))
  }

  /** Who was over its rate is read again once it has some to spare. */
  const untilNoneIsOver = (limit: NonNullable<typeof rate>): Effect.Effect<void> =>
    Effect.flatMap(Effect.sleep(rateMillis), () => {
      const enough = now() + limit.burstMillis - Math.min(rateMillis, limit.burstMillis / 2)
      for (const peer of overRate) {
        if (peer.reading.until > enough) continue
        overRate.delete(peer)
        start(peer, reason.rate, true)
      }
      if (overRate.size > 0) return untilNoneIsOver(limit)
      isWatchingRates = false
      return Effect.void
    })

  // --- whose turn it is

  /**
   * What one turn of the event loop takes in is bounded, so that those who send little are not kept waiting by those who
   * send all the time: these stand in line, and a few of them are read in each turn.
   */
  const takeTurn = (peer: Peer, bytes: number): void => {
    const { reading } = peer
    if (reading.turn !== turn) {
      reading.turn = turn
      reading.spent = 0
    }
    const cost = bytes + frameCost
    reading.spent += cost
    spent += cost
    if (spent > turnCost && reading.spent > freeCost) standInLine(peer)
    endTurnLater()
  }

  const standInLine = (peer: Peer): void => {
    stop(peer, reason.turn)
    inLine.add(peer)
    endTurnLater()
  }

  /** Whether a frame is so large that it has to wait, as this turn has had enough. */
  const keep = (peer: Peer, data: string, bytes: number): boolean => {
    if (bytes < freeCost || connected.size < 2) return false
    // One that is a turn's worth by itself comes after all others of its turn.
    if (spent < turnCost && bytes < turnCost) return false
    peer.reading.kept = { data, bytes }
    standInLine(peer)
    return true
  }

  /** Its turn has come. */
  const goOn = (peer: Peer): void => {
    const { kept } = peer.reading
    if (kept === undefined || (peer.reading.stopped & ~reason.turn) !== 0) return start(peer, reason.turn)
    peer.reading.kept = undefined
    spent += kept.bytes
    if (rate !== undefined) checkRate(peer, kept.bytes, rate)
    options.onTurn(peer, kept.data, kept.bytes)
    start(peer, reason.turn)
  }

  const endTurnLater = (): void => {
    if (isTurnEnding) return
    isTurnEnding = true
    options.later(endTurn)
  }

  const endTurn = (): void => {
    isTurnEnding = false
    turn++
    spent = 0
    let expected = 0
    for (let left = readAtOnce; left > 0 && spent + expected <= turnCost; left--) {
      const next = inLine.take()
      if (next === undefined) break
      expected += next.reading.spent || pieceCost // as last time
      goOn(next)
    }
    if (inLine.size > 0) endTurnLater()
  }

  return {
    keep,
    /** A frame of so many bytes came, or a ping or pong. */
    took: (peer: Peer, bytes: number): void => {
      if (rate !== undefined) checkRate(peer, bytes, rate)
      if (connected.size > 1) takeTurn(peer, bytes)
    },
    /** A piece of so many bytes came, and is not taken in if the peer is not read after this call. */
    coming: (peer: Peer, bytes: number): void => {
      if (connected.size < 2) return
      if (spent > turnCost) standInLine(peer)
      else takeTurn(peer, bytes)
    },
    isTight,
    hold,
    unpack,
    /** It is handled, or never will be. */
    done,
    release,
    sip,
    /** Whether the peer, or all together, hold so much that what may be dropped should be. */
    isScarce: (peer: Peer): boolean => peer.reading.held >= maxShare / 2 || total >= unhandledBytes,
    /** Nothing of what the peer holds will be handled here. */
    releaseAll: (peer: Peer): void => release(peer, peer.reading.held),
    /** It has a new connection. */
    attached: check,
    /** Its connection is gone, or another's. */
    detached: (peer: Peer): void => {
      overTotal.delete(peer)
      overRate.delete(peer)
      inLine.delete(peer)
      peer.reading.kept = undefined
      if (peer.reading.stopped === 0) return
      peer.reading.stopped = 0
      peer.connection?.resume()
    },
    /** Memory of all that waits to be handled, in bytes. */
    total: () => total
  }
}

/** A quarter of it is a peer's share. In a heap of 512 MB there is room for it, and for what goes beyond it. */
const defaultUnhandledBytes = 32 * 1024 * 1024

/**
 * Over the total, each peer is read for one frame at a time. From this multiple of it on those are not read who count
 * together with others and have, all of them, more than their part …
 */
const crowdedAt = 2
/** … and from this one on nobody is. */
const fullAt = 4

/** How often who is held up is read for one thing more, in ms: PROTOCOL.md §6.3 lets a sender wait for 10 s at least. */
const sipMillis = 5_000

/** How often those over their rate are looked at, in ms. */
const rateMillis = 100

/** What a turn may cost, in bytes: some two or three milliseconds of work. */
const turnCost = 256 * 1024
/** A piece that is read at once, of which nothing is known. */
const pieceCost = 64 * 1024
/** What a frame costs beside its bytes. */
const frameCost = 512
/** Who costs less than this in a turn is not made to wait. */
const freeCost = 32 * 1024
/** How many of those in line are read in a turn. */
const readAtOnce = 8
