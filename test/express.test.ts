/** The Express example runs as a process, and is used by plain WebSockets: those of `ws`, and those of a real browser. */
import { afterAll, assert, beforeAll, describe, it, type TestContext } from "@effect/vitest"
import { once } from "node:events"
import type { IncomingMessage } from "node:http"
import type { Browser, Page } from "playwright-core"
import { WebSocket } from "ws"
import { chromium, launchChromium } from "./support/chromium.ts"
import { makeCuttableProxy } from "./support/cuttableProxy.ts"
import { type Program, startUntil } from "./support/processes.ts"
import { describeWithService } from "./support/services.ts"

/** What the kitchen says of each order. */
const statuses = ["received", "in the kitchen", "ready"]

interface TeaHouse extends Program {
  readonly port: number
  readonly order: (session: string, item?: string) => Promise<number>
  /** Orders, and waits until all of it was said to a page that is away. */
  readonly orderWhileAway: (session: string, item?: string) => Promise<number>
  readonly post: (body: string, type?: string) => Promise<{ readonly status: number; readonly error: unknown }>
  readonly stats: () => Promise<Figures>
}

interface Figures {
  readonly connected: number
  readonly totalConnections: number
  readonly totalQueuedMessages: number
  readonly connections: object
}

const start = startUntil(afterAll)

const startTeaHouse = async (): Promise<TeaHouse> => {
  const program = start("express/server.ts", { STEP_MILLIS: "1" })
  const port = Number((await program.says(/^listening on http:\/\/127\.0\.0\.1:(\d+)$/))[1])
  const url = `http://127.0.0.1:${port}`
  const send = (body: string, type = "application/json") =>
    fetch(`${url}/orders`, { method: "POST", headers: { "content-type": type }, body })
  const order = async (session: string, item = "tea"): Promise<number> => {
    const response = await send(JSON.stringify({ session, item }))
    assert.strictEqual(response.status, 202)
    return (await response.json()).order
  }
  return {
    ...program,
    port,
    order,
    orderWhileAway: async (session, item) => {
      const number = await order(session, item)
      await program.says(new RegExp(`^order ${number} .*: ready, which waits`))
      return number
    },
    post: async (body, type) => {
      const response = await send(body, type)
      return { status: response.status, error: (await response.json()).error }
    },
    stats: async () => (await fetch(`${url}/stats`)).json()
  }
}

/** What is said of these orders, made one after the other. */
const said = (...orders: ReadonlyArray<readonly [number: number, item: string]>): ReadonlyArray<string> =>
  orders.flatMap(([number, item]) => statuses.map((status) => `Order ${number}, ${item}: ${status}`))

/** A plain socket of `ws`. */
class Guest {
  /** What it has been told, but for its session. */
  readonly got: Array<string> = []
  session = ""
  localPort: number | undefined
  readonly ws: WebSocket
  private waiting: () => void = () => {}

  static async connect(port: number, session?: string): Promise<Guest> {
    const guest = new Guest(`ws://127.0.0.1:${port}/messages${session === undefined ? "" : `?session=${session}`}`)
    await once(guest.ws, "open")
    return guest
  }

  constructor(url: string) {
    this.ws = new WebSocket(url)
    this.ws.on("error", () => {}) // a close follows
    this.ws.once("upgrade", ({ socket }: IncomingMessage) => void (this.localPort = socket.localPort))
    this.ws.on("message", (data) => {
      const message = JSON.parse(String(data))
      if (message.type === "session") this.session = message.sessionId
      else this.got.push(`Order ${message.order}, ${message.item}: ${message.status}`)
      this.waiting()
    })
  }

  /** Waits until it has what it needs. */
  until(done: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.waiting = () => done() && resolve()
      this.waiting()
    })
  }

  async close(house: TeaHouse): Promise<void> {
    this.ws.close()
    await house.says(new RegExp(`^${this.session.slice(0, 8)}… disconnected$`))
  }
}

// One house: what the first does must be all that it has in its figures, and the last ends it.
describe("the Express example", () => {
  let house: TeaHouse
  beforeAll(async () => {
    house = await startTeaHouse()
  })

  it("keeps messages for a plain WebSocket that is away, and sends them when it is back from another port", async () => {
    const first = await Guest.connect(house.port)
    await first.until(() => first.session !== "")
    const one = await house.order(first.session)
    await first.until(() => first.got.length === 3)
    await first.close(house)
    const two = await house.orderWhileAway(first.session, "cake")
    const three = await house.orderWhileAway(first.session, "coffee")
    const { connected, connections, totalConnections, totalQueuedMessages } = await house.stats()
    assert.deepStrictEqual([connected, totalConnections, totalQueuedMessages], [0, 1, 6])
    assert.deepStrictEqual(connections, {}, "the ids of sessions are secrets")

    const second = await Guest.connect(house.port, first.session)
    const four = await house.order(first.session)
    await second.until(() => second.got.some((line) => line === said([four, "tea"])[2]))
    assert.notStrictEqual(second.localPort, first.localPort)
    assert.deepStrictEqual(first.got, said([one, "tea"]))
    assert.deepStrictEqual(second.got, said([two, "cake"], [three, "coffee"], [four, "tea"]))
    assert.strictEqual(second.session, "", "who comes back knows its session")
  })

  it("gives a session of its own to each, also if it comes with a name of its own choice, and says what is wrong with an order", async () => {
    const guests = await Promise.all([undefined, undefined, "admin", ""].map((name) => Guest.connect(house.port, name)))
    for (const guest of guests) await guest.until(() => guest.session !== "")
    assert.strictEqual(new Set(guests.map(({ session }) => session)).size, guests.length)
    assert.notInclude(guests.map(({ session }) => session), "admin")
    const [mine, other] = guests
    if (mine === undefined || other === undefined) return assert.fail("nobody is there")
    await house.order(mine.session)
    await mine.until(() => mine.got.length === 3)
    assert.deepStrictEqual(other.got, [])

    const nobody = "00000000-0000-4000-8000-000000000000"
    const order = (fields: object) => house.post(JSON.stringify({ session: nobody, item: "tea", ...fields }))
    assert.deepInclude(await order({ session: "admin" }), { status: 400, error: "session: expected a session's id" })
    assert.deepInclude(await order({ item: "gold" }), { status: 400, error: "item: expected tea, coffee, cake" })
    assert.deepInclude(await order({ item: ["tea"] }), { status: 400 })
    assert.deepInclude(await order({ note: "x".repeat(2_000) }), { status: 413 })
    assert.deepInclude(await order({}), { status: 404 })
    for (const body of ["{", "null", "7", "[]"]) assert.deepInclude(await house.post(body), { status: 400 })
    assert.deepInclude(await house.post("session=x", "text/plain"), { status: 400 })
  })

  it("ends by itself when it is told to, in the middle of traffic and whoever does not answer", async () => {
    const guests = await Promise.all(Array.from({ length: 5 }, () => Guest.connect(house.port)))
    for (const guest of guests) await guest.until(() => guest.session !== "")
    const silent = await Guest.connect(house.port)
    silent.ws.pause() // it answers no close frame
    const closed = guests.map(({ ws }) => once(ws, "close"))
    const traffic = Promise.allSettled(guests.map(async ({ session }) => {
      for (;;) await house.order(session) // until nobody takes one
    }))
    await Promise.all(guests.map((guest) => guest.until(() => guest.got.length > 30)))
    assert.strictEqual(await house.stop(), 0)
    await house.says(/^shut down: .*"dropped":0/)
    for (const [code] of await Promise.all(closed)) assert.strictEqual(code, 4000)
    await traffic
    for (const { got } of guests) {
      const orders = new Map<string, Array<string>>()
      for (const line of got) {
        const [order = "", status = ""] = line.split(": ")
        orders.set(order, [...orders.get(order) ?? [], status])
      }
      for (const told of orders.values()) assert.deepStrictEqual(told, statuses.slice(0, told.length))
    }
    silent.ws.terminate()
  })
})

describeWithService(chromium, "the page of the Express example, in a browser", () => {
  let browser: Browser
  let house: TeaHouse
  beforeAll(async () => {
    ;[house, browser] = await Promise.all([startTeaHouse(), launchChromium()])
  })
  afterAll(() => browser?.close())

  /** A tab with the page; nothing on it may fail. */
  const open = async (port: number, { onTestFinished }: TestContext): Promise<Page> => {
    const context = await browser.newContext()
    const faults: Array<Error> = []
    onTestFinished(async () => {
      await context.close()
      assert.deepStrictEqual(faults, [])
    })
    const page = await context.newPage()
    page.setDefaultTimeout(200_000)
    page.on("pageerror", (error) => faults.push(error))
    await page.goto(`http://127.0.0.1:${port}/`)
    await isConnected(page)
    return page
  }

  const isConnected = (page: Page) => page.getByText("Connected", { exact: true }).waitFor()
  const click = (page: Page, button: string) => page.getByRole("button", { name: button, exact: true }).click()

  const sessionOf = async (page: Page): Promise<string> =>
    String(await (await page.waitForFunction(() => sessionStorage.getItem("session"))).jsonValue())

  /** Orders on the page, and waits until the kitchen has said all that it says; gives the order's number. */
  const order = async (page: Page, item: string): Promise<number> => {
    const from = house.lines.length
    await click(page, `Order ${item}`)
    return Number((await house.says(new RegExp(`^order (\\d+) \\(${item}\\): ready`), from))[1])
  }

  /** The messages that are on the page. */
  const listed = (page: Page): Promise<ReadonlyArray<string>> =>
    page.getByRole("log").locator("li").evaluateAll((lines) =>
      lines.map((line) => [".what", ".status"].map((part) => line.querySelector(part)?.textContent).join(": "))
    )

  /** Waits until so many are there, and gives them. */
  const shown = async (page: Page, count: number): Promise<ReadonlyArray<string>> => {
    await page.waitForFunction((count) => document.querySelectorAll("li").length >= count, count)
    return listed(page)
  }

  /** Does what makes the page's connection end, and waits until the server knows. */
  const away = async (session: string, leave: () => unknown): Promise<void> => {
    const from = house.lines.length
    await leave()
    await house.says(new RegExp(`^${session.slice(0, 8)}… disconnected$`), from)
  }

  it("shows what waited for somebody who was offline", async (test) => {
    const page = await open(house.port, test)
    const session = await sessionOf(page)
    const one = await order(page, "tea")
    assert.deepStrictEqual(await shown(page, 3), said([one, "tea"]))
    await away(session, () => click(page, "Go offline for a while"))
    const two = await order(page, "coffee")
    const three = await house.orderWhileAway(session, "cake")
    assert.deepStrictEqual(await listed(page), said([one, "tea"]))

    await click(page, "Come back online")
    await isConnected(page)
    await shown(page, 9)
    const four = await order(page, "tea")
    assert.deepStrictEqual(await shown(page, 12), said([one, "tea"], [two, "coffee"], [three, "cake"], [four, "tea"]))
    assert.strictEqual(await sessionOf(page), session)
  })

  it("comes back by itself when the network was gone, and shows what waited", async (test) => {
    const wire = await makeCuttableProxy(house.port, test.onTestFinished)
    const page = await open(wire.port, test)
    const session = await sessionOf(page)
    const one = await order(page, "tea")
    await shown(page, 3)
    await away(session, () => wire.cut())
    const two = await house.orderWhileAway(session, "cake")
    await wire.refuses()
    await page.getByText("Connection lost").waitFor()
    await click(page, "Order coffee")
    await page.getByText("Not ordered: the server can't be reached.").waitFor()
    assert.deepStrictEqual(await listed(page), said([one, "tea"]))

    await wire.mend()
    await isConnected(page)
    await shown(page, 6)
    const three = await order(page, "coffee")
    assert.deepStrictEqual(await shown(page, 9), said([one, "tea"], [two, "cake"], [three, "coffee"]))
    await page.waitForFunction(() => document.querySelector("[role=alert]")?.textContent === "")
  })

  it("goes on with its session after a reload, and in one tab at a time", async (test) => {
    const page = await open(house.port, test)
    const session = await sessionOf(page)
    await away(session, () => click(page, "Go offline for a while"))
    const one = await house.orderWhileAway(session)
    await page.reload()
    await isConnected(page)
    assert.deepStrictEqual(await shown(page, 3), said([one, "tea"]))
    assert.strictEqual(await sessionOf(page), session)

    const [copy] = await Promise.all([
      page.context().waitForEvent("page"),
      page.evaluate(() => void window.open("/"))
    ])
    await isConnected(copy) // a tab that was opened by another begins with a copy of its sessionStorage
    assert.strictEqual(await sessionOf(copy), session)
    await page.getByText("Open in another tab").waitFor()
    const two = await order(copy, "cake")
    assert.deepStrictEqual(await shown(copy, 3), said([two, "cake"]))
    await click(page, "Use it here")
    await isConnected(page)
    await copy.getByText("Open in another tab").waitFor()
    const three = await order(page, "coffee")
    assert.deepStrictEqual(await shown(page, 6), said([one, "tea"], [three, "coffee"]))
  })

  it("leaves a server that ends by itself, with pages open", async (test) => {
    const page = await open(house.port, test)
    assert.strictEqual(await house.stop(), 0)
    await page.getByText("Connection lost").waitFor()
  })
})
