/** nats-server with JetStream, as it is by default: it writes each message to its file, and syncs that now and then. */
import { freePort, startProgram, temporaryFolder } from "../harness/programs.ts"

/** Its port. */
export const startNats = async (): Promise<number> => {
  const port = await freePort()
  const folder = await temporaryFolder()
  const args = ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", folder]
  await startProgram({ program: "nats-server", args, port })
  return port
}
