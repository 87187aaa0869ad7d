/**
 * Who has a session, as one server knows it: what happens goes in (a refused write, say), what to do comes out. Pure and
 * synchronous, as `Session` is; `internal/own` does what it decides, and reports back.
 *
 * The registry counts a generation up with each attachment, whoever makes it, and refuses what an older owner writes. A
 * refused write has three reasons that look alike: another server has the session; this very server has attached it
 * again; or an attachment of this server's failed, and was made all the same. Only the first takes away what was received
 * here. So nobody compares generations but this file.
 */

/** What the registry says of a session's owner. */
export interface Owner {
  readonly generation: number
  readonly instance: string
  /** Whether this very server attached it last, and has not released it. Undefined where the registry can't tell. */
  readonly here?: boolean | undefined
}

/** An owner; nobody, as there is no such session; or nothing, as the registry can't be asked. */
export type Found = Owner | "nobody" | "unknown"

/** How a connection ends whose session is not this server's any more. */
export type Farewell = "ended" | "moved" | "replaced"

/** What a session does whose write was refused, once its owner was asked for. */
export interface Verdict {
  /** What was received here is given up: another server has it, or will be given it. */
  readonly forfeits: boolean
  /** How its connection ends, if it has one. */
  readonly farewell: Farewell
  /** When its runtime goes: at once, when the registry can say who the owner is, or not because of this. */
  readonly forgets: "now" | "whenKnown" | "never"
}

export class Ownership {
  /** The newest that this server attached the session by; 0 before the first. */
  private current = 0
  /** How often what was received here was given up. */
  private givenUp = 0
  /** Attachments by this server that are under way: a write that is refused meanwhile may be so by one of them. */
  private attachments = 0
  private doubtful = false
  private stopping = false
  private hasConnection = false
  /** The generation whose connection is gone, as the registry knows, until it is released: 0 when there is none. */
  private detachedAs = 0

  /** By which this server writes. */
  get generation(): number {
    return this.current
  }

  /** Rises when what was received here is given up. What began in an earlier one is neither stored nor acknowledged. */
  get tenure(): number {
    return this.givenUp
  }

  /** Whether a newer generation may be this server's own before it knows. */
  get isAttaching(): boolean {
    return this.attachments > 0
  }

  /** Whether an attachment failed in a way that may have raised the generation all the same: the next one tells. */
  get isInDoubt(): boolean {
    return this.doubtful
  }

  /** Whether no new handler may start, as another server is to have the session. */
  get isStopping(): boolean {
    return this.stopping
  }

  /** Whether this server still writes by this generation. */
  isCurrent(generation: number): boolean {
    return this.current === generation
  }

  /**
   * Whether work of this tenure may go on: a handler may start, and what it sends is taken. `isSure`: nobody else can
   * have the session. After a pause longer than the lease, another server may: `ask` the registry, see {@link refused}.
   */
  mayWork(tenure: number, isSure: boolean): "yes" | "ask" | "no" {
    if (this.givenUp !== tenure) return "no"
    return isSure ? "yes" : "ask"
  }

  // --- attaching

  attachmentBegan(): void {
    this.attachments++
  }

  /** `inDoubt`: the store failed, and may have done it. */
  attachmentEnded(inDoubt: boolean): void {
    this.attachments--
    if (inDoubt) this.doubtful = true
  }

  /** Whether a newer attachment of this server's was done before this one. */
  isOvertaken(generation: number): boolean {
    return generation < this.current
  }

  /**
   * The registry has attached the session to this server. `forfeit`: another server had the session meanwhile, so that
   * what is here is not the newest.
   */
  attached({ generation, here }: Pick<Owner, "generation" | "here">): "keep" | "forfeit" {
    const before = this.current
    // Where the registry can't tell, generations without a hole do: those between may be attachments of our own.
    const isOurs = here ?? generation <= before + this.attachments
    this.current = generation
    this.stopping = false
    this.doubtful = false
    return before === 0 || generation === before + 1 || isOurs ? "keep" : "forfeit"
  }

  /**
   * Whether the registry's answer after an attachment in doubt makes a session this server's that it does not know of:
   * then it is detached at once, and a connection of an older generation is closed.
   */
  doubtSettled(found: Found): "nothing" | "detach" | "close" {
    // The next attachment will tell, or the registry can't.
    if (this.attachments > 0 || found === "unknown" || (found !== "nobody" && found.here === undefined)) {
      return "nothing"
    }
    this.doubtful = false
    if (found === "nobody" || found.here !== true || found.generation <= this.current) return "nothing"
    this.current = found.generation
    return this.hasConnection ? "close" : "detach"
  }

  // --- connections

  /**
   * Whether a connection that the session was attached for by this generation is to have it, when all else is ready: not
   * when a newer one has it, nor when another server wanted it meanwhile.
   */
  mayConnect(generation: number): boolean {
    return this.current === generation && !this.stopping
  }

  connected(): void {
    this.hasConnection = true
  }

  disconnected(): void {
    this.hasConnection = false
  }

  /** Whether the connection of this generation is the last one, and gone: its retention is to begin. */
  isAbandoned(generation: number): boolean {
    return this.current === generation && !this.hasConnection
  }

  /** The registry knows that the connection of this generation is gone. Whether that is news of the session. */
  detached(generation: number): boolean {
    if (!this.isAbandoned(generation)) return false
    this.detachedAs = generation
    return true
  }

  /** Whether the session is to be released as soon as nothing of it waits. */
  get isReleasable(): boolean {
    return this.detachedAs === this.current
  }

  /** Whether the session may be released now, so that any server may have it at once; that is said once. */
  takeRelease(isIdle: boolean): boolean {
    if (!isIdle || this.detachedAs !== this.current || this.current === 0 || this.hasConnection) return false
    this.detachedAs = 0
    return true
  }

  // --- other servers

  /**
   * Another server wants the session. Whether it is to have it: a session that is just being attached here is not, as
   * that attachment will be told who has it.
   */
  wanted(): boolean {
    if (this.attachments > 0) return false
    this.stopping = true
    return true
  }

  /** No new handler starts, whoever has the session next: this server is closing. */
  stop(): void {
    this.stopping = true
  }

  /** After the wait for the one that wanted the session of this generation: what becomes of what is handled here. */
  wentTo(generation: number, instance: string, found: Found): Pick<Verdict, "forfeits" | "farewell"> {
    const isTaken = isOwner(found) && found.generation !== generation && this.current === generation &&
      !this.isPerhapsOurs(found)
    return { forfeits: isTaken && !this.doubtful, farewell: farewellOf(found, instance) }
  }

  /**
   * The session's outbox was opened by this generation, or is gone (infinite), as the queue says. `forfeit`: by another
   * server, so that what is handled here is over. `ask`: perhaps it is, which the registry knows, see {@link ownerIs}.
   */
  opened(generation: number): "nothing" | "ask" | "forfeit" {
    if (generation <= this.current) return "nothing"
    return generation === Infinity ? "ask" : "forfeit"
  }

  /**
   * A write of this generation was refused. `again`: the newer owner is this server itself, so it is written again.
   * `wait`: it may be, when its attachment is done. `ask`: the registry knows who the owner is, see {@link ownerIs}. The
   * queue refuses for no attachment of this server's that is under way: the outbox is opened after that.
   */
  refused(by: "queue" | "registry", generation: number): "again" | "wait" | "ask" {
    if (by === "registry" && this.attachments > 0) return "wait"
    return this.current === generation ? "ask" : "again"
  }

  /** Whether the registry still says that the session is this server's, by its newest generation. */
  isStill(found: Found): boolean {
    return generationOf(found) === this.current
  }

  /**
   * What was found after a refusal of this generation, by the queue or the registry; undefined when it has become no
   * matter. A session that is still this server's is not lost: the store may have lost its newest row, which is put back
   * when it is looked for. In doubt, the newer owner may be this server without its knowing: the next attachment, or the
   * end of the doubt, tells. What the registry has refused and can't tell is lost; the queue also refuses who has
   * attached and not opened the outbox yet.
   */
  ownerIs(by: "queue" | "registry", generation: number, instance: string, found: Found): Verdict | undefined {
    if (this.current !== generation) return undefined
    // An attachment that failed may be made after that, and even after it was looked for.
    if (isOwner(found) && found.generation > generation && this.isPerhapsOurs(found)) this.doubtful = true
    const isLost = !this.doubtful && (found === "unknown" ? by === "registry" : generationOf(found) !== generation)
    return {
      forfeits: isLost,
      farewell: found === "nobody" ? "ended" : farewellOf(found, instance),
      // What the registry refuses may be for an attachment of our own that needs the runtime.
      forgets: by === "registry" ? "never" : isLost ? "now" : found === "unknown" ? "whenKnown" : "never"
    }
  }

  /** Whether a runtime without a connection is of no use any more, as the session has another owner, or none. */
  isLostTo(generation: number, found: Found): boolean {
    return this.isAbandoned(generation) && generationOf(found) !== generation
  }

  /** What becomes of a session that has been away for long: another server may have ended it, or have it. */
  away(found: Found): "keep" | "forget" | "ended" {
    if (found === "unknown") return "keep"
    if (found === "nobody") return "ended"
    return found.generation > this.current ? "forget" : "keep"
  }

  /** What was received here is given up. */
  forfeit(): void {
    this.givenUp++
  }

  /** Whether that owner is this server, by an attachment of which it has no answer. */
  private isPerhapsOurs({ here }: Owner): boolean {
    return here ?? this.attachments > 0
  }
}

const isOwner = (found: Found): found is Owner => typeof found === "object"

const generationOf = (found: Found): number | undefined => isOwner(found) ? found.generation : undefined

/**
 * A client that was overtaken by an older attempt of its own must come back; one that was replaced by another instance,
 * such as a second tab, must not, or the two would replace each other for ever.
 */
const farewellOf = (found: Found, instance: string): Farewell =>
  isOwner(found) && found.instance !== instance ? "replaced" : "moved"
