import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { PassThrough, Readable } from "node:stream"
import * as Input from "../../examples/demo/Input.ts"

const noStdin: Input.Stdin = { kind: "none", open: () => Readable.from([]) }

const stdinOf = (kind: "pipe" | "file", ...chunks: ReadonlyArray<string>): Input.Stdin => ({
  kind,
  open: () => Readable.from(chunks.map((chunk) => Buffer.from(chunk)), { objectMode: false })
})

/** A directory with these files, for the length of the test. */
const directory = (files: Readonly<Record<string, string | Uint8Array>>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const root = Fs.mkdtempSync(Path.join(Os.tmpdir(), "demo-input-"))
      for (const [name, content] of Object.entries(files)) {
        Fs.mkdirSync(Path.dirname(Path.join(root, name)), { recursive: true })
        Fs.writeFileSync(Path.join(root, name), content)
      }
      return root
    }),
    (root) => Effect.sync(() => Fs.rmSync(root, { recursive: true }))
  )

const loadFile = Effect.fnUntraced(function*(content: string | Uint8Array, limits?: Partial<Input.Limits>) {
  const root = yield* directory({ "lines.txt": content })
  const file = Path.join(root, "lines.txt")
  return yield* Input.load({ file, stdin: noStdin, limits: { ...Input.defaultLimits, ...limits } })
})

const reasonOf = <R>(effect: Effect.Effect<unknown, Input.InputError, R>) =>
  Effect.map(Effect.flip(effect), (e) => e.reason)

describe("a file", () => {
  it.effect("gives its lines without the blank ones, however they end", () =>
    Effect.gen(function*() {
      const { cutLines, isPartial, lines, source } = yield* loadFile("\ufeffone\r\n\n  two  \n \t \r\nthrée 🙂\nlast")
      assert.deepStrictEqual(lines, ["one", "  two  ", "thrée 🙂", "last"])
      assert.deepStrictEqual({ cutLines, isPartial }, { cutLines: 0, isPartial: false })
      assert.include(source, "lines.txt")
    }))

  it.effect("has its long lines cut at a character's border, however long they are", () =>
    Effect.gen(function*() {
      const { cutLines, lines } = yield* loadFile(
        `${"x".repeat(4096)}\r\n${"x".repeat(4097)}\n${"é".repeat(2049)}\n${"🙂".repeat(3_000_000)}\nend`
      )
      assert.strictEqual(cutLines, 3)
      assert.deepStrictEqual(lines, ["x".repeat(4096), "x".repeat(4096), "é".repeat(2048), "🙂".repeat(1024), "end"])
      const odd = yield* loadFile("a🙂", { lineBytes: 4 })
      assert.deepStrictEqual(odd.lines, ["a"])
    }))

  it.effect("is read up to a number of lines and of bytes", () =>
    Effect.gen(function*() {
      const lines = Array.from({ length: 100 }, (_, i) => `line ${i}`)
      const few = yield* loadFile(lines.join("\n"), { lines: 10 })
      assert.deepStrictEqual(few.lines, lines.slice(0, 10))
      assert.isTrue(few.isPartial)
      const exact = yield* loadFile(lines.join("\n"), { lines: 100 })
      assert.isFalse(exact.isPartial)
      const short = yield* loadFile("abcdef\nghié\njkl", { bytes: 11 })
      assert.deepStrictEqual(short.lines, ["abcdef", "ghi"])
      assert.isTrue(short.isPartial)
    }))

  it.effect("that can't be used is a typed error that says why", () =>
    Effect.gen(function*() {
      const root = yield* directory({ "empty.txt": "", "blank.txt": "\n \n\r\n" })
      const load = (file: string) => Input.load({ file: Path.join(root, file), stdin: noStdin })
      assert.strictEqual(yield* reasonOf(load("nowhere.txt")), "missing")
      assert.strictEqual(yield* reasonOf(load("empty.txt/x")), "missing")
      assert.strictEqual(yield* reasonOf(load(".")), "directory")
      assert.strictEqual(yield* reasonOf(load("empty.txt")), "empty")
      assert.strictEqual(yield* reasonOf(load("blank.txt")), "empty")
      assert.strictEqual(yield* reasonOf(loadFile(Buffer.from([0x68, 0x69, 0x00, 0x0a]))), "binary")
      assert.strictEqual(yield* reasonOf(loadFile(Buffer.from([0x68, 0xff, 0xfe, 0x0a]))), "binary")
      assert.strictEqual(yield* reasonOf(loadFile(Buffer.from([0x68, 0x69, 0x0a, 0xc3]))), "binary")
      const error = yield* Effect.flip(load("nowhere.txt"))
      assert.match(error.message, /nowhere\.txt: no such file$/)
    }))

  it.effect("goes before standard input", () =>
    Effect.gen(function*() {
      const root = yield* directory({ "lines.txt": "from the file" })
      const { lines } = yield* Input.load({
        file: Path.join(root, "lines.txt"),
        stdin: stdinOf("pipe", "from standard input")
      })
      assert.deepStrictEqual(lines, ["from the file"])
    }))
})

describe("standard input", () => {
  it.effect("gives its lines, also where characters and lines are split between chunks", () =>
    Effect.gen(function*() {
      const bytes = Buffer.from("first 🙂\nsecond\n")
      const open = () => Readable.from(Array.from(bytes, (byte) => Buffer.from([byte])), { objectMode: false })
      const { lines, source } = yield* Input.load({ stdin: { kind: "pipe", open } })
      assert.deepStrictEqual(lines, ["first 🙂", "second"])
      assert.strictEqual(source, "standard input")
    }))

  it.effect("that never ends is left when there is enough", () =>
    Effect.gen(function*() {
      const endless = new Readable({
        read() {
          this.push("yes\n".repeat(1000))
        }
      })
      const { isPartial, lines } = yield* Input.load({ stdin: { kind: "pipe", open: () => endless } })
      assert.strictEqual(lines.length, 200_000)
      assert.isTrue(isPartial && endless.destroyed)
    }))

  it.effect("redirected from an empty file, or with nothing but blank lines, is an error", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* reasonOf(Input.load({ stdin: stdinOf("file") })), "empty")
      assert.strictEqual(yield* reasonOf(Input.load({ stdin: stdinOf("pipe", "\n\n") })), "empty")
    }))

  it.effect("that nobody feeds is passed over: an empty pipe at once, a silent one after 3 seconds", () =>
    Effect.gen(function*() {
      const root = yield* directory({ "README.md": "from the repository" })
      const empty = yield* Input.load({ root, stdin: stdinOf("pipe") })
      assert.deepStrictEqual(empty.lines, ["from the repository"])
      const silent = new PassThrough()
      const loading = yield* Effect.forkChild(Input.load({ root, stdin: { kind: "pipe", open: () => silent } }), {
        startImmediately: true
      })
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual((yield* Fiber.join(loading)).lines, ["from the repository"])
      assert.isTrue(silent.destroyed)
    }))

  it.effect("is a pipe or a file, and none where there is neither", () =>
    Effect.gen(function*() {
      const root = yield* directory({ "lines.txt": "x" })
      const fifo = Path.join(root, "fifo")
      ChildProcess.execFileSync("mkfifo", [fifo])
      const kindOf = (path: string) => {
        // Read and write, because a FIFO opened for one waits for the other.
        const fd = Fs.openSync(path, "r+")
        try {
          return Input.stdinKind(fd)
        } finally {
          Fs.closeSync(fd)
        }
      }
      assert.strictEqual(kindOf(Path.join(root, "lines.txt")), "file")
      assert.strictEqual(kindOf(fifo), "pipe")
      assert.strictEqual(kindOf("/dev/null"), "none")
      assert.strictEqual(Input.stdinKind(99_999), "none")
    }))
})

describe("the repository", () => {
  it.effect("gives its prose and sources, in the same order everywhere", () =>
    Effect.gen(function*() {
      const root = yield* directory({
        "src/b.ts": "b",
        "src/a/c.ts": "c",
        "src/data.bin": Buffer.from([0]),
        "docs/guide.md": "guide",
        "PROTOCOL.md": "protocol",
        "README.md": "readme",
        "other.md": "other"
      })
      const { lines, source } = yield* Input.load({ root, stdin: noStdin })
      assert.deepStrictEqual(lines, ["readme", "protocol", "guide", "c", "b"])
      assert.strictEqual(source, "5 text files of the repository")
    }))

  it.effect("without text files is an error", () =>
    Effect.gen(function*() {
      const root = yield* directory({})
      assert.strictEqual(yield* reasonOf(Input.load({ root, stdin: noStdin })), "empty")
    }))

  it.effect("of this very library has lines", () =>
    Effect.gen(function*() {
      const { lines } = yield* Input.load({ stdin: noStdin })
      assert.isAbove(lines.length, 100)
    }))
})
