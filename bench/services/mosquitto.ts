/** mosquitto, over WebSocket. Its limits are off, as it would drop what a fast sender sends. */
import { writeFile } from "node:fs/promises"
import { userInfo } from "node:os"
import { join } from "node:path"
import { freePort, startProgram, temporaryFolder } from "../harness/programs.ts"

export interface Options {
  /** Whether it writes what it has to disk: every second, and when it ends. */
  readonly persistence: boolean
}

/** Its port. */
export const startMosquitto = async ({ persistence }: Options): Promise<number> => {
  const port = await freePort()
  const folder = await temporaryFolder()
  const file = join(folder, "mosquitto.conf")
  // The second listener is for mosquitto 2.0, which ends when it has none but WebSockets.
  await writeFile(
    file,
    [
      `listener ${port} 127.0.0.1`,
      "protocol websockets",
      `listener 0 ${join(folder, "plain.sock")}`,
      `user ${userInfo().username}`,
      "allow_anonymous true",
      ...(persistence
        ? ["persistence true", `persistence_location ${folder}/`, "autosave_interval 1"]
        : ["persistence false"]),
      "set_tcp_nodelay true",
      "max_inflight_messages 0",
      "max_queued_messages 0",
      "log_dest stderr",
      "log_type error",
      ""
    ].join("\n")
  )
  await startProgram({ program: "mosquitto", args: ["-c", file], port })
  return port
}
