/** How calls of a store that could not be reached are tried again. */
import type { WebSocketError } from "../../WebSocketError.ts"
import { fullJitter } from "../kit/backoff.ts"

/** A store that fails is asked again, for ever: nothing may be acknowledged that it does not have. */
export const storeRetry = fullJitter(100, 10_000)

export const isStoreFailure = (error: WebSocketError): boolean =>
  error._tag === "SessionRegistryError" && error.reason === "store"
