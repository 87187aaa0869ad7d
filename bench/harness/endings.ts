/** What a child process has to end before it ends itself: processes of its own, files. */
import type { Response } from "./Side.ts"

type Ending = () => Promise<void>

const endings: Array<Ending> = []

/** Runs `ending` when main is done with this process, or gone. */
export const beforeEnd = (ending: Ending): void => void endings.push(ending)

/** A process of this one: if this one has to be killed, main ends that too. */
export const own = (pid: number): void => {
  const response: Response = { owns: pid }
  process.send?.(response)
}

export const endAll = async (): Promise<void> => {
  await Promise.allSettled(endings.map((ending) => ending()))
}
