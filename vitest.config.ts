import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const source = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

export default defineConfig({
  resolve: {
    // Tests and examples import the package by its name, as a user does.
    alias: [
      { find: /^resilient-websocket$/, replacement: source("index.ts") },
      {
        find: /^resilient-websocket\/(node|sqlite|postgres|redis|promise|testing)$/,
        replacement: source("$1/index.ts")
      }
    ]
  },
  test: {
    globalSetup: "test/support/onceARun.ts",
    include: ["test/**/*.test.ts"],
    // By itself it leaves one processor idle, which is half of two. No test minds company.
    maxWorkers: "100%",
    testTimeout: 30_000,
    hookTimeout: 30_000
  }
})
