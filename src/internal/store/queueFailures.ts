/** How operations of a stored queue fail: refusals, and the store's errors as the queue's. */
import { MessageQueueError } from "../../WebSocketError.ts"
import type { StoreError } from "./driver.ts"

export const refuse = (session: string, operation: string, reason: "fenced" | "unknownSession"): MessageQueueError =>
  new MessageQueueError({ session, operation, reason })

export const storeFailed = (session: string, operation: string) => (error: StoreError): MessageQueueError =>
  new MessageQueueError({ session, operation, reason: "store", cause: error.cause })

export const orStoreFailed =
  (session: string, operation: string) => (error: StoreError | MessageQueueError): MessageQueueError =>
    error._tag === "StoreError" ? storeFailed(session, operation)(error) : error
