/**
 * The deterministic simulation: real servers and clients as processes on a simulated network, under virtual time, with
 * everything that chance decides decided by one seed. First faults of the scenario's mix, then none, until all has
 * drained; then everything is closed, and the history is checked against the promise.
 */
import {
  Clock,
  Context,
  Duration,
  Effect,
  Exit,
  Latch,
  Layer,
  Random,
  Redacted,
  Schedule,
  Scheduler,
  Schema,
  Scope,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import { createHash } from "node:crypto"
import * as CircuitBreaker from "../../src/CircuitBreaker.ts"
import * as Deduplicator from "../../src/Deduplicator.ts"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import { layerOf } from "../../src/internal/store/layer.ts"
import type { Conditional } from "../../src/internal/store/outboxes.ts"
import type { PositionOutcome } from "../../src/internal/store/sessions.ts"
import type { Incoming, Receipt, SendOptions } from "../../src/Message.ts"
import * as MessageQueue from "../../src/MessageQueue.ts"
import type { Totals } from "../../src/Metrics.ts"
import * as ResilientClient from "../../src/ResilientClient.ts"
import * as ResilientServer from "../../src/ResilientServer.ts"
import * as SessionRegistry from "../../src/SessionRegistry.ts"
import { TransportClient, TransportServer } from "../../src/Transport.ts"
import type { WebSocketError } from "../../src/WebSocketError.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "./memoryDriver.ts"
import { snapshotOf } from "./memoryTransactions.ts"
import { faultyDriver } from "./simulationDriver.ts"
import { type Allowed, History, leaseMillis, type Sent } from "./simulationHistory.ts"
import { type NetworkFaults, type NetworkShape, noFaults, SimulatedNetwork } from "./simulationNetwork.ts"
import { type Machine, Node, Rng, SeededScheduler, Wall } from "./simulationNode.ts"
import { faultyQueue, faultyRegistry, reliable, type Store, type StoreFaults, Tenancy } from "./simulationStores.ts"

/** A mix of faults, and what the programs do meanwhile. Functions are asked once a seed. */
export interface Scenario {
  readonly name: string
  readonly network: NetworkFaults
  /** Mean time between breaks of all connections, in ms. */
  readonly outageMillis: number
  readonly stores: StoreFaults
  readonly clientStores: StoreFaults
  /** Servers at a time, on the same stores. */
  readonly servers: 1 | 2
  /**
   * Whether each server has the layers of a durable store, over one database in memory; then `stores` are the faults
   * of that database. Else they all have the memory layers.
   */
  readonly database: boolean
  readonly crash: "none" | "storesKept" | "storesLost"
  /** Servers are shut down in an orderly way and followed by others. */
  readonly deploys: boolean
  /** Whether the database loses its newest part, as by a failover to a replica that lags. */
  readonly losses: boolean
  /** Whether the database forgets everything, or one session, as by hand. */
  readonly forgets: boolean
  /** A bug of the database's driver, to see that it is found. */
  readonly plant?: ((driver: StoreDriver) => StoreDriver) | undefined
  /** A bug of the servers, to see that it is found: after a long stand they ask nobody whether their sessions are theirs. */
  readonly asksNobody?: boolean
  /** Processes that stand still for up to 12 s. */
  readonly pauses: boolean
  /** A second client instance takes the session over, and perhaps the first takes it back. */
  readonly takeover: boolean
  readonly shape: (rng: Rng) => NetworkShape
  readonly queue: (rng: Rng) => MessageQueue.Options
  readonly windowMessages: (rng: Rng) => number
  readonly payloadBytes: (rng: Rng) => number
  readonly handlers: {
    /** Chance of an attempt to fail, while there are faults. */
    readonly fail: number
    /** Chance of a message whose handler always fails. */
    readonly poison: number
    readonly slowMillis: number
    /** Chance of a handler to take so long. Default 0.1. */
    readonly slow?: number
    /** Chance of a message that a server answers, and handles only with its answer. */
    readonly answers: number
  }
  /** Each sender's, in each direction. */
  readonly messages: number
  /** How long there are faults, in ms. */
  readonly faultMillis: number
}

export interface Outcome {
  readonly violations: ReadonlyArray<string>
  readonly trace: ReadonlyArray<string>
  readonly hash: string
}

const Message = Schema.Struct({ key: Schema.String, to: Schema.String, poison: Schema.Boolean, pad: Schema.String })
type Message = typeof Message.Type

type Server = ResilientServer.ResilientServer<Message, Message>
type Client = ResilientClient.ResilientClient<Message, Message>

interface ServerProcess {
  readonly kind: "server"
  readonly node: Node
  readonly host: string
  server: Server | undefined
  sending: boolean
}

interface ClientProcess {
  readonly kind: "client"
  readonly node: Node
  readonly auth: string
  client: Client | undefined
  session: string | undefined
  /** Those that it had: what was received of one waits for the handler also when the client gets another. */
  readonly sessions: Set<string>
  state: ResilientClient.ConnectionState["_tag"]
  sending: boolean
}

type Process = ServerProcess | ClientProcess

type ServerServices =
  | MessageQueue.MessageQueue
  | SessionRegistry.SessionRegistry
  | Deduplicator.Deduplicator
  | CircuitBreaker.CircuitBreaker

interface Stores {
  readonly queue: MessageQueue.Interface
  readonly registry: SessionRegistry.Interface
  readonly deduplicator: Deduplicator.Interface
}

/** After the last fault everything must have been delivered within this virtual time, in s. */
const drainSeconds = 90

/** A shutdown must be over in this time, in s; its own limit is 10. */
const shutdownSeconds = 15

const handlerRetry = Schedule.upTo(Schedule.spaced("150 millis"), { times: 3 })

const circuitTimes = { openBase: "500 millis", openCap: "3 seconds", probeTimeout: "5 seconds" } as const
const breakerLayer = CircuitBreaker.layer({ session: circuitTimes, endpoint: circuitTimes })

/** Bugs that are made on purpose, to see that they are found. */
export interface Planted {
  /** Circuits measure their times by a clock that people set. */
  readonly circuitsByWall?: boolean
}

const wallForSteady = Layer.unwrap(
  Effect.map(Clock.Clock, (clock) =>
    Layer.succeed(Clock.Clock, {
      ...clock,
      monotonicTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe()
    }))
)

/** Provides services that live as long as the scope, also after the effect has ended. */
const living = <B, F>(layer: Layer.Layer<B, F>) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Layer.build(Layer.fresh(layer)), (context) => Effect.provideContext(effect, context))

/** Runs one seed of a scenario. */
export const simulate = (scenario: Scenario, seed: number, planted: Planted = {}): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    const scheduler = new SeededScheduler(seed, () => resolve(world.outcome("something spins, and time stands still")))
    const world = new World(scenario, seed, scheduler, planted)
    Effect.runPromise(
      world.run.pipe(
        Effect.provide(Layer.fresh(TestClock.layer({ warningDelay: "1 hour" }))),
        Effect.provideService(Random.Random, new Rng(seed ^ 0x5eed)),
        Effect.provideService(Scheduler.Scheduler, scheduler)
      )
    ).then(resolve, reject)
  })

/** What the documentation says of such faults. */
const allowedIn = ({ crash, database, forgets, losses, servers, takeover }: Scenario): Allowed => ({
  uncommittedAgain: crash !== "none" || servers > 1 || takeover || losses || forgets,
  staleOwner: servers > 1,
  confirms: database,
  jumps: crash === "storesLost" || servers > 1 || takeover || losses || forgets,
  lostWithProcess: crash === "storesLost",
  lettersLostWithProcess: database && crash !== "none"
})

class World {
  private readonly scenario: Scenario
  private readonly rng: Rng
  private readonly scheduler: SeededScheduler
  private readonly trace: Array<string> = []
  private readonly history: History
  private readonly processes: Array<Process> = []
  /** By machine: a server is followed by another one on the same. */
  private readonly walls = new Map<string, Wall>()
  private readonly queueOptions: MessageQueue.Options
  private readonly breakerLayer: typeof breakerLayer
  private readonly windowMessages: number
  private readonly named: boolean
  private readonly dedupRate: number
  private machine: Machine | undefined
  private networkOrNone: SimulatedNetwork | undefined
  private stores: Stores | undefined
  private readonly database = makeMemoryDatabase()
  private readonly observer = makeMemoryDriver(this.database)
  private tenancy = new Tenancy()
  private failovers = 1
  private healed = false
  private isDeploying = false
  private started = 0
  private now: () => number = () => 0
  /** Of the stores, which outlive the processes. */
  private readonly storeScope = Scope.makeUnsafe()

  constructor(scenario: Scenario, seed: number, scheduler: SeededScheduler, planted: Planted) {
    this.scenario = scenario
    this.rng = new Rng(seed)
    this.scheduler = scheduler
    this.breakerLayer = planted.circuitsByWall === true ? Layer.provide(breakerLayer, wallForSteady) : breakerLayer
    this.history = new History(allowedIn(scenario), (text) => this.note(text), () => this.now())
    this.queueOptions = scenario.queue(this.rng)
    this.windowMessages = scenario.windowMessages(this.rng)
    this.named = scenario.takeover || this.rng.chance(0.5)
    this.dedupRate = this.rng.chance(0.5) ? 0.2 : 0
  }

  private get network(): SimulatedNetwork {
    if (this.networkOrNone === undefined) throw new Error("not running")
    return this.networkOrNone
  }

  private note(text: string): void {
    this.trace.push(`${this.now()} ${text}`)
  }

  readonly run = Effect.suspend(() => this.play())

  private readonly play = Effect.fnUntraced(function*(this: World) {
    const { history, rng, scenario } = this
    yield* this.boot()
    for (let i = 0; i < scenario.servers; i++) this.startServer(`host${i}`)
    const clients = scenario.takeover ? 1 : rng.int(1, 2)
    for (let i = 0; i < clients; i++) this.startClient(`session${i}`)
    const chaos = yield* Effect.forkChild(this.chaos())
    const clocks = yield* Effect.forkChild(this.setClocks())
    yield* this.step(scenario.faultMillis / 1_000)
    chaos.interruptUnsafe()
    clocks.interruptUnsafe()
    this.heal()
    yield* this.drain()
    yield* this.inspect()
    yield* this.close()
    history.check()
    return this.outcome()
  })

  outcome(violation?: string): Outcome {
    if (violation !== undefined) this.history.violated(violation)
    const hash = createHash("sha1").update(this.trace.join("\n")).digest("hex").slice(0, 12)
    return { violations: this.history.violations, trace: this.trace, hash }
  }

  private readonly boot = Effect.fnUntraced(function*(this: World) {
    const clock = yield* Effect.clockWith(Effect.succeed)
    const scheduler = yield* Scheduler.Scheduler
    const { history, rng, scenario } = this
    this.now = () => clock.currentTimeMillisUnsafe()
    this.machine = {
      clock,
      scheduler,
      onError: (node, text, fatal) => {
        this.note(`${node} logs an error`)
        const isExpected = scenario.stores !== reliable || scenario.clientStores !== reliable
        if (fatal || !isExpected) history.violated(`${node} logged: ${text}`)
      }
    }
    this.networkOrNone = new SimulatedNetwork({
      rng: rng.fork(),
      now: this.now,
      shape: scenario.shape(rng),
      faults: scenario.network,
      note: (text) => this.note(text)
    })
    this.stores = yield* this.makeStores()
  })

  private readonly makeStores = Effect.fnUntraced(function*(this: World) {
    const layer = Layer.mergeAll(
      MessageQueue.layerMemory(this.queueOptions),
      SessionRegistry.layerMemory(),
      Deduplicator.layerMemory()
    )
    const context = yield* Effect.orDie(Scope.provide(Layer.build(Layer.fresh(layer)), this.storeScope))
    return {
      queue: Context.get(context, MessageQueue.MessageQueue),
      registry: Context.get(context, SessionRegistry.SessionRegistry),
      deduplicator: Context.get(context, Deduplicator.Deduplicator)
    }
  })

  // --- processes

  private store(faults: StoreFaults, durable: boolean, node: Node): Store {
    return { rng: this.rng.fork(), faults: () => this.healed ? reliable : faults, durable, node }
  }

  private makeNode(name: string, host = name): Node {
    if (this.machine === undefined) throw new Error("not running")
    return new Node(this.machine, name, this.rng.fork(), this.wallOf(host))
  }

  private wallOf(host: string): Wall {
    const wall = this.walls.get(host) ?? new Wall(this.rng.fork())
    this.walls.set(host, wall)
    return wall
  }

  private readonly onAppended = (session: string, size: { messages: number; bytes: number }): void => {
    const { maxBytes = 16 * 1024 * 1024, maxMessages = 1_000 } = this.queueOptions
    if (size.messages > maxMessages || size.bytes > maxBytes) {
      this.history.violated(`the queue of ${session} holds ${size.messages} messages and ${size.bytes} bytes`)
    }
  }

  /** The layers of a durable store for one server, on the database that all have. */
  private databaseServices(node: Node) {
    const { history, scenario } = this
    const watch = (operation: string, args: ReadonlyArray<unknown>, result: unknown): void => {
      if (operation === "giveUp") {
        const [{ fates }] = args as Parameters<StoreDriver["giveUp"]>
        const { _tag } = result as Conditional
        if (_tag === "Done") history.gaveUp(node.name, fates.length)
        if (fates.length > 0) this.note(`${node.name} gives up ${fates.map(({ first }) => first).join(" ")}: ${_tag}`)
      }
      if (operation === "ack") {
        const [acks] = args as Parameters<StoreDriver["ack"]>
        for (const { fates } of acks) history.gaveUp(node.name, fates.length)
      }
      if (operation === "removeOutbox" && result === true) history.removed(String(args[0]), node.name)
      if (operation !== "savePositions") return
      const [requests] = args as Parameters<StoreDriver["savePositions"]>
      const outcomes = result as ReadonlyArray<PositionOutcome>
      requests.forEach(({ epoch, handled }, index) => {
        if (outcomes[index] === "Saved") history.saved(epoch, handled)
      })
    }
    const unanswered = (operation: string, args: ReadonlyArray<unknown>, result: unknown): void => {
      if (operation === "giveUp" && (result as Conditional)._tag === "Done") {
        const [{ fates, session }] = args as Parameters<StoreDriver["giveUp"]>
        history.inDoubt(session, node.name, fates.length)
      }
      if (operation !== "ack") return
      const [acks] = args as Parameters<StoreDriver["ack"]>
      for (const { fates, session } of acks) history.inDoubt(session, node.name, fates.length)
    }
    const databaseWall = this.wallOf("database")
    const clock = Effect.sync(() => Math.floor(databaseWall.show(this.now())))
    const sound = { ...makeMemoryDriver(this.database), clock }
    const driver = faultyDriver(
      this.store(scenario.stores, true, node),
      scenario.plant?.(sound) ?? sound,
      watch,
      unanswered,
      () => this.database.history.get("now") ?? ""
    )
    const services = Effect.retry(
      Layer.build(Layer.fresh(layerOf(Effect.succeed(driver), 2, {
        queue: this.queueOptions,
        breaker: { session: circuitTimes, endpoint: circuitTimes },
        callTimeout: "2 seconds",
        appendTimeout: "5 seconds",
        handoffTimeout: "1 second",
        nodeTimeout: leaseMillis
      }))),
      Schedule.spaced("100 millis") // the database may fail at the start
    )
    if (scenario.asksNobody !== true) return services
    return Effect.map(services, (context) =>
      Context.add(context, SessionRegistry.SessionRegistry, {
        ...Context.get(context, SessionRegistry.SessionRegistry),
        confirm: undefined
      }))
  }

  /** The memory layers, which all servers share, for one of them. */
  private memoryServices(node: Node, stores: Stores) {
    const { history, scenario } = this
    const durable = scenario.crash === "storesKept" || scenario.servers > 1
    return Effect.map(Layer.build(Layer.fresh(this.breakerLayer)), (context) =>
      context.pipe(
        Context.add(
          MessageQueue.MessageQueue,
          faultyQueue(this.store(scenario.stores, durable, node), stores.queue, { onAppended: this.onAppended })
        ),
        Context.add(
          SessionRegistry.SessionRegistry,
          faultyRegistry(
            this.store(scenario.stores, durable, node),
            stores.registry,
            { onSaved: (epoch, handled) => history.saved(epoch, handled) },
            this.tenancy,
            (task) => node.later(task)
          )
        ),
        Context.add(Deduplicator.Deduplicator, stores.deduplicator)
      ))
  }

  private startServer(host: string): void {
    const { history, scenario, stores } = this
    if (stores === undefined) return
    const node = this.makeNode(`server${++this.started}`, host)
    const process: ServerProcess = { kind: "server", node, host, server: undefined, sending: true }
    this.processes.push(process)
    const handler = this.handlerOf(process)
    const program = Effect.gen({ self: this }, function*() {
      const server = yield* ResilientServer.make({
        incoming: Message,
        outgoing: Message,
        ...(this.named
          ? { authenticate: ({ token }) => Effect.succeed({ session: token, principal: token }) }
          : {}),
        onMessage: (message, { incoming }) => handler(message, incoming),
        onGap: (gap) => Effect.sync(() => history.gap(node.name, gap.session, gap.count, gap.reason)),
        handlerRetry,
        window: { messages: this.windowMessages },
        heartbeat: "2 seconds",
        heartbeatTimeout: "1600 millis",
        ackTimeout: "5 seconds",
        handshakeTimeout: "3 seconds",
        expirySweep: "2 seconds",
        reconnectJitter: "500 millis",
        shutdownTimeout: "10 seconds"
      })
      process.server = server
      yield* Effect.forkScoped(this.collect(process, server.deadLetters))
      yield* Effect.forkScoped(this.serverSends(process, server))
    })
    const services: Effect.Effect<Context.Context<ServerServices>, unknown, Scope.Scope> = scenario.database
      ? this.databaseServices(node)
      : this.memoryServices(node, stores)
    const whole = Effect.flatMap(services, (context) => Effect.provideContext(program, context)).pipe(
      Effect.provideService(TransportServer, this.network.server(node, host)),
      Scope.provide(node.scope)
    )
    this.launch(node, whole)
  }

  private startClient(auth: string): void {
    const { history, rng, scenario } = this
    const node = this.makeNode(`client${++this.started}`)
    const process: ClientProcess = {
      kind: "client",
      node,
      auth,
      client: undefined,
      session: this.named ? auth : undefined,
      sessions: new Set(this.named ? [auth] : []),
      state: "Connecting",
      sending: true
    }
    this.processes.push(process)
    const handler = this.handlerOf(process)
    const choice = rng.fork()
    const program = Effect.gen({ self: this }, function*() {
      const queueContext = yield* Layer.build(Layer.fresh(MessageQueue.layerMemory(this.queueOptions)))
      const queue = faultyQueue(
        this.store(scenario.clientStores, false, node),
        Context.get(queueContext, MessageQueue.MessageQueue),
        { onAppended: this.onAppended }
      )
      const client = yield* ResilientClient.make({
        url: Effect.sync(() => `ws://host${choice.int(0, scenario.servers - 1)}/`),
        token: Redacted.make(auth),
        incoming: Message,
        outgoing: Message,
        onMessage: (message, { incoming }) => handler(message, incoming),
        onGap: (gap) => Effect.sync(() => history.gap(node.name, "", gap.count, gap.reason)),
        handlerRetry,
        reconnect: { base: "200 millis", cap: "3 seconds" },
        window: { messages: this.windowMessages },
        heartbeat: "2 seconds",
        heartbeatTimeout: "1600 millis",
        ackTimeout: "5 seconds",
        dialTimeout: "3 seconds",
        handshakeTimeout: "3 seconds",
        expirySweep: "2 seconds",
        shutdownTimeout: "10 seconds"
      }).pipe(
        Effect.provideService(MessageQueue.MessageQueue, queue),
        Effect.retry(Schedule.spaced("100 millis")) // the store may fail at the start
      )
      process.client = client
      yield* Effect.forkScoped(this.collect(process, client.deadLetters))
      yield* Effect.forkScoped(Stream.runForEach(client.states, (state) =>
        Effect.sync(() => {
          process.state = state._tag
          this.note(`${node.name} is ${state._tag}`)
          if (state._tag === "Connected") {
            process.session = state.session
            process.sessions.add(state.session)
          }
        })))
      yield* Effect.forkScoped(
        this.sends(process, scenario.messages, (message, options) => client.send(message, options), () => "server")
      )
    }).pipe(
      living(Layer.mergeAll(this.breakerLayer, Deduplicator.layerMemory())),
      Effect.provideService(TransportClient, this.network.client(node)),
      Scope.provide(node.scope)
    )
    this.launch(node, program)
  }

  private launch(node: Node, program: Effect.Effect<unknown, unknown>): void {
    this.note(`${node.name} starts`)
    node.run(Effect.onExit(program, (exit) =>
      Effect.sync(() => {
        if (Exit.isFailure(exit)) this.history.violated(`${node.name} did not start: ${String(exit.cause)}`)
      })))
  }

  private readonly collect = (process: Process, letters: Server["deadLetters"]) =>
    Stream.runForEach(letters, ({ direction, maybeHandled, message, reason }) =>
      Effect.sync(() => {
        const key = message?.key ?? "unknown"
        this.history.letter({ process: process.node.name, direction, key, reason, maybeHandled })
      }))

  // --- what the programs do

  private serverSends(process: ServerProcess, server: Server) {
    return this.sends(
      process,
      this.scenario.messages,
      (message, options) => server.send(message.to, message, options),
      (rng) => {
        const clients = this.processes.filter((other) => other.kind === "client" && other.session !== undefined)
        const client = clients[rng.int(0, clients.length - 1)]
        return client?.kind === "client" ? client.session : undefined
      }
    )
  }

  private readonly sends = Effect.fnUntraced(function*(
    this: World,
    process: Process,
    count: number,
    send: (message: Message, options: SendOptions) => Effect.Effect<Receipt, WebSocketError>,
    target: (rng: Rng) => string | undefined
  ) {
    const { history, scenario } = this
    const rng = this.rng.fork()
    const { name } = process.node
    for (let i = 1; i <= count; i++) {
      // Bursts and pauses.
      if (rng.chance(0.6)) yield* Effect.sleep(Duration.millis(rng.int(1, 1.6 * scenario.faultMillis / count)))
      const to = target(rng)
      if (to === undefined) continue
      const key = `${name}#${i}`
      const isVolatile = rng.chance(0.05)
      const sent: Sent = {
        key,
        process: name,
        fromClient: process.kind === "client",
        volatile: isVolatile,
        status: "pending",
        messageId: undefined,
        answeredAt: undefined,
        settledAt: undefined,
        outcome: "pending"
      }
      history.sent.set(key, sent)
      this.note(`${name} sends ${key}`)
      const message = {
        key,
        to,
        poison: rng.chance(scenario.handlers.poison),
        pad: "x".repeat(scenario.payloadBytes(rng))
      }
      const options: SendOptions = isVolatile ? { volatile: true } : rng.chance(this.dedupRate) ? { id: key } : {}
      yield* this.sendOne(process, sent, send(message, options))
      if (options.id !== undefined && rng.chance(0.5) && sent.status === "accepted") {
        const again = yield* Effect.exit(send(message, options))
        if (Exit.isSuccess(again) && again.value._tag !== "Duplicate") {
          history.violated(`${key} was sent under its key again, and taken: ${again.value._tag}`)
        }
      }
    }
    process.sending = false
  })

  private sendOne(process: Process, sent: Sent, send: Effect.Effect<Receipt, WebSocketError>) {
    return Effect.matchEffect(send, {
      onFailure: (error) =>
        Effect.sync(() => {
          sent.status = error._tag === "resilient-websocket/MessageQueueError" && error.reason === "store"
            ? "unknown"
            : "refused"
        }),
      onSuccess: (receipt) => {
        sent.answeredAt = this.now()
        sent.status = receipt._tag === "Sent" || receipt._tag === "Queued" ? "accepted" : "refused"
        if (sent.volatile || sent.status !== "accepted") return Effect.void
        sent.messageId = receipt.messageId
        return receipt.handled.pipe(
          Effect.match({
            onSuccess: () => void (sent.outcome = "handled"),
            onFailure: (dead) => void (sent.outcome = dead.reason)
          }),
          Effect.tap(() =>
            Effect.sync(() => {
              sent.settledAt = this.now()
              this.note(`receipt ${sent.key} ${sent.outcome}`)
            })
          ),
          Effect.forkIn(process.node.scope)
        )
      }
    })
  }

  private handlerOf(process: Process) {
    const { history, scenario } = this
    const { node } = process
    const rng = this.rng.fork()
    const { answers, fail, slow = 0.1, slowMillis } = scenario.handlers
    return (message: Message, incoming: Incoming<Message>): Effect.Effect<void, string> => {
      const { key, poison, to } = message
      const isForeign = process.kind === "client" && process.sessions.size > 0 && !process.sessions.has(to)
      history.started(node.name, process.kind === "client" ? "" : incoming.session, key, incoming.messageId)
      if (isForeign && !scenario.losses && !scenario.forgets) {
        history.violated(`${node.name} was given ${key} for ${to}, which it never was`)
      }
      const fails = poison || (!this.healed && rng.chance(fail))
      const finish = Effect.suspend(() => {
        if (!fails) return Effect.sync(() => history.done(node.name, key, incoming.messageId))
        history.failed(node.name, key)
        return rng.chance(0.3) ? Effect.die("a defect of the handler") : Effect.fail("a failure of the handler")
      })
      const answer = process.kind === "server" && rng.chance(answers)
        ? this.answer(process, incoming.session, message)
        : undefined
      const way = rng.int(0, 3)
      if (way === 0 && !fails && answer === undefined) {
        history.done(node.name, key, incoming.messageId)
        return Effect.void
      }
      const ending = answer === undefined ? finish : Effect.andThen(answer, finish)
      if (way === 1) return ending
      const millis = rng.chance(slow) ? rng.int(1, slowMillis) : rng.int(0, Math.min(20, slowMillis))
      return Effect.andThen(Effect.sleep(Duration.millis(millis)), ending).pipe(
        Effect.onInterrupt(() => Effect.sync(() => history.failed(node.name, key)))
      )
    }
  }

  /** A handler that can't answer fails: its message must then come again, to whoever is there next. */
  private answer(process: ServerProcess, session: string, { key }: Message): Effect.Effect<void, string> {
    const { history } = this
    const { node, server } = process
    const name = `${key}'s answer by ${node.name}`
    const earlier = history.sent.get(name)
    if (server === undefined || earlier?.status === "accepted") return Effect.void
    const sent: Sent = earlier ?? {
      key: name,
      process: node.name,
      fromClient: false,
      volatile: false,
      status: "pending",
      messageId: undefined,
      answeredAt: undefined,
      settledAt: undefined,
      outcome: "pending"
    }
    history.sent.set(name, sent)
    const send = Effect.tapError(
      server.send(session, { key: name, to: session, poison: false, pad: "" }),
      ({ _tag }) =>
        Effect.sync(() => {
          this.note(`${node.name} can't answer ${key}: ${_tag}`)
          history.failed(node.name, key)
          if (_tag === "resilient-websocket/ShutdownError") history.shutOut(node.name, key)
        })
    )
    return Effect.andThen(
      this.sendOne(process, sent, send),
      Effect.suspend(() => sent.status === "accepted" ? Effect.void : Effect.fail("no answer"))
    )
  }

  // --- faults

  private readonly chaos = Effect.fnUntraced(function*(this: World) {
    const { network, scenario } = this
    const rng = this.rng.fork()
    const faults: Array<() => Effect.Effect<void>> = []
    if (scenario.outageMillis > 0) {
      faults.push(() => Effect.sync(() => network.cutSome(0.7, scenario.network.halfOpen)))
    }
    if (scenario.pauses) faults.push(() => this.pause(rng))
    if (scenario.crash !== "none") faults.push(() => this.crash(rng))
    if (scenario.losses) faults.push(() => this.loseNewest(rng))
    if (scenario.forgets) faults.push(() => this.forget(rng))
    if (scenario.deploys) faults.push(() => Effect.uninterruptible(this.deploy(rng)))
    if (scenario.takeover) faults.push(() => this.takeOver(rng))
    if (faults.length === 0) return
    while (true) {
      yield* Effect.sleep(Duration.millis(rng.int(1, 2 * Math.max(500, scenario.outageMillis))))
      const fault = faults[rng.int(0, faults.length - 1)]
      if (fault !== undefined) yield* fault()
    }
  })

  /** Sets the clock of one machine after the other: of servers, clients, and the database. Time goes on as before. */
  private readonly setClocks = Effect.fnUntraced(function*(this: World) {
    const rng = this.rng.fork()
    while (true) {
      yield* Effect.sleep(Duration.millis(rng.int(200, 3_000)))
      const walls = [...this.walls]
      const [host, wall] = walls[rng.int(0, walls.length - 1)] ?? []
      if (host === undefined || wall === undefined) continue
      const byMillis = wall.set(rng)
      this.note(`the clock of ${host} is set by ${byMillis} ms`)
      // When no server lives, that is time which has passed: sessions end.
      if (host === "database" && byMillis > 60_000 && this.mayBeLeftAlone) this.history.mayJump()
    }
  })

  private get mayBeLeftAlone(): boolean {
    return this.scenario.crash !== "none" || this.scenario.deploys
  }

  private alive(): Array<Process> {
    return this.processes.filter(({ node }) => node.state !== "dead")
  }

  private readonly pause = (rng: Rng): Effect.Effect<void> => {
    const millis = rng.int(200, 12_000)
    const alive = this.alive()
    const node = alive[rng.int(0, alive.length - 1)]?.node
    if (node === undefined || node.state !== "running") return Effect.void
    this.note(`${node.name} stands still`)
    this.history.disturbed(node.name)
    node.freeze()
    return Effect.asVoid(Effect.forkDetach(
      Effect.delay(
        Effect.sync(() => {
          this.note(`${node.name} goes on`)
          this.history.wentOn(node.name, millis)
          node.thaw()
        }),
        Duration.millis(millis)
      )
    ))
  }

  /** A replica gets nothing any more for a while, and then is the database. */
  private readonly loseNewest = Effect.fnUntraced(function*(this: World, rng: Rng) {
    const from = this.now()
    const restore = snapshotOf(this.database)
    this.note("the replica lags")
    yield* Effect.sleep(Duration.millis(rng.int(100, 1_500)))
    restore()
    this.database.history.set("now", String(++this.failovers))
    this.note("the replica takes over")
    this.history.lostNewest(from, this.now())
    if (this.scenario.servers > 1) { for (const { node } of this.alive()) this.history.disturbed(node.name) }
  })

  /** Somebody empties the database, or removes a session from it. */
  private readonly forget = (rng: Rng): Effect.Effect<void> =>
    Effect.sync(() => {
      const { batches, ended, keys, nodes, nudges, outboxes, sessions } = this.database
      const all = [...sessions.keys()]
      const session = rng.chance(0.5) ? undefined : all[rng.int(0, all.length - 1)]
      if (session === undefined) {
        this.note("the database forgets everything")
        for (const table of [batches, ended, keys, nodes, nudges, outboxes, sessions]) table.clear()
      } else {
        this.note(`the database forgets ${session}`)
        outboxes.delete(session)
        sessions.delete(session)
      }
      this.history.lostNewest(0, this.now())
      for (const { node } of this.alive()) this.history.disturbed(node.name)
    })

  private readonly crash = Effect.fnUntraced(function*(this: World, rng: Rng) {
    const servers = this.alive().filter((process) => process.kind === "server")
    const victim = servers[rng.int(0, servers.length - 1)]
    if (victim === undefined) return
    this.note(`${victim.node.name} is killed`)
    victim.node.kill()
    this.network.killed(victim.node)
    this.history.process(victim.node.name).killed = true
    this.history.disturbed(victim.node.name)
    if (this.scenario.crash === "storesLost") {
      this.stores = yield* this.makeStores()
      this.tenancy = new Tenancy()
    }
    yield* Effect.sleep(Duration.millis(rng.int(1, 4_000)))
    this.startServer(victim.host)
  })

  /** A server ends in an orderly way, and a successor begins when it is gone. */
  private readonly deploy = Effect.fnUntraced(function*(this: World, rng: Rng) {
    const servers = this.alive().filter((process) => process.kind === "server")
    const { host, node, server } = servers[rng.int(0, servers.length - 1)] ?? {}
    if (node === undefined || host === undefined || server === undefined) return
    this.note(`${node.name} is told to end`)
    this.isDeploying = true
    const gone = yield* Latch.make(false)
    const end = Effect.andThen(server.shutdown, Effect.delay(Scope.close(node.scope, Exit.void), 1))
    node.run(Effect.ensuring(end, gone.open))
    yield* gone.await
    this.note(`${node.name} has ended`)
    node.kill()
    this.network.killed(node)
    yield* Effect.sleep(Duration.millis(rng.int(1, 1_000)))
    const isFollowed = this.alive().some((process) => process.kind === "server" && process.host === host)
    if (!isFollowed) this.startServer(host)
    this.isDeploying = false
  })

  /** The first time a second instance comes; later the two may take the session from each other. */
  private readonly takeOver = (rng: Rng): Effect.Effect<void> =>
    Effect.sync(() => {
      const clients = this.processes.filter((process) => process.kind === "client")
      if (clients.length === 1) return this.startClient("session0")
      const stopped = clients.find(({ state }) => state === "Stopped")
      if (stopped?.client !== undefined && rng.chance(0.5)) {
        this.note(`${stopped.node.name} takes the session back`)
        stopped.node.run(stopped.client.reconnect)
      }
    })

  private heal(): void {
    this.note(`no more faults; sessions moved ${this.tenancy.moved} times, ${this.tenancy.forced} by force`)
    this.healed = true
    this.network.faults = noFaults
    for (const { node } of this.processes) {
      if (node.state === "frozen") this.history.disturbed(node.name)
      node.thaw()
    }
    const hosts = new Set(this.alive().map((process) => process.kind === "server" ? process.host : ""))
    for (let i = 0; i < this.scenario.servers; i++) if (!hosts.has(`host${i}`)) this.startServer(`host${i}`)
  }

  // --- the end

  /** Time in small steps: one large one could jump over what has not come to its sleep yet. */
  private readonly step = Effect.fnUntraced(function*(this: World, seconds: number) {
    for (let i = 0; i < seconds; i++) {
      yield* this.scheduler.settled
      yield* TestClock.adjust("1 second")
      this.scheduler.rest()
      yield* this.scheduler.settled
    }
  })

  private readonly drain = Effect.fnUntraced(function*(this: World) {
    for (let second = 0; second < drainSeconds; second++) {
      if ((yield* this.waitsFor()) === undefined) return
      if (second === drainSeconds / 2 && this.scenario.forgets) yield* this.endOrphans()
      yield* this.step(1)
    }
    this.history.violated(`not drained ${drainSeconds} s after the last fault: ${yield* this.waitsFor()}`)
  })

  /**
   * A client whose session the database forgot may have begun another one before the session's server put it back. What
   * waits there does so until the retention is over, for which there is no time here.
   */
  private readonly endOrphans = Effect.fnUntraced(function*(this: World) {
    const own = this.alive().flatMap((process) => process.kind === "client" ? [process.session] : [])
    const server = this.alive().find((process) => process.kind === "server" && process.server !== undefined)
    if (server?.kind !== "server" || server.server === undefined) return
    for (const [session, { state }] of this.database.outboxes) {
      if (own.includes(session) || state.messages === 0) continue
      this.note(`the session ${session}, to which nobody comes back, is ended`)
      yield* Effect.catch(server.server.endSession(session), (error) => Effect.sync(() => this.note(error.message)))
    }
  })

  /** What is not done yet. */
  private readonly waitsFor = Effect.fnUntraced(function*(this: World) {
    const waiting = this.scenario.database
      ? (yield* Effect.orDie(this.observer.totals)).messages
      : this.stores === undefined
      ? 0
      : (yield* this.stores.queue.stats).messages
    if (waiting > 0 && !this.scenario.takeover) return `${waiting} messages wait at the servers`
    // Its successor has messages of its own.
    if (this.isDeploying) return "a server is about to be followed"
    for (const process of this.alive()) {
      const { name } = process.node
      const isReplaced = process.kind === "client" && this.scenario.takeover && process.state === "Stopped"
      if (isReplaced) continue
      if (process.kind === "client" && process.state !== "Connected") return `${name} is ${process.state}`
      if (process.sending) return `${name} sends`
      for (const sent of this.history.sent.values()) {
        if (sent.process !== name || sent.volatile) continue
        if (sent.status !== "accepted" || sent.outcome !== "pending" || this.history.mayBeLost(sent)) continue
        return `the receipt of ${sent.key}`
      }
    }
    return undefined
  })

  /** What the programs say of themselves when all is done. */
  private readonly inspect = Effect.fnUntraced(function*(this: World) {
    for (const process of this.alive()) {
      const { name } = process.node
      const stats: { readonly totals: Totals } | undefined = process.kind === "server"
        ? process.server && (yield* process.server.stats)
        : process.client && (yield* process.client.stats)
      if (stats !== undefined && stats.totals.protocolErrors > 0) {
        this.history.violated(`${name} counts ${stats.totals.protocolErrors} breaches of the protocol`)
      }
      this.note(`${name} ${JSON.stringify(stats?.totals)}`)
    }
  })

  private readonly close = Effect.fnUntraced(function*(this: World) {
    for (const kind of ["client", "server"] as const) {
      const closing = this.alive().filter((process) => process.kind === kind)
      const open = new Set(closing)
      for (const process of closing) {
        const { node } = process
        const shutdown = (process.kind === "server" ? process.server : process.client)?.shutdown ?? Effect.void
        // The shutdown first, so that its dead letters are heard before the scope ends those who listen.
        const end = Effect.andThen(
          Effect.delay(Effect.asVoid(shutdown), 1),
          Effect.delay(Scope.close(node.scope, Exit.void), 1)
        )
        node.run(Effect.ensuring(end, Effect.sync(() => open.delete(process))))
      }
      for (let second = 0; second < shutdownSeconds && open.size > 0; second++) yield* this.step(1)
      for (const { node } of open) this.history.violated(`${node.name} is not closed after ${shutdownSeconds} s`)
    }
    yield* this.step(5) // for sockets that nobody answers
    for (const { node } of this.alive()) {
      if (node.fibers > 0) this.history.violated(`${node.name} left ${node.fibers} fibers`)
      const connections = this.network.openAt(node)
      if (connections > 0) this.history.violated(`${node.name} left ${connections} connections`)
    }
  })
}
