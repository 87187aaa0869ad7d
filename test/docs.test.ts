/**
 * The documentation is true: its code compiles, its tables say what the sources say, its links lead somewhere.
 *
 * After a change of options, metrics or files' first sentences `UPDATE_DOCS=1 npx vitest run test/docs.test.ts` writes
 * the tables anew.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import * as Docs from "./support/docs.ts"

const { read, root } = Docs

const update = process.env["UPDATE_DOCS"] === "1"

const entries = ["node", "sqlite", "postgres", "redis", "promise", "testing", "testing/node"]

describe("code in the documentation", () => {
  it("compiles as strictly as the library, names unused aside", () => {
    const folder = join(root, "node_modules/.cache/docs-check")
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    const names = new Set<string>()
    for (const { code, line, name, page } of Docs.codeBlocks()) {
      const file = name ?? `${page.replaceAll("/", ".")}.L${line}.ts`
      assert.isFalse(names.has(file), `two blocks are called ${file}`)
      names.add(file)
      writeFileSync(join(folder, file), code)
    }
    assert.isAbove(names.size, 20)
    writeFileSync(
      join(folder, "tsconfig.json"),
      JSON.stringify({
        extends: "../../../tsconfig.json",
        compilerOptions: {
          noUnusedLocals: false,
          noUnusedParameters: false,
          paths: {
            "resilient-websocket": ["../../../src/index.ts"],
            ...Object.fromEntries(
              entries.map((entry) => [`resilient-websocket/${entry}`, [`../../../src/${entry}/index.ts`]])
            )
          }
        },
        files: [...names],
        include: []
      })
    )
    const { status, stdout } = spawnSync(join(root, "node_modules/.bin/tsc"), ["-p", folder], { encoding: "utf8" })
    assert.strictEqual(status, 0, stdout)
    rmSync(folder, { recursive: true })
  })

  it.each(["contract.ts", "server.ts", "client.ts", "faults.ts"])(
    "in README.md, %s is the example that is run",
    (name) => {
      const block = Docs.codeBlocks().find((block) => block.name === name)
      assert.deepStrictEqual(Docs.comparable(block?.code ?? ""), Docs.comparable(read(`examples/${name}`)))
      assert.isBelow((block?.code ?? "").split("\n").length, 40)
    }
  )
})

describe("tables of options", () => {
  const everybodys = Docs.optionsInterfaces()
  const interfaces = everybodys.filter(({ name }) => !Docs.notForUsers.includes(name))

  it("are found at all", () => {
    assert.includeMembers(interfaces.map(({ name }) => name), [
      "ResilientServer.Options",
      "NodeTransport.ServerOptions"
    ])
    for (const { name, options } of interfaces) assert.isNotEmpty(options, name)
  })

  it.each(interfaces)(
    "docs/options.md, or the page of its face, has every option of $name, with its default",
    (each) => {
      const page = each.source.startsWith("src/promise/") ? "docs/promise.md" : "docs/options.md"
      const table = Docs.optionTable(each)
      if (update) writeFileSync(join(root, page), Docs.withGenerated(read(page), each.name, table))
      const found = Docs.generated(read(page), each.name)
      assert.isDefined(found, `${page} has no <!-- ${each.name} --> … <!-- end -->`)
      assert.deepStrictEqual(Docs.rowsOf(found ?? ""), table, "UPDATE_DOCS=1 npx vitest run test/docs.test.ts")
    }
  )

  it("say the defaults that the code has", () => {
    const coded = Docs.codedDefaults()
    assert.isAbove(coded.length, 30)
    for (const { name, source, value } of coded) {
      const option = everybodys.filter((each) => isAbout(each.source, source))
        .flatMap(({ options }) => options).filter((option) => option.name === name.split(".")[0])
      assert.isNotEmpty(option, `${source} checks an option ${name}, which no interface has`)
      for (const { default: stated } of option) {
        if (stated === "not checked") continue // only one that is given is looked at
        assert.include(Docs.quantities(stated), value, `the default of ${name} in ${source}, documented as "${stated}"`)
      }
    }
  })

  /** Whether an interface's options may be checked in a file: its own, one of its layers, or what both sides share. */
  const isAbout = (documented: string, checked: string): boolean =>
    documented === checked ||
    (checked.startsWith("src/promise/") && documented.startsWith("src/promise/")) ||
    (/((memory|stored)Queue|queueParts|queueBounds)\.ts$/.test(checked) && documented === "src/MessageQueue.ts") ||
    (/(memory|stored)Registry\.ts$/.test(checked) && documented === "src/SessionRegistry.ts") ||
    (checked === "src/internal/store/layer.ts" && documented === "src/Deduplicator.ts") ||
    (/sides\/server\w*\.ts$/.test(checked) && documented === "src/ResilientServer.ts") ||
    (/sides\/client\w*\.ts$/.test(checked) && documented === "src/ResilientClient.ts") ||
    (/internal\/(run\/(settings|shutdown)|handle\/intakeLimits)\.ts$/.test(checked) &&
      /Resilient(Server|Client)/.test(documented))
})

describe("the table of errors in docs/errors.md", () => {
  const rows = Docs.rowsOf(read("docs/errors.md"))

  it.each(Docs.errorClasses())("has $name, with all that it tells apart", ({ literals, name }) => {
    const row = rows.filter(([first = ""]) => first === `\`${name}\``).flat().join(" ")
    assert.isNotEmpty(row)
    for (const literal of literals) assert.include(row, `\`${literal}\``)
  })

  it("is followed by every reason of a dead letter", () => {
    const { literals = [] } = Docs.errorClasses().find(({ name }) => name === "DeadLetterError") ?? {}
    assert.isAbove(literals.length, 5)
    const reasons = Docs.rowsOf(Docs.section("docs/errors.md", "Reasons")).map(([first = ""]) => first)
    assert.sameMembers(reasons.slice(2), literals.map((literal) => `\`${literal}\``))
  })
})

describe("README.md", () => {
  it("has at most 400 lines", () => {
    assert.isAtMost(read("README.md").trimEnd().split("\n").length, 400)
  })

  it("leads to every page for users", () => {
    const links = Docs.linksOf("README.md").map((link) => link.replace(/#.*/, ""))
    const pages = Docs.pages.filter((page) => page.startsWith("docs/") && page !== "docs/architecture.md")
    assert.includeMembers(links, pages)
  })
})

describe("the version", () => {
  const sections = [...read("CHANGELOG.md").matchAll(/^## (\S+) - (?:Unreleased|\d{4}-\d\d-\d\d)$/gm)]
    .map(([, version = ""]) => version)
  const versionIn = (path: string) => (JSON.parse(read(path)) as { readonly version: string }).version

  it("in package.json is that of the lock file, and of the newest section of the changelog", () => {
    const { packages } = JSON.parse(read("package-lock.json")) as {
      readonly packages: Readonly<Record<string, { readonly version: string }>>
    }
    assert.deepStrictEqual(
      [sections[0], versionIn("package-lock.json"), packages[""]?.version],
      Array(3).fill(versionIn("package.json"))
    )
    assert.strictEqual(sections.length, read("CHANGELOG.md").match(/^## /gm)?.length, "a section without a version")
  })

  it("of each `@since` has a section in the changelog", () => {
    const since = Docs.sources.flatMap((source) => [...read(source).matchAll(/@since (.*?)(?= @| \*\/|$)/gm)])
      .map(([, version = ""]) => version)
    assert.isAbove(since.length, 100)
    assert.deepStrictEqual([...new Set(since)].filter((version) => !sections.includes(version)), [])
  })
})

describe("the table of metrics", () => {
  it("has every metric", () => {
    const page = "docs/observability.md"
    const table = Docs.metricTable()
    assert.isAbove(table.length, 30)
    if (update) writeFileSync(join(root, page), Docs.withGenerated(read(page), "metrics", table))
    assert.deepStrictEqual(Docs.rowsOf(Docs.generated(read(page), "metrics") ?? ""), table)
  })
})

describe("docs/security.md", () => {
  it("names tests that there are", () => {
    const named = [...read("docs/security.md").matchAll(/`([\w/]+\.test\.ts)`/g)].map(([, name = ""]) => name)
    assert.isAbove(new Set(named).size, 20)
    assert.deepStrictEqual(named.filter((name) => !existsSync(join(root, "test", name))), [])
  })
})

describe("docs/architecture.md", () => {
  const text = read("docs/architecture.md")
  it.each(Docs.folders)("has the files of %s, each with the first sentence of its header", (folder) => {
    const page = "docs/architecture.md"
    const table = Docs.fileTable(folder)
    if (update) writeFileSync(join(root, page), Docs.withGenerated(read(page), folder, table))
    const found = Docs.generated(read(page), folder)
    assert.isDefined(found, `${page} has no <!-- ${folder} --> … <!-- end -->`)
    assert.deepStrictEqual(Docs.rowsOf(found ?? ""), table, "UPDATE_DOCS=1 npx vitest run test/docs.test.ts")
  })

  it("has no table of a folder that is gone", () => {
    const tables = [...text.matchAll(/<!-- (src\S*) -->/g)].map(([, folder = ""]) => folder)
    assert.sameMembers(tables, [...Docs.folders])
  })

  it("has a short sentence of every file", () => {
    const long = Docs.sources.filter((source) => !/^.{10,120}$/.test(Docs.purposeOf(source)))
    assert.deepStrictEqual(long, [], "the first sentence of the header is missing, or has more than 120 characters")
  })

  it("names functions that are where it says", () => {
    const named = [...text.matchAll(/`(\w+)`(?:\s+\(|\s+in\s+)`([\w/]+\.ts)`/g)]
    assert.isAbove(named.length, 30)
    for (const [, name = "", file = ""] of named) {
      assert.match(
        read(`src/${file}`),
        new RegExp(`\\b${name}\\b\\s*[:=(<]|(interface|type|class) ${name}\\b`),
        `${name} in ${file}`
      )
    }
  })
})

describe.each([...Docs.pages, "PROTOCOL.md"])("%s", (page) => {
  it("has no link that leads nowhere", () => {
    const broken = Docs.linksOf(page).filter((link) => {
      if (/^[a-z]+:/.test(link)) return false
      const [path = "", anchor] = link.split("#")
      const target = path === "" ? page : join(dirname(page), path)
      if (!existsSync(join(root, target))) return true
      return anchor !== undefined && !Docs.anchorsOf(target).includes(anchor)
    })
    assert.deepStrictEqual(broken, [])
  })

  it("names no folder of a particular machine", () => {
    assert.notMatch(read(page), /(^|[\s("'`])\/(home|root|Users|work|tmp|mnt)\//m)
  })
})
