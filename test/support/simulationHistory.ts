/** What happened in a simulation, as its programs saw it, and the promise as a check of it. */
import type { GapReason } from "../../src/core/Protocol.ts"
import type { DeadLetterReason } from "../../src/WebSocketError.ts"

/** One `send` of a program. */
export interface Sent {
  /** Unique: the sending process and a number. */
  readonly key: string
  readonly process: string
  readonly fromClient: boolean
  readonly volatile: boolean
  /** `unknown` when the send failed by a store: it may or may not have been taken. */
  status: "pending" | "accepted" | "refused" | "unknown"
  messageId: string | undefined
  /** When it was taken. */
  answeredAt: number | undefined
  /** What the receipt came to, and when. */
  outcome: "pending" | "handled" | DeadLetterReason
  settledAt: number | undefined
}

/** What a receiving process was given, in its order. */
type Event =
  | { readonly t: "message"; readonly key: string; readonly epoch: string; readonly offset: number }
  /** A message under a publisher's id: its offset is not told. */
  | { readonly t: "keyed" }
  | { readonly t: "gap"; readonly count: number; readonly reason: GapReason }

interface Letter {
  readonly process: string
  readonly direction: "in" | "out"
  readonly key: string
  readonly reason: DeadLetterReason
  readonly maybeHandled: boolean
  readonly at: number
}

interface ProcessLog {
  /** By session. */
  readonly events: Map<string, Array<Event>>
  /** Where the handler is. */
  readonly state: Map<string, "failed" | "running" | "done">
  /** When the handler was called first. */
  readonly startedAt: Map<string, number>
  /** When it last stood still, went on or was killed. */
  disturbedAt: number
  /** When it went on after a stand for longer than others wait for a sign of life. */
  wokeAt: number
  killed: boolean
  /** Messages that the store gave up for it. */
  gaveUp: number
}

/** What the scenario's documented promise allows. */
export interface Allowed {
  /** A message whose handling was not committed may be handled again by another process. */
  readonly uncommittedAgain: boolean
  /**
   * Two servers: one that has lost a session may go on until its next write of the position is refused.
   */
  readonly staleOwner: boolean
  /** But for one that stood still for longer than others wait: it asks first. */
  readonly confirms: boolean
  /** The session changes between client processes or loses its state: positions may jump forwards. */
  readonly jumps: boolean
  /** What a killed process had accepted may be gone with it. */
  readonly lostWithProcess: boolean
  /**
   * A process that is killed when the store has given messages up, and before it has told of it, takes their dead
   * letters with it.
   */
  readonly lettersLostWithProcess: boolean
}

/** What stands still for longer asks the store before it handles anything: `nodeTimeout` of the simulated stores, in ms. */
export const leaseMillis = 3_000

/** How long before a message is handled twice the disturbance may have been that leads to it, in ms. */
const takeoverMillis = 2_500

/** How long after a loss the servers, which look each second and may fail to, need to settle their outboxes, in ms. */
const settlingMillis = 5_000

export class History {
  readonly sent = new Map<string, Sent>()
  readonly letters: Array<Letter> = []
  readonly violations: Array<string> = []
  /** When what was stored was lost later. */
  private readonly losses: Array<{ readonly from: number; readonly to: number }> = []
  /** Messages given up of which their process does not know it. */
  private doubts: ReadonlyArray<{ readonly session: string; readonly process: string; readonly count: number }> = []
  private doubtsRemoved = 0
  private readonly failedByShutdown = new Set<string>()
  private readonly processes = new Map<string, ProcessLog>()
  /** The newest committed position of each log. */
  private readonly committed = new Map<string, number>()
  /** Those that came; `failed` until the retry of their handler. */
  private readonly volatileHandled = new Map<string, "taken" | "failed">()
  private readonly note: (text: string) => void
  private readonly now: () => number

  private readonly allowed: Allowed
  private jumps: boolean

  constructor(allowed: Allowed, note: (text: string) => void, now: () => number) {
    this.allowed = allowed
    this.jumps = allowed.jumps
    this.note = note
    this.now = now
  }

  /** The database of the servers has lost what it stored in this time. */
  lostNewest(from: number, to: number): void {
    this.losses.push({ from, to })
  }

  /** Whether a message that a server took was stored just before that was lost. */
  mayBeLost({ answeredAt = -1, fromClient }: Sent): boolean {
    return !fromClient && this.isLost(answeredAt)
  }

  /**
   * Whether it was stored so soon after a loss that the server which has the session need not have said yet how far its
   * log goes: then it is delivered at another position, and nobody can follow it there.
   */
  private mayBeMoved({ answeredAt = -1, fromClient }: Sent): boolean {
    return !fromClient && this.losses.some(({ to }) => to <= answeredAt && answeredAt <= to + settlingMillis)
  }

  /** Whether the database has lost what it stored at this time. */
  private isLost(at: number): boolean {
    return this.losses.some(({ from, to }) => from <= at && at <= to)
  }

  /** The process stands still, goes on, or is killed. */
  disturbed(name: string): void {
    this.process(name).disturbedAt = this.now()
  }

  /** It went on, after it stood still for so long. */
  wentOn(name: string, afterMillis: number): void {
    this.disturbed(name)
    if (afterMillis > leaseMillis) this.process(name).wokeAt = this.now()
  }

  violated(text: string): void {
    this.violations.push(text)
    this.note(`VIOLATION ${text}`)
  }

  process(name: string): ProcessLog {
    let log = this.processes.get(name)
    if (log === undefined) {
      log = {
        events: new Map(),
        state: new Map(),
        startedAt: new Map(),
        disturbedAt: -Infinity,
        wokeAt: -Infinity,
        killed: false,
        gaveUp: 0
      }
      this.processes.set(name, log)
    }
    return log
  }

  /** The store gave messages up for this process, which is about to tell of them. */
  gaveUp(name: string, messages: number): void {
    this.process(name).gaveUp += messages
  }

  /** How many dead letters went with processes that were killed. */
  private lettersLost(): number {
    if (!this.allowed.lettersLostWithProcess) return 0
    let lost = this.doubtsRemoved
    for (const [name, { gaveUp, killed }] of this.processes) {
      if (!killed) continue
      const told = this.letters.filter(({ direction, process }) => direction === "out" && process === name).length
      lost += Math.max(0, gaveUp - told)
    }
    return lost
  }

  /** The store gave so many messages up for the process, which has no answer. */
  inDoubt(session: string, process: string, count: number): void {
    if (count > 0) this.doubts = [...this.doubts, { session, process, count }]
  }

  /** A process removed the outbox: what others were to learn of it, they can't. */
  removed(session: string, process: string): void {
    for (const doubt of this.doubts) {
      if (doubt.session === session && doubt.process !== process) this.doubtsRemoved += doubt.count
    }
    this.doubts = this.doubts.filter((doubt) => doubt.session !== session)
  }

  private add(process: string, session: string, event: Event): void {
    const { events } = this.process(process)
    const list = events.get(session)
    if (list === undefined) events.set(session, [event])
    else list.push(event)
  }

  saved(epoch: string, handled: number): void {
    this.committed.set(epoch, Math.max(this.committed.get(epoch) ?? 0, handled))
  }

  /** A handler was called. */
  started(process: string, session: string, key: string, messageId: string | undefined): void {
    this.note(`${process} handles ${key}`)
    const sent = this.sent.get(key)
    if (sent === undefined) return this.violated(`${process} was given ${key}, which nobody sent`)
    if (messageId === undefined) {
      if (!sent.volatile) this.violated(`${key} came as a volatile message to ${process}`)
      if (this.volatileHandled.get(key) === "taken") this.violated(`volatile ${key} came twice`)
      this.volatileHandled.set(key, "taken")
      return
    }
    if (sent.status === "refused") this.violated(`${process} was given ${key}, whose send was refused`)
    if (sent.messageId !== undefined && sent.messageId !== messageId && !this.mayBeMoved(sent)) {
      this.violated(`${key} was sent as ${sent.messageId} and came as ${messageId}`)
    }
    const log = this.process(process)
    const state = log.state.get(key)
    log.state.set(key, "running")
    if (state === "failed") return // a retry
    // It went on after a stand, for a moment as the owner that it was no more, and then became it again.
    if (state !== undefined && this.allowed.staleOwner && this.wasDisturbed(log, key)) return
    if (state !== undefined) return this.violated(`${process} was given ${key} (${messageId}) again, ${state}`)
    log.startedAt.set(key, this.now())
    if (sent.fromClient) this.checkHandledOnce(process, log, key, messageId)
    if (messageId === key) {
      this.add(process, session, { t: "keyed" })
      return
    }
    const dash = messageId.lastIndexOf("-")
    const epoch = messageId.slice(0, dash)
    const offset = Number(messageId.slice(dash + 1))
    this.add(process, session, { t: "message", key, epoch, offset })
    for (const [name, other] of this.processes) {
      if (other === log || other.state.get(key) !== "done") continue
      const committed = this.committed.get(epoch) ?? 0
      if (offset <= committed && !this.allowed.staleOwner) {
        this.violated(`${process} was given ${key} (${messageId}), committed by ${name}`)
      }
    }
  }

  /** Whether the process stood still at some time since shortly before its handler began. */
  private wasDisturbed(log: ProcessLog, key: string): boolean {
    return log.disturbedAt >= (log.startedAt.get(key) ?? Infinity) - takeoverMillis
  }

  /**
   * Of two living servers only one handles a message, also when the session moves between them; one that stands still
   * for longer than the other waits loses it half-way, and does not know that when it goes on.
   */
  private checkHandledOnce(process: string, log: ProcessLog, key: string, messageId: string): void {
    for (const [name, other] of this.processes) {
      // What failed there and was to be tried again is tried here.
      if (other === log || !other.startedAt.has(key) || other.state.get(key) === "failed") continue
      const at = other.startedAt.get(key) ?? 0
      // The other had begun when this one woke, and was not disturbed itself: the store could have said so.
      const couldKnow = this.allowed.confirms && at <= log.wokeAt
      if (this.wasDisturbed(other, key) || (log.disturbedAt >= at - takeoverMillis && !couldKnow)) continue
      this.violated(`${process} was given ${key} (${messageId}), which ${name} has ${other.state.get(key)}`)
    }
  }

  /** A session may end between two servers: from here on positions may jump. */
  mayJump(): void {
    this.jumps = true
  }

  /** A handler failed since a shutdown took no message any more: its process must not give up the handler's own. */
  shutOut(process: string, key: string): void {
    this.failedByShutdown.add(`${process} ${key}`)
  }

  failed(process: string, key: string): void {
    if (this.volatileHandled.has(key)) this.volatileHandled.set(key, "failed")
    else this.process(process).state.set(key, "failed")
  }

  done(process: string, key: string, messageId: string | undefined): void {
    if (messageId !== undefined) this.process(process).state.set(key, "done")
  }

  gap(process: string, session: string, count: number, reason: GapReason): void {
    this.note(`${process} gap of ${count} (${reason})`)
    this.add(process, session, { t: "gap", count, reason })
  }

  letter(letter: Omit<Letter, "at">): void {
    if (letter.reason === "failed" && this.failedByShutdown.has(`${letter.process} ${letter.key}`)) {
      this.violated(`${letter.process} gave ${letter.key} up, whose handler failed in a shutdown`)
    }
    this.note(`${letter.process} dead letter ${letter.direction} ${letter.key} ${letter.reason}`)
    this.letters.push({ ...letter, at: this.now() })
  }

  /** Checks the whole of it, once it is over. */
  check(): void {
    this.checkOrder()
    this.checkFates()
  }

  /** Each process was given each log in order, and every hole was told as a gap. */
  private checkOrder(): void {
    for (const [name, { events }] of this.processes) {
      for (const list of events.values()) this.checkSequence(name, list)
    }
  }

  private checkSequence(name: string, events: ReadonlyArray<Event>): void {
    const next = new Map<string, number>()
    let between = 0 // offsets of gaps and keyed messages since the last known one
    let last: string | undefined
    for (const event of events) {
      if (event.t !== "message") {
        between += event.t === "gap" ? event.count : 1
        continue
      }
      const { epoch, key, offset } = event
      const from = next.get(epoch)
      const due = from === undefined ? undefined : from + (last === epoch ? between : 0)
      if (from !== undefined && offset < from) {
        this.violated(`${name} was given ${key} (offset ${offset}) after ${from - 1}`)
      } else if (due !== undefined && offset !== due && !this.jumps) {
        this.violated(`${name} was given offset ${offset} (${key}) where ${due} was due`)
      }
      next.set(epoch, offset + 1)
      between = 0
      last = epoch
    }
  }

  /** Every message that was taken was handled, or is a dead letter; and no receipt says otherwise. */
  private checkFates(): void {
    const { allowed } = this
    const handled = new Set<string>()
    for (const { state } of this.processes.values()) {
      for (const [key, value] of state) if (value === "done") handled.add(key)
    }
    const out = new Map<string, Letter>()
    const failures = new Set<string>()
    for (const letter of this.letters) {
      if (letter.direction === "in") failures.add(letter.key)
      else {
        const before = out.get(letter.key)
        // What was given up in the part that is lost is given up again.
        if (before !== undefined && !this.isLost(before.at)) this.violated(`${letter.key} became a dead letter twice`)
        out.set(letter.key, letter)
      }
    }
    let lost = this.lettersLost()
    for (const sent of this.sent.values()) {
      const { key } = sent
      const letter = out.get(key)
      const isHandled = handled.has(key)
      if (sent.volatile) continue
      if (letter === undefined && !isHandled && sent.outcome !== "handled" && sent.status === "accepted" && lost > 0) {
        lost--
        continue
      }
      if (letter !== undefined && isHandled && !letter.maybeHandled && !allowed.uncommittedAgain) {
        this.violated(`${key} was handled, and its dead letter (${letter.reason}) says it was not`)
      }
      if (letter?.reason === "failed" && !failures.has(key)) {
        this.violated(`${key} came back as failed, and no handler gave it up`)
      }
      // Only a server that is asked no more knows of a failure that was stored in the part that is lost.
      const isFailureLost = letter?.reason === "failed" && this.isLost(letter.at)
      if (sent.outcome === "handled" && !isHandled && !this.mayBeLost(sent) && !isFailureLost) {
        this.violated(`the receipt of ${key} says handled, and no handler was done with it`)
      } else if ((sent.outcome === "fresh" || sent.outcome === "sessionEnded") && this.mayBeLost(sent)) {
        continue
      } else if (letter === undefined && sent.outcome === "failed" && this.mayBeLost(sent)) {
        continue // nobody has it any more
      } else if (sent.outcome === "fresh" && (letter !== undefined || isHandled) && this.mayBeMoved(sent)) {
        continue // perhaps handled, it says
      } else if (sent.outcome === "sessionEnded" && letter !== undefined && letter.at > (sent.settledAt ?? 0)) {
        continue // perhaps handled, it says: what the store had not answered was learnt later
      } else if (sent.outcome === "sessionEnded" && letter !== undefined && letter.process !== sent.process) {
        continue // the same: another server gave it up, and what became of it was forgotten before this one asked
      } else if (sent.outcome === "sessionEnded" && letter === undefined && isHandled) {
        continue // the same: another server was told of it, and the session ended before this one asked
      } else if (sent.outcome !== "pending" && sent.outcome !== "handled" && letter?.reason !== sent.outcome) {
        this.violated(`the receipt of ${key} says ${sent.outcome}, its dead letter ${letter?.reason ?? "is missing"}`)
      }
      const mustHaveFate = sent.status === "accepted" && !this.mayBeLost(sent) &&
        !(allowed.lostWithProcess && this.process(sent.process).killed)
      if (mustHaveFate && !isHandled && letter === undefined) {
        this.violated(
          `${key} (${sent.messageId}) was lost: ${
            failures.has(key) ? "its failure was not told" : "neither handled nor a dead letter"
          }`
        )
      }
    }
  }
}
