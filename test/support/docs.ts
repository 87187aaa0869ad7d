/** Reads the documentation and the sources that it speaks of: code blocks, options and their defaults, links. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../..", import.meta.url))

export const read = (path: string): string => readFileSync(join(root, path), "utf8")

const list = (folder: string, extension: string): Array<string> =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(extension))
    .map((name) => relative(root, join(root, folder, name)))
    .sort()

/** The pages that people read, but the protocol, which has tests of its own. */
export const pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", ...list("docs", ".md")]

export const sources = list("src", ".ts")

// --- code

export interface CodeBlock {
  readonly page: string
  readonly line: number
  /** What the block calls itself in a first line such as `// server.ts`. */
  readonly name: string | undefined
  readonly code: string
}

const fence = /^```ts\n([\s\S]*?)^```/gm

const blocksOf = (page: string, text: string): Array<CodeBlock> =>
  [...text.matchAll(fence)].map(({ 1: code = "", index }) => ({
    page,
    line: text.slice(0, index).split("\n").length,
    name: /^\/\/ ([\w-]+\.ts)\n/.exec(code)?.[1],
    code
  }))

/** The text of doc comments with everything else blanked, so that line numbers stay. */
const comments = (text: string): string => {
  let inside = false
  return text.split("\n").map((line) => {
    if (/^\s*\/\*\*/.test(line)) inside = true
    const shown = inside ? line.replace(/^\s*\*( |$)/, "") : ""
    if (line.includes("*/")) inside = false
    return shown
  }).join("\n")
}

export const codeBlocks = (): ReadonlyArray<CodeBlock> => [
  ...pages.flatMap((page) => blocksOf(page, read(page))),
  ...sources.flatMap((source) => blocksOf(source, comments(read(source))))
]

/** Code without what a page and an example must differ in: where it comes from, and what is said at its top. */
export const comparable = (code: string): ReadonlyArray<string> => {
  const lines = code.replace(/^(\/\*\*[\s\S]*?\*\/|\/\/.*)\n/, "")
    .replace(
      /"(?:\.\.\/)+src\/(?:([\w/]+)\/)?index\.ts"/g,
      (_, entry?: string) => entry === undefined ? `"resilient-websocket"` : `"resilient-websocket/${entry}"`
    )
    .trim().split("\n")
  const isImport = (line: string) => line.startsWith("import ")
  return [...lines.filter(isImport).sort(), ...lines.filter((line) => !isImport(line))]
}

// --- options

interface Option {
  readonly name: string
  readonly type: string
  /** What the doc comment says: `required` if there is none to need. */
  readonly default: string
  readonly text: string
}

export interface OptionsInterface {
  /** `MessageQueue.Options` */
  readonly name: string
  readonly source: string
  readonly options: ReadonlyArray<Option>
}

const moduleOf = (source: string): string => (source.split("/").at(-1) ?? "").replace(/\.ts$/, "")

/** Text from the bracket that opens at or after `from` to the one that closes it, without them. */
const braced = (text: string, from: number): string => {
  const start = text.indexOf("{", from)
  let depth = 0
  for (let i = start; i < text.length; i++) {
    if (text[i] === "{") depth++
    if (text[i] === "}" && --depth === 0) return text.slice(start + 1, i)
  }
  return ""
}

const describeType = (name: string, type: string): string => {
  const plain = type.trim().replace(/\s+/g, " ").replace(/^\|/, "").replace(/\| undefined$/, "").trim()
  if (plain.includes("=>")) return "function"
  if (plain === "Duration.Input" || plain === "Duration") return "duration"
  if (plain === "number") return name.endsWith("Bytes") ? "bytes" : "number"
  if (plain.startsWith("Partial<Window>")) return "`{ messages, bytes }`"
  if (plain.startsWith("Schema.")) return "Schema"
  if (plain.startsWith("Schedule.")) return "Schedule"
  if (plain.includes("Effect.Effect<")) return "string or effect"
  if (plain.startsWith("{")) return `\`{ ${[...plain.matchAll(/readonly (\w+)/g)].map(([, key]) => key).join(", ")} }\``
  if (plain === "Server") return "`http.Server`"
  if (/^[\w.]*Options$|^Omit</.test(plain)) return "options"
  return /^[\w.]+$/.test(plain) && plain !== "OverflowPolicy" ? plain : `\`${plain.replaceAll("|", "\\|")}\``
}

/** For an option without a comment whose value is another module's options. */
const referenceTo = (type: string): string => {
  const module = /(\w+)\.Options\b/.exec(type)?.[1]
  return module === undefined ? "" : `The options of \`${module}\`, below.`
}

const optionOf = (doc: string, name: string, mark: string, type: string): Option => {
  const text = doc.replace(/^\s*\/\*\*|\*\/\s*$/g, "").split("\n").map((line) => line.replace(/^\s*\* ?/, "").trim())
    .filter((line) => !line.startsWith("@since")).join(" ").replace(/\s+/g, " ").trim()
  const stated = /Default:? (.+?)\.(?=\s|$)/.exec(text)
  return {
    name,
    type: describeType(name, type),
    default: mark === "" ? "required" : stated?.[1] ?? (/Options\b/.test(type) ? "see there" : "none"),
    text: (stated === null ? text : text.replace(stated[0], "")).replace(/\s+/g, " ").trim() || referenceTo(type)
  }
}

const member =
  /(\/\*\*(?:(?!\*\/)[\s\S])*\*\/\s*)?^ {2}readonly (\w+)(\??):([\s\S]*?)(?=^ {2}(?:\/\*\*|readonly )|(?![\s\S]))/gm

/** What the durable stores have in common stands in an internal file, and is public by their options. */
const sharedOptions = "src/internal/store/layer.ts"

/** The type of an option that is another one's: `DriverOptions["pollInterval"]`. */
const typeOf = (type: string): string => {
  const [, owner, key] = /^\s*(\w+)\["(\w+)"\]\s*$/.exec(type) ?? []
  if (owner === undefined || key === undefined) return type
  const text = sources.map(read).find((source) => source.includes(`export interface ${owner} `)) ?? ""
  const found = [...braced(text, text.indexOf(`export interface ${owner} `)).matchAll(member)].find((each) =>
    each[2] === key
  )
  return found?.[4] ?? type
}

/** Interfaces that are not for users of the library but for who writes a transport, or makes the driver of a store. */
export const notForUsers: ReadonlyArray<string> = [
  "Transport.DialOptions",
  "sqliteDriver.DriverOptions",
  "postgresDriver.PostgresDriverOptions",
  "redisDriver.RedisDriverOptions"
]

/** The exported interfaces of options that have some of their own, by their public names. */
export const optionsInterfaces = (): ReadonlyArray<OptionsInterface> =>
  sources.filter((source) => source === sharedOptions || !/\/(internal|core)\//.test(source)).flatMap((source) => {
    const text = read(source)
    return [...text.matchAll(/export interface (\w*Options)\b(?!.*\{\}$)/gm)].map(({ 1: name, index }) => ({
      name: source === sharedOptions ? `${name}` : `${moduleOf(source)}.${name}`,
      source,
      options: [...braced(text, index).matchAll(member)].map((
        { 1: doc = "", 2: key = "", 3: mark = "", 4: type = "" }
      ) => optionOf(doc, key, mark, typeOf(type)))
    }))
  })

// --- what the code really defaults to

const constants: Readonly<Record<string, number>> = {
  Infinity,
  "defaultWindow.messages": 1024,
  "defaultWindow.bytes": 4 * 1024 * 1024,
  defaultMaxPayloadBytes: 1024 * 1024,
  "defaultIntensity.restarts": 10,
  "defaultIntensity.periodMillis": 60_000,
  "options.timeoutMillis": 30_000
}

const units: Readonly<Record<string, number>> = {
  ms: 1,
  millis: 1,
  s: 1_000,
  second: 1_000,
  minute: 60_000,
  hour: 3_600_000,
  KiB: 1024,
  MiB: 1024 ** 2
}

/** Every quantity that a text names, in ms, bytes or as it is. */
export const quantities = (text: string): ReadonlyArray<number> => [
  ...[...text.matchAll(/(\d[\d,_]*(?:\.\d+)?)\s*([A-Za-z]*)/g)].map(({ 1: digits = "", 2: word = "" }) =>
    Number(digits.replace(/[,_]/g, "")) * (units[word] ?? units[word.replace(/s$/, "")] ?? 1)
  ),
  ...(/for ever|none is/.test(text) ? [Infinity] : [])
]

/** A default as the code writes it: `"10 seconds"`, `16 * 1024 * 1024`, `Infinity`, a constant. */
const evaluate = (expression: string): number => {
  const constant = constants[expression]
  if (constant !== undefined) return constant
  if (expression.startsWith("\"")) return quantities(expression)[0] ?? Number.NaN
  return expression.split("*").reduce((product, factor) => product * Number(factor.trim().replaceAll("_", "")), 1)
}

export interface CodedDefault {
  readonly source: string
  /** As the check of the option names it: `window.messages`. */
  readonly name: string
  readonly value: number
}

/** The defaults of all options that are checked at construction. */
export const codedDefaults = (): ReadonlyArray<CodedDefault> =>
  sources.flatMap((source) =>
    [
      ...read(source).matchAll(
        /(?:Option|Check)\.(?:count|millis|fraction)\(\s*["`]([^"`]+)["`],\s*[^,]+,\s*("[^"]+"|[\w.* ]+)/g
      )
    ].map(({ 1: name = "", 2: expression = "" }) => ({
      source,
      name: name.replace(/^(endpoint|\$\{name\})\./, ""),
      value: evaluate(expression.trim())
    }))
  )

// --- tables

export type Row = ReadonlyArray<string>

const cellsOf = (line: string): Row =>
  line.replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/^:?-+:?$/, "-"))

/** The rows of the markdown tables in a text, without regard to how wide they are drawn. */
export const rowsOf = (text: string): ReadonlyArray<Row> =>
  text.split("\n").filter((line) => line.startsWith("|")).map(cellsOf)

const renderTable = (rows: ReadonlyArray<Row>): string => rows.map((row) => `| ${row.join(" | ")} |`).join("\n")

export const optionTable = ({ options }: OptionsInterface): ReadonlyArray<Row> => [
  ["option", "type", "default", "what it is"],
  ["-", "-", "-", "-"],
  ...options.map((option) => [
    `\`${option.name}\``,
    option.type,
    option.default,
    option.text.replaceAll("|", "\\|")
  ])
]

/** The names and descriptions in one of the records of `Metrics.ts`. */
const described = (record: string): ReadonlyArray<readonly [name: string, text: string]> =>
  [...braced(read("src/Metrics.ts"), read("src/Metrics.ts").indexOf(`const ${record} =`)).matchAll(/(\w+): "([^"]+)"/g)]
    .map(([, name = "", text = ""]) => [name, text] as const)

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

export const metricTable = (): ReadonlyArray<Row> => [
  ["metric", "kind", "in `stats`", "what it counts"],
  ["-", "-", "-", "-"],
  ...described("counters").map(([name, text]) => [
    `\`resilient_websocket_${snake(name).replace(/_total$/, "")}_total\``,
    "counter",
    `\`totals.${name}\``,
    text
  ]),
  ...described("gauges").map(([name, text]) => [`\`resilient_websocket_${snake(name)}\``, "gauge", "", text]),
  ...[...read("src/Metrics.ts").matchAll(/histogram\(`\$\{prefix\}(\w+)`, \{\s*description: "([^"]+)"/g)].map(
    ([, name = "", text = ""]) => [`\`resilient_websocket_${name}\``, "histogram", "", text]
  )
]

/** What a file says of itself: the first sentence of the comment at its top, without the period. */
export const purposeOf = (source: string): string => {
  const header = /^\/\*\*([\s\S]*?)\*\//.exec(read(source))?.[1] ?? ""
  const text = header.replace(/^ *\* ?/gm, "").trim().split(/\n\s*\n/)[0]?.replace(/\s+/g, " ") ?? ""
  return (/^.*?(?=\.( |$))/.exec(text)?.[0] ?? text).replace(/\{@link (\w+)\}/g, "`$1`").replaceAll("|", "\\|")
}

export const folders: ReadonlyArray<string> = [...new Set(sources.map((source) => dirname(source)))]

/** The files of a folder, without those of folders in it, with what each says of itself. */
export const fileTable = (folder: string): ReadonlyArray<Row> => [
  ["file", "what it is for"],
  ["-", "-"],
  ...sources.filter((source) => dirname(source) === folder).map((source) => [
    `\`${source.slice(folder.length + 1)}\``,
    purposeOf(source)
  ])
]

/** What stands between `<!-- name -->` and the next `<!-- end -->`. */
export const generated = (text: string, name: string): string | undefined =>
  new RegExp(`<!-- ${name.replaceAll(".", "\\.")} -->([\\s\\S]*?)<!-- end -->`).exec(text)?.[1]

export const withGenerated = (text: string, name: string, table: ReadonlyArray<Row>): string =>
  text.replace(
    new RegExp(`(<!-- ${name.replaceAll(".", "\\.")} -->)[\\s\\S]*?(<!-- end -->)`),
    (_, begin: string, end: string) => `${begin}\n\n${renderTable(table)}\n\n${end}`
  )

// --- errors

export interface ErrorClass {
  readonly name: string
  /** The values of its literal fields: its reasons, phases, operations. */
  readonly literals: ReadonlyArray<string>
}

const literalsOf = (text: string): ReadonlyArray<string> =>
  [...text.matchAll(/Literals\(\[([^\]]+)\]\)/g)].flatMap(([, items = ""]) =>
    [...items.matchAll(/"(\w+)"/g)].map(([, literal = ""]) => literal)
  )

export const errorClasses = (): ReadonlyArray<ErrorClass> => {
  const text = read("src/WebSocketError.ts")
  const union = /export const WebSocketError = Schema\.Union\(\[([\s\S]*?)\]\)/.exec(text)?.[1] ?? ""
  return [...union.matchAll(/\w+/g)].map(([name]) => {
    const at = text.search(new RegExp(`export class ${name}\\b`))
    const body = text.slice(at, text.indexOf("override get message", at))
    const reasons = name === "DeadLetterError"
      ? text.slice(text.indexOf("export const DeadLetterReason"))
      : ""
    return { name, literals: [...literalsOf(body), ...literalsOf(reasons.slice(0, reasons.indexOf("])") + 2))] }
  })
}

// --- links and sections

/** What stands under a heading, down to the next one. */
export const section = (page: string, heading: string): string =>
  new RegExp(`^#+ ${heading}$([\\s\\S]*?)(?=^#+ |(?![\\s\\S]))`, "m").exec(read(page))?.[1] ?? ""

const slug = (heading: string): string =>
  heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(" ", "-")

export const anchorsOf = (page: string): ReadonlyArray<string> =>
  [...read(page).replace(/^```[\s\S]*?^```/gm, "").matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) => slug(heading))

export const linksOf = (page: string): ReadonlyArray<string> =>
  [...read(page).replace(/^```[\s\S]*?^```/gm, "").matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target)
