/** How operations of a stored registry fail. */
import { SessionRegistryError } from "../../WebSocketError.ts"
import type { StoreError } from "./driver.ts"

export const registryFailed = (session: string, operation: string) => (error: StoreError) =>
  new SessionRegistryError({ session, operation, reason: "store", cause: error.cause })

export const fenced = (session: string, operation: string) =>
  new SessionRegistryError({ session, operation, reason: "fenced" })
