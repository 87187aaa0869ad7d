/** What a test's program logs. */
import { Logger } from "effect"

/** Everything logged from here on, as text. */
export const recordLogs = () => {
  const logs: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => void logs.push(`${logLevel} ${JSON.stringify(message)}`))
  return { logs, layer: Logger.layer([logger]) }
}
