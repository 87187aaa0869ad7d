import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { PassThrough } from "node:stream"
import * as Util from "node:util"
import * as Report from "../../examples/demo/Report.ts"

const plain: Report.Look = { width: 80, color: false }

const progress: Report.Progress = {
  elapsedMillis: 2500,
  goal: 40_000,
  toServer: { sent: 6000, handled: 5000 },
  toClient: { sent: 6000, handled: 4999 },
  faults: { faults: 13, cuts: 9, stalls: 2, halfOpens: 1, refusedDials: 4 },
  reconnects: 10
}

const tally = { sent: 20_000, handled: 20_000, lost: 0, duplicated: 0, reordered: 0, corrupted: 0 }

const good: Report.Summary = {
  seed: 7,
  clients: 4,
  source: "12 text files of the repository",
  elapsedMillis: 12_345,
  verdict: {
    ok: true,
    toServer: tally,
    toClient: tally,
    total: { ...tally, sent: 40_000, handled: 40_000 },
    failures: []
  },
  faults: { faults: 61, cuts: 43, stalls: 9, halfOpens: 3, refusedDials: 5 },
  reconnects: 46,
  redelivered: { toServer: 1234, toClient: 567 }
}

/** As of servers that are processes of their own. */
const killed: Report.Summary = {
  ...good,
  clients: 8,
  fleet: { store: "postgres", servers: 2, kills: 17, starts: 19, moves: 31, handedAgain: 5 }
}

const broken = { ...tally, handled: 19_999, lost: 3, duplicated: 2 }

const bad: Report.Summary = {
  ...good,
  verdict: {
    ok: false,
    toServer: broken,
    toClient: tally,
    total: { ...broken, sent: 40_000, handled: 39_999 },
    failures: [{
      kind: "lost",
      direction: "toServer",
      stream: "client 2",
      index: 40,
      detail: "never handled: 40 to 42, 3 in all"
    }]
  }
}

describe("the progress line", () => {
  it("says how far it is", () => {
    assert.strictEqual(
      Report.renderProgress(progress, { ...plain, width: 200 }),
      " 24 % · 2.5 s · handled 9,999 of 40,000 · 13 faults · 10 reconnects · 4,000 msgs/s" +
        " · 9 cut, 2 stalled, 1 half-open"
    )
  })

  it("says how many servers were killed, and sessions moved", () => {
    const line = Report.renderProgress({ ...progress, fleet: { kills: 1, moves: 12 } }, { ...plain, width: 200 })
    assert.include(line, " · 13 faults · 1 kill · 10 reconnects · 4,000 msgs/s · 12 moves · 9 cut")
  })

  it("never says 100 % too early", () => {
    const almost = { ...progress, toServer: { sent: 1, handled: 39_999 }, toClient: { sent: 0, handled: 0 } }
    assert.match(Report.renderProgress(almost, plain), /^ 99 %/)
  })

  it("fits any width, on one line", () => {
    for (let width = 1; width < 160; width++) {
      const line = Report.renderProgress(progress, { ...plain, width })
      assert.isAtMost(line.length, width)
      assert.notInclude(line, "\n")
    }
    assert.strictEqual(Report.renderProgress(progress, { ...plain, width: 20 }), " 24 % · 2.5 s")
  })

  it("starts from nothing", () => {
    const nothing = { sent: 0, handled: 0 }
    const line = Report.renderProgress({ ...progress, elapsedMillis: 0, toServer: nothing, toClient: nothing }, plain)
    assert.match(line, /0 % · 0\.0 s · handled 0 of 40,000/)
    assert.match(Report.renderProgress({ ...progress, goal: 0 }, plain), /^100 %/)
  })
})

describe("the summary", () => {
  it("is a table with a verdict", () => {
    assert.deepStrictEqual(Report.renderSummary(good, plain).split("\n"), [
      "               to server  to clients   total",
      "────────────────────────────────────────────",
      "sent              20,000      20,000  40,000",
      "handled           20,000      20,000  40,000",
      "lost                   0           0       0",
      "duplicated             0           0       0",
      "out of order           0           0       0",
      "corrupted              0           0       0",
      "redelivered        1,234         567   1,801",
      "msgs/s             1,620       1,620   3,240",
      "────────────────────────────────────────────",
      "cuts                                      43",
      "stalls                                     9",
      "half-opens                                 3",
      "refused dials                              5",
      "reconnects                                46",
      "time                                  12.3 s",
      "────────────────────────────────────────────",
      "",
      "seed 7, 4 clients, 12 text files of the repository",
      "OK: 40,000 messages handled exactly once and in order, through 61 faults."
    ])
  })

  it("of servers that were killed says so", () => {
    const lines = Report.renderSummary(killed, plain).split("\n")
    assert.includeMembers(lines, [
      "handed again             5           0       5",
      "servers killed                              17",
      "servers started                             19",
      "sessions moved                              31",
      "seed 7, 8 clients, 2 servers, postgres, 12 text files of the repository",
      "OK: 40,000 messages handled exactly once and in order, through 61 faults and 17"
    ])
    assert.strictEqual(lines.at(-1), "killed servers.")
  })

  it("says what is wrong, where, and how to see it again", () => {
    const lines = Report.renderSummary(bad, plain).split("\n")
    assert.deepStrictEqual(lines.slice(-2), [
      "FAILED: 3 lost, 2 duplicated. To try again: --seed 7",
      "  lost: client 2, to server, message 40: never handled: 40 to 42, 3 in all"
    ])
    assert.isFalse(Report.isSuccess(bad))
  })

  it("is no success if the run was given up, though nothing was found", () => {
    const aborted = { ...good, aborted: "gave up after 60 s" }
    assert.isFalse(Report.isSuccess(aborted))
    assert.strictEqual(Report.renderVerdict(aborted), "FAILED: gave up after 60 s. To try again: --seed 7")
  })

  it("fits narrow terminals, as a list", () => {
    const narrow = Report.renderSummary(bad, { ...plain, width: 30 }).split("\n")
    assert.isAtMost(Math.max(...narrow.map((line) => line.length)), 30)
    assert.includeMembers(narrow, ["lost: 3", "  3 to server", "  0 to clients", "time: 12.3 s"])
    const atLeast = Report.renderSummary(good, { ...plain, width: 44 })
    assert.include(atLeast, "to server  to clients   total")
  })

  it("is coloured only on request: the bad rows red", () => {
    const escape = "\u001b["
    assert.notInclude(Report.renderSummary(bad, plain) + Report.renderProgress(progress, plain), escape)
    const coloured = Report.renderSummary(bad, { ...plain, color: true })
    const red = coloured.split("\n").filter((line) => line.startsWith(`${escape}31m`))
    assert.deepStrictEqual(red.map((line) => /lost|duplicated|FAILED/.exec(line)?.[0]), [
      "lost",
      "duplicated",
      "FAILED"
    ])
    assert.strictEqual(Util.stripVTControlCharacters(coloured), Report.renderSummary(bad, plain))
    assert.include(Report.renderSummary(good, { ...plain, color: true }), `${escape}32mOK`)
  })

  it("is one JSON document too", () => {
    const json = JSON.parse(Report.renderJson(bad))
    assert.deepInclude(json, { ok: false, seed: 7, clients: 4, reconnects: 46, elapsedMillis: 12_345 })
    assert.deepStrictEqual(json.toServer, { ...broken, redelivered: 1234, messagesPerSecond: 1620 })
    assert.deepInclude(json.total, { lost: 3, redelivered: 1801 })
    assert.deepStrictEqual(json.faults, bad.faults)
    assert.deepStrictEqual(json.failures, bad.verdict.failures)
    assert.notProperty(json, "aborted")
    assert.deepInclude(json, { store: "memory", servers: 1, kills: 0, handedAgain: 0 })
    assert.deepInclude(JSON.parse(Report.renderJson(killed)), {
      store: "postgres",
      servers: 2,
      kills: 17,
      handedAgain: 5
    })
  })
})

/** An output that keeps what is written. */
const fakeOutput = (isTerminal: boolean) => {
  const written: Array<string> = []
  const output: Report.Output = {
    isTerminal,
    look: () => plain,
    write: (text) => Effect.sync(() => void written.push(text))
  }
  return { output, written }
}

const runLive = Effect.fnUntraced(function*(report: Report.Report, duration: string & `${number} seconds`) {
  yield* Effect.scoped(Effect.gen(function*() {
    yield* report.live(Effect.succeed(progress))
    yield* TestClock.adjust(duration)
  }))
})

describe("the report", () => {
  it.effect("rewrites one line ten times a second in a terminal, and clears it", () =>
    Effect.gen(function*() {
      const { output, written } = fakeOutput(true)
      const report = Report.make({ json: false, stdout: output })
      yield* runLive(report, "2 seconds")
      const clear = "\r\u001b[K"
      assert.strictEqual(written.length, 21)
      assert.isTrue(written.slice(0, 20).every((text) => text === clear + Report.renderProgress(progress, plain)))
      assert.strictEqual(written.at(-1), clear)
      yield* report.note("a note")
      assert.strictEqual(written.at(-1), `${clear}a note\n`)
    }))

  it.effect("writes plain lines every two seconds elsewhere", () =>
    Effect.gen(function*() {
      const { output, written } = fakeOutput(false)
      const report = Report.make({ json: false, stdout: output })
      yield* report.note("a note")
      yield* runLive(report, "6 seconds")
      yield* report.finish(good)
      const line = `${Report.renderProgress(progress, plain)}\n`
      assert.deepStrictEqual(written.filter((text) => text !== ""), [
        "a note\n",
        line,
        line,
        line,
        `${Report.renderSummary(good, plain)}\n`
      ])
    }))

  it.effect("leaves standard output to the JSON document when asked", () =>
    Effect.gen(function*() {
      const stdout = fakeOutput(false)
      const stderr = fakeOutput(false)
      const report = Report.make({ json: true, stdout: stdout.output, stderr: stderr.output })
      yield* report.note("a note")
      yield* runLive(report, "2 seconds")
      yield* report.finish(good)
      assert.deepStrictEqual(stdout.written, [`${Report.renderJson(good)}\n`])
      assert.deepStrictEqual(stderr.written.filter((text) => text !== ""), [
        "a note\n",
        `${Report.renderProgress(progress, plain)}\n`,
        `${Report.renderVerdict(good)}\n`
      ])
    }))
})

describe("an output", () => {
  const terminal = (columns: number) => Object.assign(new PassThrough(), { isTTY: true, columns })

  it("has colour in a terminal only, and not with NO_COLOR", () => {
    const color = (stream: Report.OutputStream, env: Record<string, string>) =>
      Report.processOutput(stream, env).look().color
    assert.isTrue(color(terminal(100), {}))
    assert.isTrue(color(terminal(100), { NO_COLOR: "" }))
    assert.isFalse(color(terminal(100), { NO_COLOR: "1" }))
    assert.isFalse(color(terminal(100), { TERM: "dumb" }))
    assert.isFalse(color(new PassThrough(), {}))
  })

  it("follows the width of its terminal, leaving the last column free", () => {
    const stream = terminal(100)
    const output = Report.processOutput(stream, {})
    assert.strictEqual(output.look().width, 99)
    stream.columns = 50
    assert.strictEqual(output.look().width, 49)
    stream.columns = 0
    assert.strictEqual(output.look().width, 79)
    assert.strictEqual(Report.processOutput(new PassThrough(), {}).look().width, 80)
  })

  it.effect("survives that its reader goes away", () =>
    Effect.gen(function*() {
      const stream = new PassThrough()
      const output = Report.processOutput(stream, {})
      stream.destroy(new Error("EPIPE"))
      yield* output.write("to nobody")
    }))
})
