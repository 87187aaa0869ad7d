/** Whether this process may open one more file or socket. Only trying tells, as the whole system has a limit too. */
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
