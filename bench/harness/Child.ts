/** Main's end of a child process: starts it, calls functions in it, and makes sure that it ends. */
import { fork } from "node:child_process"
import { rm } from "node:fs/promises"
import type { PeerName } from "../peers/index.ts"
import type { Calls, Request, Response } from "./Side.ts"

export interface Child {
  /** The functions of a module as they run in the child: `child.calls<typeof import("./x.ts")>(url of x)`. */
  readonly calls: <M>(module: URL) => Calls<M>
  /** Ends the process, and what it owns, by their ids. */
  readonly end: () => Promise<void>
}

interface Pending {
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
}

/** A child that was asked to end has this long before it is killed. */
const graceMillis = 5_000

export const start = (peer: PeerName, role: "server" | "client"): Child => {
  const child = fork(new URL("../child.ts", import.meta.url), [peer], {
    execArgv: ["--expose-gc", "--disable-warning=ExperimentalWarning"],
    stdio: ["ignore", "inherit", "inherit", "ipc"]
  })
  const pending = new Map<number, Pending>()
  const owned = new Set<number>()
  const folders = new Set<string>()
  let calls = 0
  let ended: Error | undefined

  const rejectAll = (error: Error): void => {
    ended ??= error
    for (const { reject } of pending.values()) reject(ended)
    pending.clear()
  }
  const exited = new Promise<void>((resolve) => {
    child.once("error", (error) => {
      rejectAll(error)
      resolve()
    })
    child.once("exit", (code, signal) => {
      rejectAll(new Error(`the ${role} process of ${peer} ended with ${signal ?? `code ${code}`}`))
      resolve()
    })
  })
  child.on("message", (response: Response) => {
    if ("owns" in response) return void owned.add(response.owns)
    if ("ownsFolder" in response) return void folders.add(response.ownsFolder)
    const waiting = pending.get(response.id)
    pending.delete(response.id)
    if ("error" in response) waiting?.reject(new Error(`in the ${role} process of ${peer}: ${response.error}`))
    else waiting?.resolve(response.value as never) // Calls knows what the function returns
  })

  const call = (module: URL, name: string, args: unknown): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (ended !== undefined) return reject(ended)
      const request: Request = { id: calls++, module: module.href, name, args }
      pending.set(request.id, { resolve, reject })
      child.send(request, (error) => {
        if (error === null) return
        pending.delete(request.id)
        reject(error)
      })
    })

  return {
    calls: <M>(module: URL) =>
      new Proxy({}, {
        get: (_, name) => (args: unknown) => call(module, String(name), args)
      }) as Calls<M>, // each property is a function of the module, called over there
    end: async () => {
      if (child.exitCode === null && child.signalCode === null) {
        if (child.connected) child.disconnect()
        const timer = setTimeout(() => child.kill("SIGKILL"), graceMillis)
        await exited
        clearTimeout(timer)
      }
      // One that ended in peace has ended them itself.
      if (child.exitCode === 0) return
      for (const pid of owned) kill(pid)
      for (const folder of folders) await rm(folder, { recursive: true, force: true, maxRetries: 20 })
    }
  }
}

const kill = (pid: number): void => {
  try {
    process.kill(pid, "SIGQUIT")
  } catch {
    // it has ended already, as it should
  }
}
