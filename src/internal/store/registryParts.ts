/** What the parts of a stored registry share: each object here is changed by its own methods only. */
import { Subscribers } from "../kit/subscribers.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver } from "./driver.ts"
import type { StoreHistory } from "./history.ts"
import type { Members } from "./members.ts"
import { OwnSessions } from "./ownSessions.ts"
import { SessionCount } from "./sessionCount.ts"
import { makeSessionRows, type SessionRows } from "./sessionRows.ts"
import { makeWritten, type WrittenSessions } from "./written.ts"

export interface RegistryPartsOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly members: Members
  readonly history: StoreHistory
}

export interface RegistryParts extends RegistryPartsOptions {
  readonly rows: SessionRows
  /** What this server has written of its sessions, in case the store loses it. */
  readonly written: WrittenSessions
  readonly own: OwnSessions
  readonly count: SessionCount
  /** Told when another server wants a session of this one. */
  readonly onWanted: Subscribers<string>
}

export const makeRegistryParts = ({ call, driver, history, members }: RegistryPartsOptions): RegistryParts => {
  const { steady } = members
  const onWanted = new Subscribers<string>()
  const written = makeWritten({
    driver,
    call,
    steady,
    hasTombstone: history.hasTombstone,
    onTaken: (session) => onWanted.tell(session)
  })
  history.onChange(written.putBack)
  return {
    driver,
    call,
    members,
    history,
    rows: makeSessionRows({ driver, call, history, written }),
    written,
    own: new OwnSessions(),
    count: new SessionCount(call("countSessions", driver.countSessions), steady),
    onWanted
  }
}
