/** Worlds with a planted bug each, to see that the promise's property would find it. */
import { Effect } from "effect"
import type { Session } from "../../src/core/Session.ts"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import type { OutboxState } from "../../src/internal/store/outboxes.ts"
import { type Delivery, type Role, type Side, World } from "./coreWorld.ts"

/** Position checking is off: all is new, always. */
export class ChecksNoPositions extends World {
  protected override makeSession(role: Role): Session {
    const session = super.makeSession(role)
    session.inbox.accept = () => 0
    return session
  }
}

/** The position forgets with the connection what waits for the handler, so that it is sent and taken again. */
export class TakesRepeatsForNew extends World {
  protected override makeSession(role: Role): Session {
    const session = super.makeSession(role)
    const { inbox } = session
    const close = session.close.bind(session)
    session.close = () => {
      if (inbox.epoch !== null) inbox.adopt(inbox.epoch, inbox.handled)
      close()
    }
    return session
  }

  override fail(): void {} // failures are not what this is about
}

/** A message is acknowledged before the handler has it, so that a crash between the two loses it. */
export class AcknowledgesBeforeHandling extends World {
  protected override enqueue(side: Side, delivery: Delivery): void {
    side.session.handled(delivery.epoch, delivery.offset, delivery.kind === "message" ? 1 : 0)
    super.enqueue(side, delivery)
  }

  protected override settle(): void {}

  override fail(): void {} // its ack is out already
}

/** What was written to the socket counts as handled. */
export class TrustsWrites extends World {
  override pump(role: Role, messages: number): void {
    super.pump(role, messages)
    const { outbox, session } = this.side(role)
    if (session.flow !== undefined) outbox.ack(session.flow.sent)
  }
}

/** What the peer may have is treated as if it had never left. */
export class ExpiresWhatWasSent extends World {
  override expire(role: Role): void {
    const { outbox } = this.side(role)
    outbox.read(outbox.acked, { maxMessages: 0, maxBytes: 0 }, 0)
    super.expire(role)
  }
}

/** Acks do not tell of failures. */
export class KeepsFailuresToItself extends World {
  protected override makeSession(role: Role): Session {
    const session = super.makeSession(role)
    session.inbox.failedAfter = () => []
    return session
  }
}

/** Gaps never reach the wire. */
export class SkipsGaps extends World {
  protected override write(role: Role, frame: string): void {
    if (!frame.startsWith(`{"t":"gap"`)) super.write(role, frame)
  }
}

/** The sender does not wait for the window. */
export class IgnoresTheWindow extends World {
  override pump(role: Role, messages: number): void {
    const { flow } = this.side(role).session
    if (flow === undefined) return
    Object.defineProperty(flow, "roomMessages", { value: Infinity, configurable: true })
    super.pump(role, messages)
    Reflect.deleteProperty(flow, "roomMessages")
  }
}

/** The sender's window shrinks with each reconnect: what was pending is never freed. */
export class LosesCredit extends World {
  protected override makeSession(role: Role): Session {
    const session = super.makeSession(role)
    const open = session.open.bind(session)
    session.open = (window, position, announced) =>
      open({ ...window, messages: window.messages - position.pending.messages }, position, announced)
    return session
  }
}

/** A server that lost its state says so once, whether or not the client heard it. */
export class SaysItStartedAnewOnce extends World {
  protected override tellsContinued(sameClient: boolean): boolean {
    return sameClient
  }
}

/**
 * A database whose acks are cut at `min(upTo, last)`, and that takes what its servers know of its outboxes for nothing:
 * what it has lost is not noticed.
 */
export const forgetsItsLosses = (driver: StoreDriver): StoreDriver => {
  const settled = (state: OutboxState): OutboxState => ({ ...state, settled: true })
  const stateOf = (session: string) => Effect.map(driver.outboxes([session]), ([state]) => state)
  return {
    ...driver,
    append: (requests, stamp, node) =>
      driver.append(requests.map((request) => ({ ...request, known: undefined, unsettled: "allow" })), stamp, node),
    ack: (requests) =>
      Effect.flatMap(
        Effect.forEach(requests, (request) =>
          Effect.map(stateOf(request.session), (state) => ({
            ...request,
            upTo: Math.min(request.upTo, state?.last ?? 0)
          }))),
        (cut) =>
          Effect.andThen(
            // So that the cut ones are taken.
            Effect.forEach(
              cut,
              ({ generation, session }) => driver.advance({ session, generation, last: 0, at: 0, isMoved: true })
            ),
            driver.ack(cut)
          )
      ),
    openOutbox: (request) => Effect.map(driver.openOutbox(request), settled),
    read: (request) => Effect.map(driver.read(request), (page) => page && { ...page, state: settled(page.state) }),
    outboxes: (sessions) => Effect.map(driver.outboxes(sessions), (states) => states.map(settled)),
    advance: ({ session }) => Effect.map(stateOf(session), (state) => state && { state: settled(state), lost: 0 })
  }
}
