/** The ids by which messages are deduplicated if the caller gives none. */
import { isId } from "../core/Text.ts"
import { contentKey } from "../Deduplicator.ts"

/** A message's own `id`, or else a hash of its content. Throws a `TypeError` if the message is not JSON. */
export const messageIdOf = (message: unknown): string => {
  if (typeof message === "object" && message !== null && "id" in message) {
    const { id } = message
    const text = typeof id === "string" || typeof id === "number" ? String(id) : ""
    if (isId(text)) return text
  }
  return contentKey(String(JSON.stringify(message)))
}

/** Undefined if the message is not JSON: the send then reports what is wrong. */
export const idIfAny = (message: unknown): string | undefined => {
  try {
    return messageIdOf(message)
  } catch {
    return undefined
  }
}
