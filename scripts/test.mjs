// `npm test`: format check, lint, what nobody uses, types, tests; stops at the first that fails.
// `npm run test:all`: the tests alone, with all of what `npm test` takes a sample of.
// Arguments go to Vitest: `npm test -- test/core`.
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const bin = (name) => `${root}node_modules/.bin/${name}`
const everything = process.argv[2] === "--all"
const filters = process.argv.slice(everything ? 3 : 2)

const tests = ["tests", bin("vitest"), ["run", ...filters]]
const steps = everything ? [tests] : [
  ["format", bin("dprint"), ["check"]],
  ["lint", bin("oxlint"), ["--deny-warnings"]],
  ["unused", bin("knip"), []],
  ["types", bin("tsc"), ["--noEmit"]],
  tests
]

for (const [name, command, args] of steps) {
  const started = Date.now()
  console.log(`\n── ${name}`)
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    stdio: "inherit",
    env: everything ? { ...process.env, TEST_ALL: "1" } : process.env,
    shell: process.platform === "win32"
  })
  if (status !== 0) {
    console.error(`${name} failed${error === undefined ? "" : `: ${error.message}`}`)
    if (name === "format") console.error("run `npm run format` to mend it")
    process.exit(status ?? 1)
  }
  console.log(`   ${name}: ${((Date.now() - started) / 1000).toFixed(1)} s`)
}
