/**
 * Whether the files of an open database are still those that were opened, and how large the log is. SQLite itself
 * silently goes on writing to a file that was deleted or replaced: all of that is lost when the process ends. And
 * during a long read, its write-ahead log grows without end.
 */
import { statSync } from "node:fs"
import { resolve } from "node:path"
import { fileURLToPath } from "node:url"

/** Which file it was when it was first seen. */
interface Identity {
  readonly dev: bigint
  readonly ino: bigint
}

/** The size of a database's header; a smaller file has been cut. */
const headerBytes = 100n

/** Suffixes of the files beside the database, which exist as long as anybody has it open. */
const companions = ["-wal", "-shm"] as const

/** A write-ahead log of this size is worth a warning: SQLite moves it into the file every 4 MB if it can. */
const largeWalBytes = 64 * 1024 * 1024

export class FileWatch {
  /** Undefined for a database in memory. */
  private readonly path: string | undefined
  private readonly known = new Map<string, Identity>()

  constructor(filename: string) {
    this.path = pathOf(filename)
  }

  /** What has happened to the files since the first look; undefined if nothing has. */
  look(): string | undefined {
    const { path } = this
    if (path === undefined) return undefined
    const size = statSync(path, { bigint: true, throwIfNoEntry: false })?.size
    const fault = this.compare(path) ?? (size !== undefined && size < headerBytes ? "has been cut" : undefined)
    if (fault !== undefined) return `the SQLite file ${path} ${fault}`
    for (const suffix of companions) {
      const changed = this.compare(path + suffix)
      if (changed !== undefined) return `the file ${path}${suffix}, which belongs to the database, ${changed}`
    }
    return undefined
  }

  /** The size of the write-ahead log, in bytes. */
  get walBytes(): number {
    if (this.path === undefined) return 0
    return Number(statSync(`${this.path}-wal`, { bigint: true, throwIfNoEntry: false })?.size ?? 0n)
  }

  private compare(path: string): string | undefined {
    const now = statSync(path, { bigint: true, throwIfNoEntry: false })
    const before = this.known.get(path)
    if (before === undefined) {
      // In other journal modes there are no companions.
      if (now !== undefined) this.known.set(path, { dev: now.dev, ino: now.ino })
      return undefined
    }
    if (now === undefined) return "is gone"
    return now.dev === before.dev && now.ino === before.ino ? undefined : "has been replaced by another one"
  }
}

/** Undefined for SQLite's names of a database without a file. Unlike in a URL, the path of a URI may be relative. */
const pathOf = (filename: string): string | undefined => {
  const uri = /^file:([^?#]*)(?:\?([^#]*))?/.exec(filename)
  if (uri === null) return filename === "" || filename === ":memory:" ? undefined : resolve(filename)
  const [, path = "", query] = uri
  const isInMemory = path === "" || path === ":memory:" || new URLSearchParams(query).get("mode") === "memory"
  if (isInMemory) return undefined
  return path.startsWith("/") ? fileURLToPath(`file:${path}`) : resolve(decodeURIComponent(path))
}

/** Says when a log has become large: first at `largeWalBytes`, then each time it has doubled. */
export class WalWarnings {
  private next = largeWalBytes

  /** Whether this size is worth a warning. */
  isNews(bytes: number): boolean {
    if (bytes < largeWalBytes / 2) this.next = largeWalBytes
    if (bytes < this.next) return false
    while (this.next <= bytes) this.next *= 2
    return true
  }
}
