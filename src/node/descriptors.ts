/**
 * Whether this process may open one more file or socket. It is tried out, as no number says it for the whole system.
 */
import { closeSync, openSync } from "node:fs"
import { devNull } from "node:os"

export const mayOpenMore = (): boolean => {
  try {
    closeSync(openSync(devNull, "r"))
    return true
  } catch (error) {
    return !(error instanceof Error && "code" in error && (error.code === "EMFILE" || error.code === "ENFILE"))
  }
}
