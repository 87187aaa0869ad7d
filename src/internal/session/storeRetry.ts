/** How calls to a store that could not be reached are retried. */
import type { WebSocketError } from "../../WebSocketError.ts"
import { fullJitter } from "../kit/backoff.ts"

/** Retries for ever: nothing may be acknowledged that the store does not have. */
export const storeRetry = fullJitter(100, 10_000)

export const isStoreFailure = (error: WebSocketError): boolean =>
  error._tag === "resilient-websocket/SessionRegistryError" && error.reason === "store"
