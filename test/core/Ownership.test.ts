/** Who has a session: the rules one by one, and all orders of what two servers, a registry and a client can do. */
import { assert, describe, it } from "@effect/vitest"
import { type Found, Ownership } from "../../src/core/Ownership.ts"
import { everything } from "../support/everything.ts"
import { type Budget, explore, OwnershipWorld } from "../support/ownershipModel.ts"

const instance = "first"
const owner = (generation: number, of = instance, here = false): Found => ({ generation, instance: of, here })

const attachedAs = (generation: number): Ownership => {
  const own = new Ownership()
  own.attached({ generation, here: false })
  own.connected()
  return own
}

describe("an attachment", () => {
  it("keeps what was received, unless another server had the session meanwhile", () => {
    const own = attachedAs(3)
    assert.strictEqual(own.attached({ generation: 4, here: undefined }), "keep")
    assert.strictEqual(own.attached({ generation: 9, here: true }), "keep")
    assert.strictEqual(own.attached({ generation: 12, here: false }), "forfeit")
    assert.strictEqual(own.attached({ generation: 14, here: undefined }), "forfeit")
    assert.strictEqual(own.generation, 14)
  })

  it("of which others are under way may have holes before it that are these", () => {
    const own = attachedAs(3)
    own.attachmentBegan()
    own.attachmentBegan()
    assert.strictEqual(own.attached({ generation: 5, here: undefined }), "keep")
  })

  it("is overtaken by a newer one of the same server", () => {
    const own = attachedAs(5)
    assert.isTrue(own.isOvertaken(4))
    assert.isFalse(own.isOvertaken(6))
  })

  it("gets no connection when another server has wanted the session before it is done", () => {
    const own = new Ownership()
    own.attached({ generation: 1, here: false })
    assert.isTrue(own.mayConnect(1))
    own.wanted()
    assert.isFalse(own.mayConnect(1))
    own.attached({ generation: 2, here: true })
    assert.isTrue(own.mayConnect(2))
    assert.isFalse(own.mayConnect(1))
  })
})

describe("an attachment in doubt", () => {
  const inDoubt = (): Ownership => {
    const own = attachedAs(3)
    own.attachmentBegan()
    own.attachmentEnded(true)
    return own
  }

  it("ends with the next one", () => {
    const own = inDoubt()
    assert.isTrue(own.isInDoubt)
    own.attached({ generation: 5, here: true })
    assert.isFalse(own.isInDoubt)
  })

  it("that was made closes the connection of the one before, or is detached", () => {
    const own = inDoubt()
    assert.strictEqual(own.doubtSettled(owner(4, instance, true)), "close")
    assert.strictEqual(own.generation, 4)
    const without = inDoubt()
    without.disconnected()
    assert.strictEqual(without.doubtSettled(owner(4, instance, true)), "detach")
  })

  it("that was not made, or whose session is elsewhere by now, leaves all as it is", () => {
    for (const found of [owner(3, instance, true), owner(4), "nobody"] as const) {
      const own = inDoubt()
      assert.strictEqual(own.doubtSettled(found), "nothing")
      assert.strictEqual(own.generation, 3)
      assert.isFalse(own.isInDoubt)
    }
  })

  it("stays in doubt while another is under way, or the registry can't tell", () => {
    const own = inDoubt()
    own.attachmentBegan()
    assert.strictEqual(own.doubtSettled(owner(4, instance, true)), "nothing")
    own.attachmentEnded(false)
    assert.strictEqual(own.doubtSettled("unknown"), "nothing")
    assert.strictEqual(own.doubtSettled({ generation: 4, instance }), "nothing")
    assert.isTrue(own.isInDoubt)
  })

  it("forfeits nothing, whoever is found to be the owner", () => {
    const own = inDoubt()
    assert.isFalse(own.ownerIs("registry", 3, instance, owner(4))?.forfeits)
    assert.isFalse(own.wentTo(3, instance, owner(4)).forfeits)
  })
})

describe("a refused write", () => {
  it("is written again by a newer generation of this server, once no attachment is under way", () => {
    const own = attachedAs(3)
    assert.strictEqual(own.refused("registry", 3), "ask")
    own.attachmentBegan()
    assert.strictEqual(own.refused("registry", 3), "wait")
    own.attached({ generation: 4, here: true })
    own.attachmentEnded(false)
    assert.strictEqual(own.refused("registry", 3), "again")
  })

  it("forfeits where there is another owner, or the registry has refused it and can't be asked", () => {
    const own = attachedAs(3)
    assert.isFalse(own.ownerIs("registry", 3, instance, owner(3))?.forfeits)
    for (const found of [owner(4), "nobody", "unknown"] as const) {
      assert.deepStrictEqual(own.ownerIs("registry", 3, instance, found), {
        forfeits: true,
        farewell: found === "nobody" ? "ended" : "moved",
        forgets: "never"
      })
    }
    assert.deepStrictEqual(own.ownerIs("queue", 3, instance, owner(3)), {
      forfeits: false,
      farewell: "moved",
      forgets: "never"
    })
    assert.deepStrictEqual(own.ownerIs("queue", 3, instance, owner(4, "second")), {
      forfeits: true,
      farewell: "replaced",
      forgets: "now"
    })
    assert.deepStrictEqual(own.ownerIs("queue", 3, instance, "nobody"), {
      forfeits: true,
      farewell: "ended",
      forgets: "now"
    })
    assert.deepStrictEqual(own.ownerIs("queue", 3, instance, "unknown"), {
      forfeits: false,
      farewell: "moved",
      forgets: "whenKnown"
    })
  })

  it("does not forfeit what an attachment of this server's has, of which it has no answer", () => {
    const own = attachedAs(3)
    assert.deepInclude(own.ownerIs("registry", 3, instance, owner(4, instance, true)), {
      forfeits: false,
      forgets: "never"
    })
    assert.isTrue(own.isInDoubt)
    assert.isFalse(attachedAs(3).wentTo(3, instance, owner(4, instance, true)).forfeits)
    const attaching = attachedAs(3)
    attaching.attachmentBegan()
    assert.isFalse(attaching.wentTo(3, instance, { generation: 4, instance }).forfeits)
    assert.isTrue(attachedAs(3).wentTo(3, instance, owner(4)).forfeits)
  })

  it("because the outbox was opened elsewhere forfeits at once; because it is gone, when the registry says so", () => {
    const own = attachedAs(3)
    assert.strictEqual(own.opened(3), "nothing")
    assert.strictEqual(own.opened(4), "forfeit")
    assert.strictEqual(own.opened(Infinity), "ask")
  })

  it("of an older generation says nothing of this one", () => {
    assert.isUndefined(attachedAs(4).ownerIs("registry", 3, instance, owner(5)))
  })
})

describe("work on a session", () => {
  it("goes on, after a pause once the store has said so, but not if its session was given up meanwhile", () => {
    const own = attachedAs(3)
    const { tenure } = own
    assert.strictEqual(own.mayWork(tenure, true), "yes")
    assert.strictEqual(own.mayWork(tenure, false), "ask")
    own.forfeit()
    assert.strictEqual(own.mayWork(tenure, true), "no")
    assert.strictEqual(own.mayWork(own.tenure, true), "yes")
  })
})

describe("a session without a connection", () => {
  it("is released once, when nothing of it waits", () => {
    const own = attachedAs(3)
    assert.isFalse(own.detached(3), "it has a connection")
    own.disconnected()
    assert.isFalse(own.detached(2))
    assert.isTrue(own.detached(3))
    assert.isFalse(own.takeRelease(false))
    assert.isTrue(own.takeRelease(true))
    assert.isFalse(own.takeRelease(true))
  })

  it("is not released when it was attached again", () => {
    const own = attachedAs(3)
    own.disconnected()
    own.detached(3)
    own.attached({ generation: 4, here: true })
    assert.isFalse(own.takeRelease(true))
  })

  it("is forgotten when another server has it, and over when nobody has", () => {
    const own = attachedAs(3)
    own.disconnected()
    assert.strictEqual(own.away(owner(3)), "keep")
    assert.strictEqual(own.away("unknown"), "keep")
    assert.strictEqual(own.away(owner(4)), "forget")
    assert.strictEqual(own.away("nobody"), "ended")
    assert.isTrue(own.isLostTo(3, owner(4)))
    assert.isFalse(own.isLostTo(3, owner(3)))
  })
})

/** Each is all that can happen, in any order; `npm run test:all` takes more of it. */
const budgets: ReadonlyArray<Budget> = [
  { messages: 2, dials: 2, failures: 1, cuts: 0, forces: 0 },
  { messages: 1, dials: 2, failures: 1, cuts: 0, forces: 1 },
  { messages: 1, dials: 2, failures: 1, cuts: 1, forces: 0 },
  { messages: 1, dials: 3, failures: 0, cuts: 0, forces: 0 },
  ...(everything
    ? [
      { messages: 2, dials: 2, failures: 1, cuts: 0, forces: 1 },
      { messages: 2, dials: 2, failures: 1, cuts: 1, forces: 0 },
      { messages: 1, dials: 3, failures: 1, cuts: 0, forces: 0 },
      { messages: 1, dials: 3, failures: 2, cuts: 0, forces: 0 },
      { messages: 1, dials: 3, failures: 0, cuts: 1, forces: 0 }
    ]
    : [])
]

const brokenBy = (makeOwn?: () => Ownership): string | undefined => {
  for (const budget of budgets) {
    const { broken } = explore(new OwnershipWorld(budget, makeOwn), 2_000_000)
    if (broken !== undefined) return broken
  }
  return undefined
}

describe("two servers, a registry and a client", { timeout: 600_000 }, () => {
  it("keep the rules in all orders", () => {
    for (const budget of budgets) {
      const { broken, ends, worlds } = explore(new OwnershipWorld(budget), 2_000_000)
      assert.isUndefined(broken)
      assert.isAbove(worlds, 1_000)
      assert.isAbove(ends, 10)
    }
  })

  it("break them where a server takes its own attachment for another's", () => {
    assert.match(
      brokenBy(() =>
        new class extends Ownership {
          override refused(_: "queue" | "registry", generation: number) {
            return this.isCurrent(generation) ? "ask" as const : "again" as const
          }
          override get isInDoubt() {
            return false
          }
          override ownerIs(...[by, generation, instance, found]: Parameters<Ownership["ownerIs"]>) {
            const verdict = super.ownerIs(by, generation, instance, found)
            return verdict && { ...verdict, forfeits: true }
          }
        }()
      ) ?? "",
      /handled twice/
    )
  })

  it("break them where a server goes on from what it had before another had the session", () => {
    assert.match(
      brokenBy(() =>
        new class extends Ownership {
          override attached(as: Parameters<Ownership["attached"]>[0]) {
            const outcome = super.attached(as)
            return outcome === "forfeit" ? "keep" : outcome
          }
        }()
      ) ?? "",
      /handles 1 again that is stored as handled/
    )
  })

  it("break them where a wanted session gets a connection all the same", () => {
    assert.match(
      brokenBy(() =>
        new class extends Ownership {
          override mayConnect(generation: number) {
            return this.isCurrent(generation)
          }
        }()
      ) ?? "",
      /its messages are not handled/
    )
  })

  it("break them where a server that stood still does not ask whether it still has the session", () => {
    assert.match(
      brokenBy(() =>
        new class extends Ownership {
          override mayWork() {
            return "yes" as const
          }
        }()
      ) ?? "",
      /stood still, and handles/
    )
  })

  it("break them where what is connected is released", () => {
    assert.isDefined(brokenBy(() =>
      new class extends Ownership {
        override disconnected() {}
      }()
    ))
  })
})
