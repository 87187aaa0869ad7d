/** What a child process has to end before it ends itself: processes of its own, files. */
import { readdirSync, readFileSync } from "node:fs"
import type { Response } from "./Side.ts"

type Ending = () => Promise<void>

const endings: Array<Ending> = []
const owned = new Set<number>()

/** Runs `ending` when main is done with this process, or gone; the last one first. */
export const beforeEnd = (ending: Ending): void => void endings.push(ending)

/** A process of this one: if this one has to be killed, main ends that too. */
export const own = (pid: number): void => {
  owned.add(pid)
  const response: Response = { owns: pid }
  process.send?.(response)
}

/** The same for a folder. */
export const ownFolder = (folder: string): void => {
  const response: Response = { ownsFolder: folder }
  process.send?.(response)
}

export const endAll = async (): Promise<void> => {
  // A folder is removed after the program that writes in it has ended.
  for (const ending of endings.toReversed()) await ending().catch(() => {})
}

/** Linux counts CPU time in hundredths of a second, on all that Node runs on. */
const ticksPerSecond = 100

/**
 * CPU seconds of the processes of this one and of their children, those that have ended included; 0 where there is no
 * `/proc` to ask.
 */
export const ownedCpuSeconds = (): number => {
  if (owned.size === 0) return 0
  let ticks = 0
  for (const pid of processes()) {
    const fields = statOf(pid)
    if (fields === undefined || !(owned.has(pid) || owned.has(Number(fields[1])))) continue
    // utime and stime; and cutime and cstime, of children that have ended.
    for (const field of fields.slice(11, 15)) ticks += Number(field)
  }
  return ticks / ticksPerSecond
}

const processes = (): ReadonlyArray<number> => {
  try {
    return readdirSync("/proc").map(Number).filter((pid) => Number.isSafeInteger(pid))
  } catch {
    return []
  }
}

/** What `/proc/<pid>/stat` says after the name: state, parent, … */
const statOf = (pid: number): ReadonlyArray<string> | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1")
    return text.slice(text.lastIndexOf(")") + 2).split(" ")
  } catch {
    return undefined // it has ended
  }
}
