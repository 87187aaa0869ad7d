/** A TCP proxy between clients and a server, which can be cut; it delays and loses nothing else. */
import { once } from "node:events"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"

export interface CuttableProxy {
  readonly port: number
  /** Ends all connections, and takes no new ones until `mend`. */
  readonly cut: () => void
  readonly mend: () => void
  /** New connections go to another port of this machine. */
  readonly retarget: (target: number) => void
  /** Waits until somebody has tried in vain since the cut. */
  readonly refuses: () => Promise<void>
}

/** It is gone when `atEnd` says so. */
export const makeCuttableProxy = async (
  target: number,
  atEnd: (close: () => void) => void
): Promise<CuttableProxy> => {
  const sockets = new Set<Socket>()
  let isCut = false
  let port = target
  let refusal = Promise.withResolvers<void>()
  const server = createServer((client) => {
    if (isCut) {
      client.destroy()
      return refusal.resolve()
    }
    const upstream = connect(port, "127.0.0.1")
    for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(from)
      from.on("error", () => {}) // `close` comes next
      from.on("close", () => {
        sockets.delete(from)
        to.destroy()
      })
      from.pipe(to)
    }
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const cut = () => {
    isCut = true
    refusal = Promise.withResolvers()
    for (const socket of sockets) socket.destroy()
  }
  atEnd(() => {
    cut()
    server.close()
  })
  return {
    port: (server.address() as AddressInfo).port, // it listens on TCP
    cut,
    mend: () => void (isCut = false),
    retarget: (next) => void (port = next),
    refuses: () => refusal.promise
  }
}
