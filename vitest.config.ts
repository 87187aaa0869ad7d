import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const source = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

/** Each in a process of its own: they measure theirs, or change it. */
const alone = [
  "test/core/utf8.test.ts", // takes globals away
  "test/demo/Checker.test.ts", // measures memory
  "test/FaultProxy.test.ts", // looks at all sockets and timers
  "test/leaks.test.ts", // measures memory
  "test/simulation.test.ts" // replaces methods
]

/** Deadlines only end what hangs: on a busy machine, whatever a test does may take many times as long. */
const patienceMillis = 600_000

export default defineConfig({
  resolve: {
    // Tests and examples import the package by its name, as a user does.
    alias: [
      { find: /^resilient-websocket$/, replacement: source("index.ts") },
      {
        find: /^resilient-websocket\/(node|sqlite|postgres|redis|promise|testing|testing\/node)$/,
        replacement: source("$1/index.ts")
      }
    ]
  },
  test: {
    globalSetup: "test/support/onceARun.ts",
    // More than there are processors: many tests wait, for a database that starts or for a time to pass.
    maxWorkers: 2 * availableParallelism(),
    testTimeout: patienceMillis,
    hookTimeout: patienceMillis,
    projects: [
      { extends: true, test: { name: "together", include: ["test/**/*.test.ts"], exclude: alone, isolate: false } },
      { extends: true, test: { name: "alone", include: alone } }
    ]
  }
})
