/** The sessions of this side by key and by share, and which one gives way when there are too many. */
import { Crowd, type Spare } from "../bounds/crowd.ts"
import type { Peer } from "./peer.ts"

export class Peers extends Map<string, Peer> {
  private readonly crowd = new Crowd<Peer>(standing)

  override set(key: string, peer: Peer): this {
    const before = this.get(key)
    if (before !== peer) {
      if (before !== undefined) this.crowd.delete(before)
      this.crowd.add(peer, peer.share)
    }
    return super.set(key, peer)
  }

  override delete(key: string): boolean {
    const peer = this.get(key)
    if (peer !== undefined) this.crowd.delete(peer)
    return super.delete(key)
  }

  /** The peer's session belongs to this share from now on. */
  reshare(peer: Peer, share: string): void {
    if (peer.share === share) return
    if (this.get(peer.key) !== peer) {
      peer.share = share
      return
    }
    this.crowd.delete(peer)
    this.crowd.add(peer, share)
  }

  /** The peer's connection came or went. */
  place(peer: Peer): void {
    if (this.get(peer.key) === peer) this.crowd.place(peer)
  }

  /** The peer that gives way to one more session of this share, if any does. */
  givesWay(share: string): Peer | undefined {
    return this.crowd.givesWay(share)
  }
}

/** Strangers that never said anything go first, then peers that are away. Connected peers that have spoken stay. */
const standing = (peer: Peer): Spare => {
  if (peer.own.isAttaching || peer.ending) return undefined
  if (!peer.connected && !peer.away) return undefined // just arriving
  if (peer.isSilentStranger) return "first"
  return peer.connected ? undefined : "next"
}
