/**
 * Sockets that nobody else takes care of: each has a deadline and a listener for errors, and one call ends them all.
 */
import type { Duplex } from "node:stream"
import { longestTimer } from "../internal/kit/options.ts"

interface Held {
  readonly since: number
  timer: NodeJS.Timeout
  readonly onClose: () => void
  readonly onRelease: () => void
}

export class Custody {
  private readonly held = new Map<Duplex, Held>()

  get size(): number {
    return this.held.size
  }

  has(socket: Duplex): boolean {
    return this.held.has(socket)
  }

  /**
   * Holds a socket for this long, then calls `onLate`, or destroys it. A socket that is already held gets a new
   * deadline. `onRelease` is called when it is no longer held, for whatever reason. Returns whether it is newly held:
   * not if it is destroyed, or was held before.
   */
  hold(
    socket: Duplex,
    millis: number,
    onLate: (socket: Duplex) => void = destroy,
    onRelease: () => void = ignore
  ): boolean {
    if (socket.destroyed) return false
    const late = () => {
      this.release(socket)
      onLate(socket)
    }
    // A held socket keeps the process alive by itself.
    const timer = setTimeout(late, Math.min(millis, longestTimer)).unref()
    const known = this.held.get(socket)
    if (known !== undefined) {
      clearTimeout(known.timer)
      known.timer = timer
      return false
    }
    neverUnheard(socket)
    const onClose = () => this.release(socket)
    socket.once("close", onClose)
    this.held.set(socket, { since: performance.now(), timer, onClose, onRelease })
    return true
  }

  /** Stops holding a socket: from now on it is somebody else's, or gone. */
  release(socket: Duplex): void {
    const known = this.held.get(socket)
    if (known === undefined) return
    this.held.delete(socket)
    clearTimeout(known.timer)
    socket.off("close", known.onClose)
    known.onRelease()
  }

  /** How long the socket has been held, in ms. */
  ageOf(socket: Duplex): number {
    const known = this.held.get(socket)
    return known === undefined ? 0 : performance.now() - known.since
  }

  destroyAll(): void {
    for (const socket of this.held.keys()) socket.destroy()
    this.releaseAll()
  }

  releaseAll(): void {
    for (const socket of this.held.keys()) this.release(socket)
  }
}

/**
 * Adds a listener for errors, without which a socket's reset ends the process: between two owners the socket would have
 * none. Every socket has it until it is a WebSocket of ours. It does nothing, as a close follows the error.
 */
export const neverUnheard = (socket: Duplex): void => {
  if (!socket.listeners("error").includes(ignore)) socket.on("error", ignore)
}

/** Removes that listener: from now on somebody else listens for errors, as long as the socket lives. */
export const heardByOther = (socket: Duplex): void => {
  socket.off("error", ignore)
}

const ignore = (): void => {}

const destroy = (socket: Duplex): void => {
  socket.destroy()
}
