/** Where and with what it was measured: figures without it mean little. */
import { execFileSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism, cpus, release, totalmem, type as system } from "node:os"
import { findProgram } from "./programs.ts"

/** Read from `bench/`, so that its own packages are found before the root's. */
const require = createRequire(new URL("../main.ts", import.meta.url))
const packages = ["ws", "effect", "@effect/platform-node", "socket.io", "mqtt", "@nats-io/transport-node"]
/** With what makes them say their version. */
const programs = [
  ["mosquitto", "-h"],
  ["nats-server", "--version"],
  ["postgres", "--version"],
  ["redis-server", "--version"]
] as const

export const machine = () => {
  const about = {
    date: new Date().toISOString(),
    node: process.version,
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    system: `${system()} ${release()} ${process.arch}`,
    commit: output("git", ["rev-parse", "--short", "HEAD"]),
    programs: Object.fromEntries(programs.map(([name, ...args]) => [name, versionIn(output(name, args))])),
    versions: Object.fromEntries(packages.map((name) => [name, versionOf(name)]))
  }
  const versions = Object.entries(about.versions).map(([name, version]) => `${name} ${version}`).join(", ")
  const installed = Object.entries(about.programs).flatMap(([name, version]) =>
    version === undefined ? [] : [`${name} ${version}`]
  )
  const text = [
    `${about.date.slice(0, 10)}, ${about.cores} cores of ${about.cpu}, ${about.system}`,
    `Node ${about.node}, ${versions}`,
    `${[...installed, `SQLite ${process.versions["sqlite"]}`].join(", ")}; commit ${about.commit}`
  ].join("\n")
  return { ...about, text }
}

/** Not by `require`, which gives no package.json that a package does not export. */
const versionOf = (name: string): string | undefined => {
  for (const folder of require.resolve.paths(name) ?? []) {
    try {
      return JSON.parse(readFileSync(`${folder}/${name}/package.json`, "utf8")).version
    } catch {
      // not in this folder
    }
  }
  return undefined
}

/** The first that looks like one. */
const versionIn = (text: string | undefined): string | undefined => /\d+\.\d+[\w.]*/.exec(text ?? "")?.[0]

/** What a program says, or nothing if it isn't there; some say it with an exit code other than 0. */
const output = (program: string, args: ReadonlyArray<string>): string | undefined => {
  try {
    return execFileSync(findProgram(program) ?? program, args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"]
    }).trim()
  } catch (error) {
    const { stdout } = error as { readonly stdout?: string }
    return stdout === undefined || stdout === "" ? undefined : stdout.trim()
  }
}
