/**
 * Where the demo's lines come from: `--file`, else standard input when something is piped into it, else the text
 * files of the repository. Bounded whatever the source: at most 64 MiB are read, 200,000 lines kept, of at most
 * 4,096 bytes each. Blank lines are left out.
 *
 * **Gotchas**
 *
 * A standard input that is not a pipe or a file (a terminal, `/dev/null`, the socket of a Node parent) is not read.
 * A pipe that ends without a byte, or says nothing for {@link stdinPatience}, counts as no input at all: this is
 * what CI systems and process managers give to a program that nobody meant to feed.
 */
import { Effect, Option, Schema } from "effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Readable } from "node:stream"
import { fileURLToPath } from "node:url"

export interface Input {
  /** In words: `notes.txt`, `standard input`, `12 files of the repository`. */
  readonly source: string
  /** At least one. */
  readonly lines: ReadonlyArray<string>
  /** How many of them were cut to 4,096 bytes. */
  readonly cutLines: number
  /** True if there was more than the bounds allow. */
  readonly isPartial: boolean
}

export interface Stdin {
  /** What standard input is: worth reading (`pipe`, `file`) or not (`none`). */
  readonly kind: "pipe" | "file" | "none"
  /** Opened only when it is to be read; destroyed afterwards. */
  readonly open: () => Readable
}

export interface Options {
  readonly file?: string | undefined
  /** Default: the process's own. */
  readonly stdin?: Stdin | undefined
  /** The directory whose text files serve when there is nothing else. Default: this repository. */
  readonly root?: string | undefined
  /** Default: {@link defaultLimits}. */
  readonly limits?: Limits | undefined
}

export interface Limits {
  readonly lineBytes: number
  readonly lines: number
  readonly bytes: number
}

export const defaultLimits: Limits = { lineBytes: 4096, lines: 200_000, bytes: 64 * 1024 * 1024 }

export const stdinPatience = "3 seconds"

export class InputError extends Schema.TaggedError<InputError>("demo/InputError")("InputError", {
  source: Schema.String,
  reason: Schema.Literals(["missing", "directory", "unreadable", "binary", "empty"]),
  cause: Schema.optional(Schema.Defect())
}) {
  override get message() {
    switch (this.reason) {
      case "missing":
        return `${this.source}: no such file`
      case "directory":
        return `${this.source} is a directory; name a text file`
      case "unreadable":
        return `${this.source} can't be read`
      case "binary":
        return `${this.source} is not UTF-8 text`
      case "empty":
        return `${this.source} has no line that is not blank`
    }
  }
}

const repository = fileURLToPath(new URL("../../", import.meta.url))

/** Reads the lines of the first source there is. */
export const load = Effect.fnUntraced(function*(options: Options = {}): Effect.fn.Return<Input, InputError> {
  const limits = options.limits ?? defaultLimits
  if (options.file !== undefined) return yield* fromFile(options.file, limits)
  const piped = yield* fromStdin(options.stdin ?? processStdin(), limits)
  if (Option.isSome(piped)) return piped.value
  return yield* fromRepository(options.root ?? repository, limits)
})

/** What a file descriptor is, as far as reading lines from it goes. A closed one is `none`. */
export const stdinKind = (fd: number): Stdin["kind"] => {
  try {
    const stats = Fs.fstatSync(fd)
    if (stats.isFIFO()) return "pipe"
    return stats.isFile() ? "file" : "none"
  } catch {
    return "none"
  }
}

const processStdin = (): Stdin => ({ kind: stdinKind(0), open: () => process.stdin })

const fromFile = Effect.fnUntraced(function*(file: string, limits: Limits): Effect.fn.Return<Input, InputError> {
  const lines = new LineCollector(limits)
  yield* collect(file, () => Fs.createReadStream(file), lines)
  return yield* inputOf(file, lines)
})

const fromStdin = Effect.fnUntraced(
  function*(stdin: Stdin, limits: Limits): Effect.fn.Return<Option.Option<Input>, InputError> {
    if (stdin.kind === "none") return Option.none()
    const source = "standard input"
    const stream = stdin.open()
    if (stdin.kind === "pipe") {
      const spoke = yield* hasBytes(source, stream).pipe(Effect.timeoutOption(stdinPatience))
      if (!Option.getOrElse(spoke, () => false)) {
        stream.destroy()
        return Option.none()
      }
    }
    const lines = new LineCollector(limits)
    yield* collect(source, () => stream, lines)
    return Option.some(yield* inputOf(source, lines))
  }
)

const fromRepository = Effect.fnUntraced(function*(root: string, limits: Limits): Effect.fn.Return<Input, InputError> {
  const files = yield* Effect.tryPromise({ try: () => textFiles(root), catch: inputError(root) })
  const lines = new LineCollector(limits)
  let read = 0
  for (const file of files) {
    if (lines.isFull) break
    yield* collect(file, () => Fs.createReadStream(file), lines)
    read++
  }
  return yield* inputOf(`${read} text files of the repository`, lines)
})

const inputOf = (source: string, collected: LineCollector): Effect.Effect<Input, InputError> => {
  const { cutLines, isFull, lines } = collected
  if (lines.length === 0) return Effect.fail(new InputError({ source, reason: "empty" }))
  return Effect.succeed({ source, lines, cutLines, isPartial: isFull })
}

/** The repository's prose, then its source, in an order that is the same everywhere. */
const textFiles = async (root: string): Promise<ReadonlyArray<string>> => {
  const under = async (directory: string, extension: string) => {
    const entries = await Fs.promises.readdir(Path.join(root, directory), { recursive: true, withFileTypes: true })
      .catch(ifMissing([]))
    return entries
      .filter((entry) => entry.isFile() && entry.name.endsWith(extension))
      .map((entry) => Path.join(entry.parentPath, entry.name))
      .sort()
  }
  const top = await Fs.promises.readdir(root).catch(ifMissing(new Array<string>()))
  return [
    ...["README.md", "PROTOCOL.md"].filter((name) => top.includes(name)).map((name) => Path.join(root, name)),
    ...await under("docs", ".md"),
    ...await under("src", ".ts")
  ]
}

const ifMissing = <A>(otherwise: A) => (cause: unknown): A => {
  if (codeOf(cause) === "ENOENT") return otherwise
  throw cause
}

/** Whether a stream has something to say: waits for its first byte or its end, and takes nothing from it. */
const hasBytes = (source: string, stream: Readable): Effect.Effect<boolean, InputError> =>
  Effect.callback((resume) => {
    const readable = () => resume(Effect.succeed(stream.readableLength > 0))
    const failed = (cause: Error) => resume(Effect.fail(inputError(source)(cause)))
    stream.once("readable", readable).once("error", failed)
    return Effect.sync(() => stream.off("readable", readable).off("error", failed))
  })

/** Reads a stream to its end, or until there are enough lines; it is destroyed in either case. */
const collect = (source: string, open: () => Readable, lines: LineCollector): Effect.Effect<void, InputError> =>
  Effect.tryPromise({
    try: async (signal) => {
      const stream = open()
      signal.addEventListener("abort", () => stream.destroy(), { once: true })
      // One decoder a source: a character may be cut between two chunks. It throws at what is not UTF-8.
      const decoder = new TextDecoder("utf-8", { fatal: true })
      for await (const chunk of stream) {
        const bytes = lines.admit(Buffer.from(chunk))
        const text = decoder.decode(bytes, { stream: true })
        if (text.includes("\0")) throw new NotText()
        lines.add(text)
        if (lines.isFull) break
      }
      if (!lines.isFull) lines.add(decoder.decode())
      lines.endLine()
    },
    catch: inputError(source)
  })

class NotText extends Error {}

const codeOf = (cause: unknown): unknown => cause instanceof Error && "code" in cause ? cause.code : undefined

const reasons = new Map<unknown, InputError["reason"]>([
  ["ENOENT", "missing"],
  ["ENOTDIR", "missing"],
  ["EISDIR", "directory"],
  ["ERR_ENCODING_INVALID_ENCODED_DATA", "binary"]
])

const inputError = (source: string) => (cause: unknown): InputError => {
  const reason = cause instanceof NotText ? "binary" : reasons.get(codeOf(cause)) ?? "unreadable"
  return new InputError({ source, reason, cause })
}

/** Takes text in pieces, gives lines, and keeps to the limits; its memory is bounded though a line may be endless. */
class LineCollector {
  readonly lines: Array<string> = []
  cutLines = 0
  /** There was more than the limits allow: the rest is left unread. */
  isFull = false
  readonly #limits: Limits
  #bytes = 0
  /** The beginning of a line whose end has not come yet. */
  #partial = ""

  constructor(limits: Limits) {
    this.#limits = limits
  }

  /** As many of the bytes as may still be read. */
  admit(bytes: Uint8Array): Uint8Array {
    const admitted = bytes.subarray(0, this.#limits.bytes - this.#bytes)
    this.#bytes += admitted.length
    if (admitted.length < bytes.length) this.isFull = true
    return admitted
  }

  add(text: string): void {
    let start = 0
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", start)) {
      this.#extend(text.slice(start, end))
      this.endLine()
      start = end + 1
    }
    this.#extend(text.slice(start))
  }

  endLine(): void {
    const line = this.#partial.endsWith("\r") ? this.#partial.slice(0, -1) : this.#partial
    this.#partial = ""
    if (line.trim() === "") return
    if (this.lines.length >= this.#limits.lines) {
      this.isFull = true
      return
    }
    const kept = truncate(line, this.#limits.lineBytes)
    if (kept.length < line.length) this.cutLines++
    this.lines.push(kept)
  }

  /** Keeps one character more than can be needed, by which `endLine` sees that the line is to be cut. */
  #extend(text: string): void {
    this.#partial += text.slice(0, Math.max(0, this.#limits.lineBytes + 2 - this.#partial.length))
  }
}

/** The longest beginning of a text that takes at most so many bytes in UTF-8, without cutting a character. */
const truncate = (text: string, maxBytes: number): string => {
  // A UTF-16 unit takes 3 bytes at most.
  if (text.length * 3 <= maxBytes || Buffer.byteLength(text) <= maxBytes) return text
  const bytes = Buffer.from(text)
  let end = maxBytes
  // 10xxxxxx continues a character.
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--
  return bytes.toString("utf8", 0, end)
}
