/** The sessions of this side by key and by share, and which gives way when there are too many. */
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

  /** The peer's session is of this share from now on. */
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

  /** The peer whose session ends to make room for one more of this share, if any. */
  givesWay(share: string): Peer | undefined {
    return this.crowd.givesWay(share)
  }
}

/** Strangers first, then peers without a connection. A connected peer that has said anything stays. */
const standing = (peer: Peer): Spare => {
  if (peer.own.isAttaching || peer.ending) return undefined
  if (!peer.connected && !peer.away) return undefined // just arriving
  if (peer.isSilentStranger) return "first"
  return peer.connected ? undefined : "next"
}
