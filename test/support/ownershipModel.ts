/**
 * Two servers, one registry and one client, as small as they can be with the rules of `core/Ownership.ts` between them:
 * every step that may come next is tried, in every order. What a step does is what `internal/own` and its neighbours do.
 */
import { type Found, type Owner, Ownership } from "../../src/core/Ownership.ts"

type Name = "a" | "b"
const names: ReadonlyArray<Name> = ["a", "b"]

/** What may still happen in a run, so that runs end. */
export interface Budget {
  /** That the client sends. */
  readonly messages: number
  dials: number
  /** Attachments that fail, half of them after they were made. */
  failures: number
  /** Connections that break. */
  cuts: number
  /** Sessions that are taken from an owner that does not answer. */
  forces: number
}

/** One call to the registry, or the news of its answer. */
type Op =
  | { readonly kind: "attach"; readonly at: Name; readonly dial: number; readonly knew: boolean }
  | { readonly kind: "attached"; readonly at: Name; readonly dial: number; readonly knew: boolean; readonly as: Owner }
  | {
    readonly kind: "attachFailed"
    readonly at: Name
    readonly dial: number
    readonly knew: boolean
  }
  | { readonly kind: "open"; readonly at: Name; readonly dial: number; readonly generation: number }
  | { readonly kind: "opened" | "notOpened"; readonly at: Name; readonly dial: number; readonly generation: number }
  | { readonly kind: "openedElsewhere"; readonly at: Name; readonly generation: number }
  | { readonly kind: "settle"; readonly at: Name }
  | { readonly kind: "settled"; readonly at: Name; readonly found: Found }
  | { readonly kind: "save" | "saved" | "refused"; readonly at: Name; readonly generation: number; readonly save: Save }
  | { readonly kind: "ask"; readonly at: Name; readonly generation: number; readonly save: Save | undefined }
  | {
    readonly kind: "told"
    readonly at: Name
    readonly generation: number
    readonly save: Save | undefined
    readonly found: Found
  }
  | { readonly kind: "detach"; readonly at: Name; readonly generation: number }
  | { readonly kind: "detached"; readonly at: Name; readonly generation: number }
  | { readonly kind: "release"; readonly at: Name; readonly generation: number }
  | { readonly kind: "lost"; readonly at: Name; readonly dial: number }
  | { readonly kind: "want"; readonly at: Name }
  | { readonly kind: "next"; readonly at: Name; readonly generation: number }

type Attach = Extract<Op, { readonly kind: "attach" }>

/** A position on its way: of which runtime, in which tenure of it. */
interface Save {
  readonly life: number
  readonly tenure: number
  readonly offset: number
  /** Nothing new is stored: the registry is to say that the session is still this server's. */
  readonly isQuestion: boolean
}

/** What may happen next: how it is called, and what it does. */
type Step = readonly [string, (world: OwnershipWorld) => void]

/** A session's runtime at one server. */
interface Runtime {
  readonly life: number
  own: Ownership
  /** Messages received, and stored as handled. */
  received: number
  handled: number
  /** By the handler that runs. */
  handling: { readonly offset: number; readonly tenure: number } | undefined
  /** Handled, and being stored. */
  saving: number
  connection: number | undefined
  /** It stood still for longer than others wait: another server may have the session. */
  isUnsure: boolean
  /** Frames of this connection count for nothing any more. */
  unheeded: number | undefined
}

const instance = "client"

export class OwnershipWorld {
  registry = { generation: 0, node: undefined as Name | undefined, isDetached: true, position: 0, wanted: false }
  /** By which the outbox was opened last. */
  opened = 0
  servers: Record<Name, Runtime | undefined> = { a: undefined, b: undefined }
  ops: Array<Op> = []
  dial = 0
  private lives = 0
  /** The connection that the client has, and where. */
  client: { at: Name; dial: number; isAttached: boolean } | undefined
  budget: Budget
  /** How often the handler of each message was done. */
  done: Array<number> = []
  /** Whether a session was taken by force: then a handler that was under way may be done again. */
  forced = false
  readonly path: Array<string> = []
  private readonly makeOwn: () => Ownership

  /** With an ownership of one's own, to see that the model finds what it does wrong. */
  constructor(budget: Budget, makeOwn: () => Ownership = () => new Ownership()) {
    this.budget = { ...budget }
    this.makeOwn = makeOwn
  }

  copy(): OwnershipWorld {
    const other = new OwnershipWorld(this.budget, this.makeOwn)
    other.registry = { ...this.registry }
    for (const name of names) {
      const runtime = this.servers[name]
      other.servers[name] = runtime && { ...runtime, own: Object.assign(this.makeOwn(), runtime.own) }
    }
    other.opened = this.opened
    other.ops = [...this.ops]
    other.dial = this.dial
    other.lives = this.lives
    other.client = this.client && { ...this.client }
    other.done = [...this.done]
    other.forced = this.forced
    other.path.push(...this.path)
    return other
  }

  /** What tells two worlds apart. */
  get key(): string {
    const { budget, client, dial, done, forced, opened, registry, servers } = this
    const ops = this.ops.map((op) => JSON.stringify(op)).sort()
    return JSON.stringify([registry, opened, servers, ops, dial, client, budget, done, forced])
  }

  /** All that may happen next, each as what it is called and what it does. */
  steps(): ReadonlyArray<Step> {
    const steps: Array<Step> = []
    // One that waits may give up, too, as if its connection was cut.
    if (this.budget.dials > 0 && (this.client?.isAttached !== false || this.budget.cuts > 0)) {
      // The servers are alike, so the first may as well be this one.
      for (const at of this.dial === 0 ? names.slice(0, 1) : names) {
        steps.push([`dial ${at}`, (world) => world.dials(at)])
      }
    }
    if (this.client?.isAttached === true && this.budget.cuts > 0) {
      steps.push(["cut", (world) => {
        world.budget.cuts--
        world.hangUp()
      }])
    }
    for (const [index, op] of this.ops.entries()) {
      for (const [name, run] of this.waysOf(op)) {
        steps.push([`${op.at}: ${name}`, (world) => {
          world.ops.splice(index, 1)
          run(world)
        }])
      }
    }
    for (const at of names) {
      const runtime = this.servers[at]
      if (runtime === undefined) continue
      if (this.canReceive(at, runtime)) {
        steps.push([`${at}: receives ${runtime.received + 1}`, (world) => void world.runtime(at).received++])
      }
      const { handled, handling, own, received, saving } = runtime
      if (handling === undefined && saving === 0 && !own.isStopping && handled < received) {
        const may = own.mayWork(own.tenure, !runtime.isUnsure)
        if (may === "yes") steps.push([`${at}: begins ${handled + 1}`, (world) => world.begins(at)])
        if (may === "ask" && !this.isAsking(at)) {
          steps.push([`${at}: asks before ${handled + 1}`, (world) => world.save(at, handled, true)])
        }
      }
      if (handling !== undefined) steps.push([`${at}: has handled ${handling.offset}`, (world) => world.hasHandled(at)])
    }
    return this.isOwnStep(steps) ? steps : [...steps, ...this.timeouts()]
  }

  /** Whether any of them happens of itself. */
  isOwnStep(steps: ReadonlyArray<Step>): boolean {
    return steps.some(([name]) => !name.startsWith("dial") && name !== "cut")
  }

  /** Who has asked for the session waits only so long, though longer than anything else takes. */
  private timeouts(): ReadonlyArray<Step> {
    return this.ops.flatMap((op, index): ReadonlyArray<Step> =>
      op.kind !== "attach" ? [] : [[`${op.at}: waits no longer`, (world) => {
        world.ops.splice(index, 1)
        world.answer(op)
      }]]
    )
  }

  private canReceive(at: Name, { connection, received, unheeded }: Runtime): boolean {
    const { client } = this
    return client?.isAttached === true && client.at === at && client.dial === connection && unheeded !== connection &&
      received < this.budget.messages
  }

  /** In how many ways a call may go, or news be taken. */
  private waysOf(op: Op): ReadonlyArray<Step> {
    const { at } = op
    if (op.kind === "settle" && this.isAttaching(at)) return []
    if (op.kind !== "attach") return [[`${op.kind}`, (world) => world.perform(op)]]
    const { node, wanted } = this.registry
    if (node === undefined || node === at) {
      const ways: Array<Step> = [["attaches", (world) => world.answer(op)]]
      if (this.budget.failures > 0) {
        ways.push(
          ["attaches without knowing", (world) => world.fails(op, true)],
          ["fails to attach", (world) => world.fails(op, false)]
        )
      }
      return ways
    }
    if (!wanted) {
      return [["asks for the session", (world) => {
        world.registry.wanted = true
        world.ops.push(op, { kind: "want", at: node })
      }]]
    }
    if (this.budget.forces === 0) return []
    return [["takes the session", (world) => {
      world.forced = true
      world.budget.forces--
      const overruled = world.servers[node]
      if (overruled !== undefined) overruled.isUnsure = true
      world.answer(op)
    }]]
  }

  // --- the registry

  private attach(at: Name): Owner {
    const { registry } = this
    const as: Owner = { generation: registry.generation + 1, instance, here: registry.node === at }
    this.registry = { ...registry, generation: as.generation, node: at, isDetached: false, wanted: false }
    return as
  }

  private answer({ at, dial, knew }: Attach): void {
    this.ops.push({ kind: "attached", at, dial, knew, as: this.attach(at) })
  }

  private fails({ at, dial, knew }: Attach, isMade: boolean): void {
    this.budget.failures--
    if (isMade) this.attach(at)
    this.ops.push({ kind: "attachFailed", at, dial, knew })
  }

  private perform(op: Exclude<Op, { readonly kind: "attach" }>): void {
    const { registry } = this
    const { at } = op
    switch (op.kind) {
      case "attached":
        return this.attached(at, op.dial, op.knew, op.as)
      case "attachFailed": {
        const runtime = this.servers[at]
        if (op.knew) runtime?.own.attachmentEnded(true)
        this.ops.push({ kind: "settle", at })
        return this.refuse(op.dial)
      }
      case "open":
        if (this.opened > op.generation) return void this.ops.push({ ...op, kind: "notOpened" })
        this.opened = op.generation
        for (const other of names) {
          if (other !== at && this.servers[other] !== undefined) {
            this.ops.push({ kind: "openedElsewhere", at: other, generation: op.generation })
          }
        }
        return void this.ops.push({ ...op, kind: "opened" })
      case "opened":
        return this.isOpen(at, op.dial, op.generation)
      case "notOpened":
        this.refuse(op.dial)
        return this.abandon(at, op.generation)
      case "openedElsewhere": {
        const runtime = this.servers[at]
        if (runtime === undefined || runtime.own.opened(op.generation) !== "forfeit") return
        this.forfeit(runtime)
        return void this.ops.push({ kind: "ask", at, generation: runtime.own.generation, save: undefined })
      }
      case "settle":
        this.ops.push({ kind: "settled", at, found: this.find(at) })
        return
      case "settled":
        return this.settled(at, op.found)
      case "save": {
        if (registry.generation !== op.generation) return void this.ops.push({ ...op, kind: "refused" })
        registry.position = Math.max(registry.position, op.save.offset)
        return void this.ops.push({ ...op, kind: "saved" })
      }
      case "saved": {
        const runtime = this.whose(at, op.save)
        if (runtime === undefined) return
        if (op.save.isQuestion) return void (runtime.isUnsure = false)
        runtime.saving--
        runtime.handled = Math.max(runtime.handled, op.save.offset)
        return this.idle(at)
      }
      case "refused": {
        const runtime = this.whose(at, op.save)
        switch (runtime?.own.refused("registry", op.generation)) {
          case undefined:
            return
          case "again":
            return this.save(at, op.save.offset, op.save.isQuestion)
          case "wait":
            return void this.ops.push(op)
          case "ask":
            return void this.ops.push({ ...op, kind: "ask" })
        }
      }
      // falls through: all ways of a refusal return
      case "ask":
        this.ops.push({ ...op as Extract<Op, { kind: "ask" }>, kind: "told", found: this.find(at) })
        return
      case "told":
        return this.told(at, op)
      case "lost":
        return this.connectionLost(at, op.dial)
      case "detach":
        if (registry.generation === op.generation) registry.isDetached = true
        return void this.ops.push({ ...op, kind: "detached" })
      case "detached": {
        if (this.servers[at]?.own.detached(op.generation) === true) this.idle(at)
        return
      }
      case "release":
        if (registry.generation === op.generation) registry.node = undefined
        return
      case "want":
        return this.wanted(at)
      case "next": {
        const runtime = this.servers[at]
        if (runtime === undefined) return
        if (runtime.own.wentTo(op.generation, instance, this.find(at)).forfeits) this.forfeit(runtime)
        return
      }
    }
  }

  // --- the client

  private dials(at: Name): void {
    this.budget.dials--
    if (this.client?.isAttached === false) this.budget.cuts--
    if (this.client !== undefined) this.hangUp()
    this.dial++
    this.client = { at, dial: this.dial, isAttached: false }
    const knew = this.servers[at] !== undefined
    this.servers[at]?.own.attachmentBegan()
    this.ops.push({ kind: "attach", at, dial: this.dial, knew })
  }

  private hangUp(): void {
    const { client } = this
    this.client = undefined
    if (client?.isAttached === true) this.ops.push({ kind: "lost", at: client.at, dial: client.dial })
  }

  private refuse(dial: number): void {
    if (this.client?.dial === dial) this.client = undefined
  }

  // --- a server

  /** The runtime whose position that is, if what was handled then counts still. */
  private whose(at: Name, { life, tenure }: Save): Runtime | undefined {
    const runtime = this.servers[at]
    return runtime?.life === life && runtime.own.tenure === tenure ? runtime : undefined
  }

  private runtime(at: Name): Runtime {
    const runtime = this.servers[at]
    if (runtime === undefined) throw new Error(`${at} has no runtime`)
    return runtime
  }

  private find(at: Name): Found {
    const { generation, node } = this.registry
    return generation === 0 ? "nobody" : { generation, instance, here: node === at }
  }

  private attached(at: Name, dial: number, knew: boolean, as: Owner): void {
    let runtime = this.servers[at]
    const isNew = runtime === undefined
    runtime ??= {
      life: ++this.lives,
      own: this.makeOwn(),
      received: 0,
      handled: 0,
      handling: undefined,
      saving: 0,
      connection: undefined,
      isUnsure: false,
      unheeded: undefined
    }
    const isOvertaken = runtime.own.isOvertaken(as.generation)
    const outcome = isOvertaken ? "keep" : runtime.own.attached(as)
    if (knew && !isNew) runtime.own.attachmentEnded(false)
    if (isOvertaken) return this.refuse(dial)
    this.servers[at] = runtime
    if (runtime.connection !== undefined) this.close(runtime)
    if (outcome === "forfeit") {
      this.forfeit(runtime)
      runtime.received = this.registry.position
      runtime.handled = this.registry.position
    }
    if (isNew) {
      runtime.received = this.registry.position
      runtime.handled = this.registry.position
    }
    this.ops.push({ kind: "open", at, dial, generation: as.generation })
  }

  /** The outbox is open: the connection, if it is still there and not overtaken, is the session's. */
  private isOpen(at: Name, dial: number, generation: number): void {
    const runtime = this.servers[at]
    const { client } = this
    if (client?.dial !== dial || runtime?.own.mayConnect(generation) !== true) {
      this.refuse(dial)
      return this.abandon(at, generation)
    }
    client.isAttached = true
    runtime.connection = dial
    runtime.unheeded = undefined
    runtime.own.connected()
  }

  /** A session that was attached for nothing begins its retention again. */
  private abandon(at: Name, generation: number): void {
    const runtime = this.servers[at]
    if (runtime !== undefined && !runtime.own.isAbandoned(generation)) return
    this.ops.push({ kind: "detach", at, generation })
  }

  private close(runtime: Runtime): void {
    if (this.client?.dial === runtime.connection) this.client = undefined
    runtime.connection = undefined
    runtime.own.disconnected()
  }

  private connectionLost(at: Name, dial: number): void {
    const runtime = this.servers[at]
    if (runtime?.connection !== dial) return
    this.close(runtime)
    this.ops.push({ kind: "detach", at, generation: runtime.own.generation })
  }

  private begins(at: Name): void {
    const runtime = this.runtime(at)
    const { own } = runtime
    const offset = runtime.handled + 1
    if (runtime.isUnsure && own.generation < this.registry.generation) {
      throw new Error(`${at} stood still, and handles ${offset} of a session that another server has`)
    }
    if (own.generation === this.registry.generation && offset <= this.registry.position) {
      throw new Error(`${at} owns the session, and handles ${offset} again that is stored as handled`)
    }
    runtime.handling = { offset, tenure: own.tenure }
  }

  private hasHandled(at: Name): void {
    const runtime = this.runtime(at)
    const { handling, own } = runtime
    runtime.handling = undefined
    if (handling === undefined) return
    const times = (this.done[handling.offset] ?? 0) + 1
    this.done[handling.offset] = times
    if (times > 1 && !this.forced) {
      throw new Error(`${handling.offset} is handled twice, and nobody was overruled`)
    }
    if (handling.tenure !== own.tenure) return
    runtime.saving++
    this.save(at, handling.offset, false)
  }

  private save(at: Name, offset: number, isQuestion: boolean): void {
    const { life, own } = this.runtime(at)
    const save = { life, tenure: own.tenure, offset, isQuestion }
    this.ops.push({ kind: "save", at, generation: own.generation, save })
  }

  private isAsking(at: Name): boolean {
    return this.ops.some((op) => op.at === at && "save" in op && op.save?.isQuestion === true)
  }

  private forfeit(runtime: Runtime): void {
    runtime.own.forfeit()
    runtime.received = runtime.handled
    runtime.handling = undefined // interrupted
    runtime.saving = 0
    runtime.unheeded = runtime.connection
  }

  private told(at: Name, { found, generation, save }: Extract<Op, { readonly kind: "told" }>): void {
    const runtime = save === undefined ? this.servers[at] : this.whose(at, save)
    if (runtime === undefined) return
    const verdict = runtime.own.ownerIs(save === undefined ? "queue" : "registry", generation, instance, found)
    if (verdict?.forfeits === true) this.forfeit(runtime)
    else if (save !== undefined) this.ops.push({ kind: "refused", at, generation, save })
    if (verdict === undefined) return
    if (runtime.connection !== undefined) {
      this.close(runtime)
      this.ops.push({ kind: "detach", at, generation })
    }
    if (verdict.forgets !== "now") return
    this.forfeit(runtime)
    this.servers[at] = undefined
  }

  private wanted(at: Name): void {
    const runtime = this.servers[at]
    if (runtime === undefined || !runtime.own.wanted()) return
    const { generation } = runtime.own
    if (runtime.handling === undefined && runtime.saving === 0) runtime.received = runtime.handled
    if (runtime.connection !== undefined) {
      this.close(runtime)
      this.ops.push({ kind: "detach", at, generation })
    } else this.idle(at)
    this.ops.push({ kind: "next", at, generation })
  }

  private isAttaching(at: Name): boolean {
    return this.ops.some((op) =>
      op.at === at && (op.kind === "attach" || op.kind === "attached" || op.kind === "attachFailed")
    )
  }

  private settled(at: Name, found: Found): void {
    if (this.isAttaching(at)) return void this.ops.push({ kind: "settle", at })
    const runtime = this.servers[at]
    if (runtime === undefined) {
      // As for a runtime that has nothing: detached at once.
      if (typeof found === "object" && found.here === true) {
        this.ops.push({ kind: "detach", at, generation: found.generation }, {
          kind: "release",
          at,
          generation: found.generation
        })
      }
      return
    }
    const { own } = runtime
    const outcome = own.doubtSettled(found)
    if (outcome === "close") this.close(runtime)
    if (outcome !== "nothing") this.ops.push({ kind: "detach", at, generation: own.generation })
  }

  /** Nothing waits for a handler, or to be stored, any more. */
  private idle(at: Name): void {
    const runtime = this.servers[at]
    if (runtime === undefined) return
    const { handling, own, saving } = runtime
    if (own.isStopping && handling === undefined && saving === 0) runtime.received = runtime.handled
    const isIdle = handling === undefined && saving === 0 && runtime.received === runtime.handled
    if (runtime.own.takeRelease(isIdle)) this.ops.push({ kind: "release", at, generation: own.generation })
  }

  /** What must hold where nothing happens any more of itself. */
  settle(): void {
    const { client, registry } = this
    if (client !== undefined) {
      const runtime = this.servers[client.at]
      if (!client.isAttached) throw new Error("the client waits for ever")
      if (runtime === undefined || runtime.connection !== client.dial) {
        throw new Error("the client's connection is nobody's")
      }
      if (registry.node !== client.at || registry.generation !== runtime.own.generation) {
        throw new Error(`the client is connected to ${client.at}, which does not own its session`)
      }
      if (registry.position < this.budget.messages) {
        throw new Error("the client is connected, and its messages are not handled")
      }
    }
    const { node } = registry
    if (node !== undefined && !registry.isDetached && this.servers[node]?.connection === undefined) {
      throw new Error(`the session is attached to ${node}, which has no connection of it`)
    }
    const left = node === undefined ? undefined : this.servers[node]
    if (client === undefined && left !== undefined && left.received === left.handled) {
      throw new Error(`${node} has nothing of the session, and has not released it`)
    }
  }
}

export interface Explored {
  readonly worlds: number
  readonly ends: number
  readonly broken: string | undefined
}

/** All worlds that can be reached. */
export const explore = (first: OwnershipWorld, atMost: number): Explored => {
  const seen = new Set<string>([first.key])
  const open = [first]
  let ends = 0
  for (let world = open.pop(); world !== undefined; world = open.pop()) {
    let latest: OwnershipWorld = world
    try {
      const steps = world.steps()
      if (!world.isOwnStep(steps)) {
        ends++
        world.settle()
      }
      for (const [name, run] of steps) {
        latest = world.copy()
        latest.path.push(name)
        run(latest)
        const { key } = latest
        if (seen.has(key)) continue
        if (seen.size >= atMost) throw new Error(`more than ${atMost} worlds`)
        seen.add(key)
        open.push(latest)
      }
    } catch (error) {
      return { worlds: seen.size, ends, broken: `${(error as Error).message}: ${latest.path.join(", ")}` }
    }
  }
  return { worlds: seen.size, ends, broken: undefined }
}
