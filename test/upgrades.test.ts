/** Upgrades: whatever a peer does with its socket, and whoever shares the `http.Server`, each socket has an owner. */
import { assert, describe, it, onTestFinished } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { execFileSync, spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { createServer, type Server } from "node:http"
import { createServer as createTlsServer } from "node:https"
import { connect, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { connect as connectTls } from "node:tls"
import { WebSocketServer } from "ws"
import { NodeTransport } from "../src/node/index.ts"
import { type Connection, type Refusal, TransportServer } from "../src/Transport.ts"
import { programPath } from "./support/sharedByRun.ts"

interface Listening {
  readonly port: number
  readonly accepted: Array<Connection>
  readonly refused: Array<Refusal["reason"]>
  readonly close: () => Promise<void>
}

const listen = async (options: NodeTransport.ServerOptions): Promise<Listening> => {
  const scope = Effect.runSync(Scope.make())
  const accepted: Array<Connection> = []
  const refused: Array<Refusal["reason"]> = []
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  onTestFinished(async () => {
    await close()
    for (const connection of accepted) connection.terminate()
  })
  const { port } = await Effect.runPromise(
    Layer.build(NodeTransport.layerServer({ port: 0, ...options })).pipe(
      Effect.flatMap((services) =>
        Context.get(services, TransportServer).listen(
          (connection) => accepted.push(connection),
          ({ reason }) => refused.push(reason)
        )
      ),
      Scope.provide(scope)
    )
  )
  return { port, accepted, refused, close }
}

/** A peer that reads what comes and never closes by itself. */
class Raw {
  readonly socket: Socket
  text = ""
  private readonly closed: Promise<void>

  constructor(socket: Socket) {
    this.socket = socket
    socket.on("error", () => {})
    socket.on("data", (data) => void (this.text += data.toString("latin1")))
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()))
    onTestFinished(() => void socket.destroy())
  }

  write(text: string): this {
    this.socket.write(text, "latin1")
    return this
  }

  /** Waits until the other side has let go: only then what is written to it fails, also when it was half closed. */
  async gone(byte = "x"): Promise<void> {
    const writing = setInterval(() => this.write(byte), 20)
    await this.closed
    clearInterval(writing)
  }

  /** Waits for the answer to an upgrade. */
  async upgraded(): Promise<this> {
    await this.says(/101[^]*\r\n\r\n/)
    return this
  }

  async says(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.text)) {
      if (this.socket.readableEnded || this.socket.destroyed) assert.fail(`ended before ${pattern}: ${this.text}`)
      await new Promise<void>((resolve) => {
        this.socket.once("data", () => resolve())
        this.socket.once("close", () => resolve())
        this.socket.once("end", () => resolve())
      })
    }
  }
}

const raw = (port: number): Raw => new Raw(connect({ port, host: "127.0.0.1", allowHalfOpen: true }))

const request = (headers: ReadonlyArray<string> = [], path = "/", first = "GET"): string =>
  [
    `${first} ${path} HTTP/1.1`,
    "Host: shop.example:81",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ...headers,
    "",
    ""
  ].join("\r\n")

const shared = async (handle: () => string = () => "over HTTP"): Promise<Server> => {
  const server = createServer((_, response) => response.end(handle()))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return server
}

/** A frame of a client, with a mask of zeros; its payload may be sent later. */
const frame = (opcode: number, payload: string, length = payload.length): string => {
  const head = length < 126
    ? [0x80 | length]
    : [0xff, 0, 0, 0, 0, ...[24, 16, 8, 0].map((bits) => (length >> bits) & 255)]
  return String.fromCharCode(0x80 | opcode, ...head, 0, 0, 0, 0) + payload
}

describe("a WebSocket", () => {
  it.live("answers the newest of pings that came together", () =>
    Effect.promise(async () => {
      const { accepted, port } = await listen({ path: "/live" })
      const peer = await raw(port).write(request([], "/live")).upgraded()
      let alive = 0
      accepted[0]?.open({ frame: () => {}, drained: () => {}, alive: () => void alive++, closed: () => {} })
      peer.write(Array.from({ length: 2_000 }, (_, n) => frame(9, String(n).padStart(4, "0"))).join(""))
      await peer.says(/1999/)
      assert.strictEqual(alive, 2_000)
      assert.isAtMost(peer.text.split("\x8a").length, 100)
    }))

  it.live("answers a ping when its peer has read what was before that", () =>
    Effect.promise(async () => {
      const { accepted, port } = await listen({ path: "/live" })
      const peer = await raw(port).write(request([], "/live")).upgraded()
      const [connection = assert.fail()] = accepted
      const pinged = new Promise<void>((resolve) => {
        connection.open({ frame: () => {}, drained: () => {}, alive: resolve, closed: () => {} })
      })
      peer.socket.pause()
      while (connection.buffered() < 1_000_000) {
        connection.send("y".repeat(100_000))
        await new Promise((resolve) => setImmediate(resolve))
      }
      peer.write(frame(9, "are you there?"))
      await pinged
      peer.socket.resume()
      await peer.says(/are you there\?/)
    }))

  it.live("tells of large pieces of a frame before all of it is there", () =>
    Effect.promise(async () => {
      const { accepted, port } = await listen({ path: "/live" })
      const peer = await raw(port).write(request([], "/live")).upgraded()
      let frames = 0
      const seen = new Promise<number>((resolve) => {
        let bytes = 0
        accepted[0]?.open({
          frame: () => void frames++,
          incoming: (piece) => (bytes += piece) >= 300_000 && resolve(bytes),
          drained: () => {},
          alive: () => {},
          closed: () => {}
        })
      })
      peer.write(frame(1, "x".repeat(400_000), 500_000))
      assert.isAtMost(await seen, 400_014)
      assert.strictEqual(frames, 0)
    }))
})

describe("what is refused is gone soon", () => {
  it.live("half-open peers that read the refusal lose their socket", () =>
    Effect.promise(async () => {
      const { port, refused } = await listen({ path: "/live" })
      const peers = [
        raw(port).write(request([], "/other")),
        raw(port).write(request(["Origin: https://other.example"], "/live")),
        raw(port).write("GET /live HTTP/1.1\r\nHost: x\r\n\r\n"),
        raw(port).write("POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf"),
        raw(port).write(request(["Sec-WebSocket-Key: short"], "/live")),
        raw(port).write(request([], "/live").replace("Version: 13", "Version: 7")),
        raw(port).write(request(["Sec-WebSocket-Protocol: ,,"], "/live")),
        raw(port).write(request([], "/live").replace("Upgrade: websocket", "Upgrade: h2c")),
        raw(port).write(request([], "/live", "PUT")),
        raw(port).write("CONNECT example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        raw(port).write("no HTTP at all\r\n\r\n"),
        raw(port).write(`${request([], "/other")}${"x".repeat(100_000)}`)
      ]
      await Promise.all(peers.map((peer) => peer.gone()))
      assert.deepStrictEqual(
        peers.map(({ text }) => text.slice(9, 12)),
        ["404", "403", "426", "426", "400", "400", "400", "400", "405", "", "400", "404"]
      )
      assert.deepStrictEqual(refused.toSorted(), [
        "malformed",
        "malformed",
        "malformed",
        "malformed",
        "malformed",
        "origin",
        "path",
        "path"
      ])
    }))

  it.live("over maxConnections, and counted from TCP on", () =>
    Effect.promise(async () => {
      const { port, refused } = await listen({ maxConnections: 2 })
      const first = raw(port).write("GET / HTTP/1.1\r\nHo")
      const second = raw(port).write(request())
      await second.says(/^HTTP\/1.1 101/)
      const third = raw(port).write(request())
      await third.says(/^HTTP\/1.1 503/)
      const fourth = raw(port).write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      await fourth.says(/^HTTP\/1.1 503/)
      const silent = raw(port)
      await Promise.all([third.gone(), fourth.gone(), silent.gone()])
      assert.deepStrictEqual(refused, ["full", "full", "full"])
      first.socket.destroy()
      // The server may hear of the first one's end a moment later.
      for (let tries = 0; tries < 100; tries++) {
        const next = raw(port).write(request())
        await next.says(/^HTTP\/1.1 .*\r\n/)
        if (next.text.includes("101")) return
      }
      assert.fail("its place was never free again")
    }))

  it.live("headers that trickle, on an own port and a shared one, and who only waits", () =>
    Effect.promise(async () => {
      const server = await shared()
      const own = await listen({ handshakeTimeout: 300 })
      const other = await listen({ server, path: "/live", handshakeTimeout: 300 })
      for (const { port, refused } of [own, other]) {
        const peer = raw(port).write("GET /live HTTP/1.1\r\nHost: x\r\n")
        await peer.gone("X: y\r\n")
        assert.deepStrictEqual(refused, ["late"])
      }
      const silent = raw(own.port)
      await new Promise((resolve) => silent.socket.once("end", resolve))
      // Of the shared one, who has said nothing may still say something.
      const kept = raw(other.port)
      await new Promise((resolve) => setTimeout(resolve, 700))
      kept.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      await kept.says(/over HTTP/)
      await new Promise((resolve) => setTimeout(resolve, 700))
      kept.text = ""
      kept.write(request([], "/live"))
      await kept.says(/101/)
      assert.strictEqual(other.accepted.length, 1)
    }))

  it.live("the time for the request is part of the time for the handshake", () =>
    Effect.promise(async () => {
      const server = await shared()
      const { accepted, port } = await listen({ server })
      const connected = new Promise((resolve) => server.once("connection", resolve))
      const peer = raw(port).write("GET / HTTP/1.1\r\n")
      await connected
      await new Promise((resolve) => setTimeout(resolve, 50))
      peer.write(request().split("\r\n").slice(1).join("\r\n"))
      await peer.says(/101/)
      assert.isAtLeast(accepted[0]?.upgradeMillis ?? 0, 45)
    }))

  it.live("the end of the transport closes who is not accepted, and leaves who is", () =>
    Effect.promise(async () => {
      const server = await shared()
      const own = await listen({})
      const other = await listen({ server, path: "/live" })
      for (const { close, port } of [own, other]) {
        const accepted = raw(port).write(request([], "/live"))
        await accepted.says(/101/)
        const refused = raw(port).write(request(["Origin: https://x.example"], "/live"))
        await refused.says(/403/)
        const half = raw(port).write("GET / HTTP/1.1\r\nHost")
        await close()
        await Promise.all([refused.gone(), half.gone()]) // the shared server was made to listen here, and is closed with the layer
        assert.isFalse(accepted.socket.destroyed)
      }
    }))
})

describe("one upgrade, one owner", () => {
  it.live("two transports with paths of their own, and nobody for a third", () =>
    Effect.promise(async () => {
      const server = await shared()
      const [a, b] = await Promise.all([listen({ server, path: "/a" }), listen({ server, path: "/b" })])
      assert.strictEqual(a.port, b.port)
      await raw(a.port).write(request([], "/a?x=/b")).says(/101/)
      await raw(a.port).write(request([], "/b")).says(/101/)
      assert.deepStrictEqual([a.accepted.length, b.accepted.length], [1, 1])
      const nobodys = raw(a.port).write(request([], "/c"))
      await nobodys.gone()
      assert.match(nobodys.text, /^HTTP\/1.1 404/)
      await a.close()
      const gone = raw(b.port).write(request([], "/a"))
      await gone.gone()
      assert.match(gone.text, /^HTTP\/1.1 404/)
      await raw(b.port).write(request([], "/b")).says(/101/) // the server is closed with the last
    }))

  it.live("overlapping paths on one server are an error of the second", () =>
    Effect.promise(async () => {
      const server = await shared()
      await listen({ server, path: "/a" })
      for (const path of ["/a", undefined]) {
        const failure = await listen({ server, path }).then(() => undefined, (error: unknown) => error)
        assert.include(failure, { _tag: "resilient-websocket/TransportError", operation: "listen" })
        assert.match(String(failure), /another transport on this http.Server/)
      }
      await listen({ server, path: "/b" })
    }))

  for (const order of ["before", "after"] as const) {
    it.live(`a WebSocketServer on the same server, made ${order} ours: one has it, and the process lives`, () =>
      Effect.promise(async () => {
        const server = await shared()
        let theirs = 0
        const add = () => {
          const foreign = new WebSocketServer({ server })
          foreign.on("connection", () => void theirs++)
          onTestFinished(() => {
            for (const ws of foreign.clients) ws.terminate()
          })
        }
        if (order === "before") add()
        const { accepted, port, refused } = await listen({ server, path: "/live" })
        if (order === "after") add()
        for (const path of ["/live", "/theirs"]) await raw(port).write(request([], path)).says(/101/)
        assert.deepStrictEqual([accepted.length, theirs, refused], [0, 2, ["taken"]])
      }))
  }

  it.live("a listener that takes its upgrades later, one that refuses, and none", () =>
    Effect.promise(async () => {
      const server = await shared()
      const foreign = new WebSocketServer({ noServer: true })
      server.on("upgrade", async (message, socket, head) => {
        if (message.url === "/forbidden") return void socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n")
        await new Promise((resolve) => setTimeout(resolve, 20))
        if (message.url === "/theirs") {
          foreign.handleUpgrade(message, socket, head, (ws) => onTestFinished(() => ws.terminate()))
        }
      })
      const { accepted, port } = await listen({ server, path: "/live", handshakeTimeout: "2 seconds" })
      const theirs = raw(port).write(request([], "/theirs"))
      await theirs.says(/101/)
      await raw(port).write(request([], "/live")).says(/101/)
      const forbidden = raw(port).write(request([], "/forbidden"))
      const nobodys = raw(port).write(request([], "/nobodys"))
      await Promise.all([forbidden.gone(), nobodys.gone()])
      assert.match(forbidden.text, /^HTTP\/1.1 401/)
      assert.match(nobodys.text, /^HTTP\/1.1 404/)
      assert.strictEqual(accepted.length, 1)
      assert.isFalse(theirs.socket.destroyed)
    }))

  it.live("an upgrade within what was a plain connection, and bytes right behind it", () =>
    Effect.promise(async () => {
      const server = await shared()
      const { accepted, port } = await listen({ server, path: "/live" })
      const peer = raw(port).write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      await peer.says(/over HTTP/)
      peer.socket.write(Buffer.concat([
        Buffer.from(request([], "/live")),
        Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69])
      ]))
      await peer.says(/101/)
      const [connection] = accepted
      const frame = await new Promise((resolve) =>
        connection?.open({ frame: resolve, drained: () => {}, alive: () => {}, closed: resolve })
      )
      assert.strictEqual(frame, "hi")
    }))
})

describe("a full port", () => {
  it.live("takes the place of silent sockets of one address for another address, and not for the same", () =>
    Effect.promise(async () => {
      const { port, refused } = await listen({ maxConnections: 3, handshakeTimeout: "1 minute" })
      await raw(port).write(request()).says(/101/)
      const silent = []
      for (let i = 0; i < 2; i++) {
        const peer = raw(port)
        silent.push(peer)
        await new Promise((resolve) => peer.socket.once("connect", resolve))
      }
      await raw(port).write(request()).says(/503/)
      const elsewhere = () => new Raw(connect({ port, host: "127.0.0.1", localAddress: "127.0.0.2" }))
      await elsewhere().write(request()).says(/101/)
      await silent[0]?.gone()
      await elsewhere().write(request()).says(/503/) // each address has as many
      assert.deepStrictEqual(refused, ["full", "full", "full"])
    }))
})

describe("TLS", () => {
  const made = () => {
    const folder = mkdtempSync(`${tmpdir()}/upgrades-`)
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const options = `req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout ${folder}/key -out ${folder}/cert`
    execFileSync("openssl", options.split(" "), { stdio: "ignore" })
    return { key: readFileSync(`${folder}/key`), cert: readFileSync(`${folder}/cert`) }
  }

  it.live("handshakes that stop half-way, headers that trickle, resets, refusals", () =>
    Effect.promise(async () => {
      const server = createTlsServer(made(), (_, response) => response.end("over HTTPS"))
      onTestFinished(() => void server.close())
      const { port, refused } = await listen({ server, path: "/live", handshakeTimeout: "2 seconds" })
      const tls = () => new Raw(connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false }))
      await tls().write(request([], "/live")).says(/101/)
      const other = tls().write(request([], "/other"))
      await other.gone()
      assert.match(other.text, /^HTTP\/1.1 404/)
      for (let i = 0; i < 50; i++) {
        const peer = raw(port)
        await new Promise((resolve) => peer.socket.once("connect", resolve))
        peer.write("\x16\x03\x01")
        peer.socket.resetAndDestroy()
      }
      // A record of 257 bytes, and headers, both slower than the time for them.
      await Promise.all([
        raw(port).write("\x16\x03\x01\x01\x01").gone("\x00"),
        tls().write("GET /live HTTP/1.1\r\nHost: ").gone()
      ])
      assert.include(refused, "late")
      await tls().write(request([], "/live")).says(/101/)
    }))

  it.live("peers of a Unix socket, who have no address to be told apart by, stay connected", () =>
    Effect.promise(async () => {
      const directory = mkdtempSync(join(tmpdir(), "unix-"))
      onTestFinished(() => rmSync(directory, { recursive: true }))
      const path = join(directory, "socket")
      const server = createTlsServer(made(), (_, response) => response.end("over HTTPS"))
      onTestFinished(() => void server.close())
      await new Promise<void>((resolve) => server.listen(path, resolve))
      const { accepted, refused } = await listen({ server, path: "/live", handshakeTimeout: "2 seconds" })
      const plain = [connect(path), connect(path)]
      await Promise.all(plain.map((socket) => new Promise((resolve) => socket.once("connect", resolve))))
      const peers = plain.map((socket) => new Raw(connectTls({ socket, rejectUnauthorized: false })))
      for (const peer of peers) await peer.write(request([], "/live")).says(/101/)
      await new Promise((resolve) => setTimeout(resolve, 2_500)) // longer than a handshake may take
      assert.deepStrictEqual([accepted.length, refused], [2, []])
      for (const { socket } of peers) assert.isFalse(socket.readableEnded || socket.destroyed)
    }))
})

describe("a process that may open no more files", () => {
  it.live("says so, and counts it", () =>
    Effect.promise(async () => {
      const program = await programPath("fullServer")
      const child = spawn("sh", ["-c", `ulimit -n 100; exec "${process.execPath}" "${program}"`], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      onTestFinished(() => void child.kill("SIGKILL"))
      let text = ""
      for await (const data of child.stdout) text += String(data)
      assert.match(text, /the transport failed: no more files can be opened/)
      assert.match(text, /refused: [1-9]/)
    }))
})
