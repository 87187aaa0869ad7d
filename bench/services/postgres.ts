/** PostgreSQL as `initdb` sets it up: `fsync` and `synchronous_commit` are on, so that a commit has been on the disk. */
import { execFile } from "node:child_process"
import { appendFile, chown, readFile } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"
import { freePort, programOf, startProgram, temporaryFolder } from "../harness/programs.ts"

const run = promisify(execFile)

/** Its address. */
export const startPostgres = async (): Promise<string> => {
  const port = await freePort()
  const folder = await temporaryFolder()
  const owner = process.getuid?.() === 0 ? await lesserUser() : undefined
  if (owner !== undefined) await chown(folder, owner.uid, owner.gid)
  const data = join(folder, "data")
  const options = { ...owner, cwd: folder }
  await run(
    programOf("initdb"),
    ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
    options
  )
  await appendFile(
    join(data, "postgresql.conf"),
    `\nlisten_addresses = '127.0.0.1'\nport = ${port}\nunix_socket_directories = '${folder}'\n`
  )
  // At once, without a last checkpoint: nothing of it is needed when it ends.
  await startProgram({
    program: "postgres",
    args: ["-D", data],
    port,
    ready: "ready to accept connections",
    signal: "SIGQUIT",
    options
  })
  return `postgres://postgres@127.0.0.1:${port}/postgres`
}

/** PostgreSQL refuses to run as root: somebody who can do less. */
const lesserUser = async (): Promise<{ readonly uid: number; readonly gid: number }> => {
  const users = (await readFile("/etc/passwd", "utf8")).split("\n").map((line) => line.split(":"))
  const user = ["postgres", "nobody"].flatMap((name) => users.filter((user) => user[0] === name))[0]
  if (user === undefined) throw new Error("PostgreSQL refuses to run as root, and there is nobody else")
  return { uid: Number(user[2]), gid: Number(user[3]) }
}
