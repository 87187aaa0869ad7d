/**
 * A scripted exchange between one client and one server, whose process is killed at a chosen step of its store and
 * started again on the same database. Both are processes of the simulation (see `simulation.ts`), under virtual time.
 *
 * The script: messages both ways, among them one whose handler always fails and one under a publish key; the network
 * breaks, and meanwhile keys are used again and a message expires; the store is asked about all of them; the session
 * ends while the client is away and something waits at both sides, and so does the one that the client gets for it.
 */
import { Effect, Exit, Layer, Random, Redacted, Schedule, Scheduler, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as CircuitBreaker from "../../src/CircuitBreaker.ts"
import * as Deduplicator from "../../src/Deduplicator.ts"
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import { layerOf } from "../../src/internal/store/layer.ts"
import type { Receipt, SendOptions } from "../../src/Message.ts"
import * as MessageQueue from "../../src/MessageQueue.ts"
import * as ResilientClient from "../../src/ResilientClient.ts"
import * as ResilientServer from "../../src/ResilientServer.ts"
import { TransportClient, TransportServer } from "../../src/Transport.ts"
import { observe } from "./crashHistory.ts"
import { Crash, type CrashPoint, everyCall } from "./crashPoints.ts"
import { makeMemoryDatabase, makeMemoryDriver } from "./memoryDriver.ts"
import { type Transactional, transactional } from "./memoryTransactions.ts"
import { History, type Sent } from "./simulationHistory.ts"
import { noFaults, SimulatedNetwork } from "./simulationNetwork.ts"
import { type Machine, Node, Rng, SeededScheduler } from "./simulationNode.ts"

/** How the server's handler does its work: in one transaction with its position, or on its own. */
export type Handler = "transactional" | "plain"

export interface CrashOutcome {
  /** What the server's store was asked, in this order, and the steps of its handler. */
  readonly steps: ReadonlyArray<string>
  readonly killed: boolean
  readonly violations: ReadonlyArray<string>
  readonly trace: ReadonlyArray<string>
  /** The table that the server's handler writes. */
  readonly rows: ReadonlyArray<string>
  /** Keys of the messages that the client has handled. */
  readonly received: ReadonlyArray<string>
  /** What the client's receipts came to. */
  readonly receipts: Readonly<Record<string, string>>
  /** What the server says of its own messages before the session ends. */
  readonly located: Readonly<Record<string, string>>
  /** Dead letters of messages to the client, by key. */
  readonly letters: Readonly<Record<string, string>>
}

const Message = Schema.Struct({ key: Schema.String, poison: Schema.Boolean })
type Message = typeof Message.Type

type Server = ResilientServer.ResilientServer<Message, Message>
type Client = ResilientClient.ResilientClient<Message, Message>

/** Something that the server's program does; done again by the next process if it was killed meanwhile. */
interface Task {
  readonly name: string
  readonly run: (server: Server, node: Node) => Effect.Effect<void, unknown>
}

type Step = <A, E>(name: string, effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
type Handle = (
  message: Message,
  context: ResilientServer.MessageContext<Message, Message>
) => Effect.Effect<void, unknown>

const afterCommitOf = ({ transaction }: StoreDriver) =>
  transaction?.afterCommit ?? ((effect: Effect.Effect<void>) => effect)

const poisonToServer = "a3 poison"
const session = "alice"
const host = "host"
/** How soon a killed server is started again. */
const restartMillis = 300
/** Each part of the script must be done in this virtual time, in s. */
const patienceSeconds = 60
const stepMillis = 100
/** How often the server's program looks for something to do. */
const lookMillis = 50
/** A handler is tried so often. */
const attempts = 3

const handlerRetry = Schedule.upTo(Schedule.spaced("50 millis"), { times: attempts - 1 })

export const exchange = (handler: Handler, point: CrashPoint | undefined): Promise<CrashOutcome> =>
  new Promise((resolve, reject) => {
    const scheduler = new SeededScheduler(1, () => reject(new Error(`something spins: ${JSON.stringify(point)}`)))
    const world = new World(handler, point, scheduler)
    Effect.runPromise(
      world.run.pipe(
        Effect.provide(Layer.fresh(TestClock.layer({ warningDelay: "1 hour" }))),
        Effect.provideService(Random.Random, new Rng(2)),
        Effect.provideService(Scheduler.Scheduler, scheduler)
      )
    ).then(resolve, reject)
  })

class World {
  private readonly handler: Handler
  private readonly crash: Crash
  private readonly scheduler: SeededScheduler
  private readonly rng = new Rng(3)
  private readonly trace: Array<string> = []
  private readonly history: History
  private readonly database = makeMemoryDatabase()
  private readonly rows: Array<string> = []
  private readonly received: Array<string> = []
  private readonly located: Record<string, string> = {}
  private readonly tasks: Array<Task> = []
  private machine: Machine | undefined
  private network: SimulatedNetwork | undefined
  private serverNode: Node | undefined
  private clientNode: Node | undefined
  private client: Client | undefined
  private clientState: ResilientClient.ConnectionState["_tag"] = "Connecting"
  private servers = 0
  private killed = false
  /** Of the present server's handler, for the message that it fails for. */
  private failures = 0
  private closed = false
  private now: () => number = () => 0

  constructor(handler: Handler, point: CrashPoint | undefined, scheduler: SeededScheduler) {
    this.handler = handler
    this.crash = new Crash(point)
    this.scheduler = scheduler
    const allowed = {
      uncommittedAgain: true,
      staleOwner: false,
      confirms: false,
      jumps: false,
      lostWithProcess: false,
      lettersLostWithProcess: true
    }
    this.history = new History(allowed, (text) => this.note(text), () => this.now())
  }

  private note(text: string): void {
    this.trace.push(`${this.now()} ${text}`)
  }

  readonly run = Effect.suspend(() => this.play())

  private readonly play = Effect.fnUntraced(function*(this: World) {
    const { clientNode, network } = yield* this.boot()
    this.startServer()
    this.startClient(clientNode, network)
    yield* this.until("the client is connected", () => this.clientState === "Connected")

    this.clientSends(["a1", {}], ["a2", { id: "a2" }], [poisonToServer, {}], ["a4", {}])
    this.serverSends("b1", {})
    this.serverSends("b2", { id: "b2" })
    this.serverSends("b3 poison", { id: "b3 poison" })
    yield* this.drained("the first part")

    this.unplug(network)
    yield* this.until("it is cut", () => this.clientState !== "Connected")
    this.clientSends(["a5", {}], ["a2", { id: "a2" }])
    this.serverSends("b4 late", { id: "b4 late", ttl: "1 second" })
    this.serverSends("b2", { id: "b2" })
    this.serverSends("b5", { id: "b5" })
    yield* this.until("all is sent", () => this.tasks.length === 0)
    yield* this.pass(2_200)
    network.faults = noFaults
    yield* this.drained("the second part")
    for (const key of ["b1", "b2", "b5"]) this.looksFor(key)
    yield* this.until("all is looked for", () => this.tasks.length === 0)

    this.unplug(network)
    yield* this.until("it is cut again", () => this.clientState !== "Connected")
    this.clientSends(["a6", {}])
    this.serverSends("b6 too late", { id: "b6 too late" })
    this.serverEndsSession()
    yield* this.until("the session is ended", () => this.tasks.length === 0)
    network.faults = noFaults
    yield* this.drained("the part in a new session")
    this.serverEndsSession()
    // A client that is not told of it, because the server was killed, gets another session.
    yield* this.until(
      "the client is told of the end",
      () =>
        this.tasks.length === 0 && this.clientState === (this.killed ? "Connected" : "Stopped") ||
        this.clientState === "Stopped"
    )
    yield* this.pass(1_000)
    yield* this.close()
    this.history.check()
    return this.outcome()
  })

  private readonly boot = Effect.fnUntraced(function*(this: World) {
    const clock = yield* Effect.clockWith(Effect.succeed)
    const scheduler = yield* Scheduler.Scheduler
    this.now = () => clock.currentTimeMillisUnsafe()
    this.machine = {
      clock,
      scheduler,
      onError: (node, text) => this.history.violated(`${node} logged: ${text}`)
    }
    this.network = new SimulatedNetwork({
      rng: this.rng.fork(),
      now: this.now,
      shape: { latency: [2, 2], bytesPerMilli: 100_000, kernelBytes: 64_000, readMillis: 0 },
      faults: noFaults,
      note: (text) => this.note(text)
    })
    this.clientNode = new Node(this.machine, "client", this.rng.fork())
    return { clientNode: this.clientNode, network: this.network }
  })

  private outcome(): CrashOutcome {
    const receipts: Record<string, string> = {}
    for (const { fromClient, key, outcome } of this.history.sent.values()) if (fromClient) receipts[key] = outcome
    const letters: Record<string, string> = {}
    for (const { direction, key, process, reason } of this.history.letters) {
      if (direction === "out" && process !== "client") letters[key] = reason
    }
    return {
      steps: this.crash.steps,
      killed: this.killed,
      violations: this.history.violations,
      trace: this.trace,
      rows: this.rows,
      received: this.received,
      receipts,
      located: this.located,
      letters
    }
  }

  // --- processes

  private startServer(): void {
    const { history, machine, network } = this
    if (machine === undefined || network === undefined) return
    const node = new Node(machine, `server${++this.servers}`, this.rng.fork())
    this.serverNode = node
    this.failures = 0
    const store = transactional(this.database, makeMemoryDriver(this.database), this.rows)
    const kill = (): void => {
      this.note(`${node.name} is killed`)
      this.killed = true
      node.kill()
      store.rollBack()
      network.killed(node)
      this.wasKilled(node)
    }
    const step: Step = (name, effect) =>
      Effect.suspend(() => {
        this.note(`${node.name} step ${this.crash.steps.length + 1}: ${name}`)
        return this.crash.step(name, kill, effect)
      })
    const handle = this.handler === "plain" ? this.plainHandler(node, step) : this.committingHandler(node, step, store)
    const program = Effect.gen({ self: this }, function*() {
      const server = yield* ResilientServer.make({
        incoming: Message,
        outgoing: Message,
        authenticate: ({ token }) => Effect.succeed({ session: token ?? "nobody", principal: token }),
        onMessage: (message, context) => {
          const { key, poison } = message
          history.started(node.name, session, key, context.incoming.messageId)
          if (!poison) return handle(message, context)
          history.failed(node.name, key)
          this.failures++
          return Effect.fail("poison")
        },
        onGap: (gap) => Effect.sync(() => history.gap(node.name, gap.session, gap.count, gap.reason)),
        handlerRetry,
        expirySweep: "1 second",
        heartbeat: "2 seconds",
        heartbeatTimeout: "1 second",
        reconnectJitter: "100 millis"
      })
      yield* Effect.forkScoped(this.collect(node, server.deadLetters), { startImmediately: true })
      yield* Effect.forkScoped(this.work(server, node))
      this.shutdown = server.shutdown
    })
    const layer = layerOf(Effect.succeed(this.driverOf(node, step, store)), 1, {
      pollInterval: "2 seconds",
      nodeTimeout: "1 second",
      handoffTimeout: "200 millis"
    })
    const whole = Effect.flatMap(Layer.build(Layer.fresh(layer)), (context) => Effect.provideContext(program, context))
    this.launch(
      node,
      whole.pipe(Effect.provideService(TransportServer, network.server(node, host)), Scope.provide(node.scope))
    )
  }

  private wasKilled(node: Node): void {
    const { history } = this
    history.process(node.name).killed = true
    history.disturbed(node.name)
    const isTold = history.letters.some(({ key, process }) => key === poisonToServer && process === node.name)
    // It was given up for good, and its dead letter goes with the process.
    if (this.failures < attempts || isTold) return
    history.letter({ process: node.name, direction: "in", key: poisonToServer, reason: "failed", maybeHandled: false })
  }

  private driverOf(node: Node, step: Step, { driver }: Transactional): StoreDriver {
    const afterCommit = afterCommitOf(driver)
    return everyCall(driver, (operation, args, call) =>
      step(
        operation,
        Effect.suspend(() => {
          const waiting = this.waiting()
          return Effect.tap(call, (result) =>
            afterCommit(Effect.sync(() =>
              observe(this.history, node.name, { operation, args, result, waiting })
            )))
        })
      ))
  }

  /** Writes, stores its position and answers in one transaction. */
  private committingHandler(node: Node, step: Step, { driver, withTransaction }: Transactional): Handle {
    const afterCommit = afterCommitOf(driver)
    return ({ key }, { commit, incoming, server }) =>
      step(
        "the handler's transaction",
        withTransaction(Effect.gen({ self: this }, function*() {
          yield* afterCommit(Effect.sync(() => this.history.done(node.name, key, incoming.messageId)))
          yield* afterCommit(step("the news of the commit", Effect.void))
          yield* step("the handler's write", Effect.sync(() => void this.rows.push(key)))
          yield* commit
          // It exists exactly when the row does. What the receipt says counts only once that is committed.
          this.sentOf(`re: ${key}`, node.name)
          yield* server.send(session, this.messageOf(`re: ${key}`))
        }))
      )
  }

  /** Answers under a key, and so once, and then writes. */
  private plainHandler(node: Node, step: Step): Handle {
    return ({ key }, { incoming, server }) =>
      Effect.gen({ self: this }, function*() {
        const answer = `re: ${key}`
        const sent = this.sentOf(answer, node.name)
        yield* this.accepted(sent, node, yield* server.send(session, this.messageOf(answer), { id: answer }))
        yield* step(
          "the handler's write",
          Effect.sync(() => {
            this.rows.push(key)
            this.history.done(node.name, key, incoming.messageId)
          })
        )
      })
  }

  private shutdown: Effect.Effect<unknown> = Effect.void

  private startClient(node: Node, network: SimulatedNetwork): void {
    const { history } = this
    const program = Effect.gen({ self: this }, function*() {
      const client = yield* ResilientClient.make({
        url: `ws://${host}/`,
        token: Redacted.make(session),
        incoming: Message,
        outgoing: Message,
        onMessage: ({ key, poison }, { incoming: { messageId } }) =>
          Effect.suspend(() => {
            history.started(node.name, "", key, messageId)
            if (poison) {
              history.failed(node.name, key)
              return Effect.fail("poison")
            }
            this.received.push(key)
            history.done(node.name, key, messageId)
            return Effect.void
          }),
        onGap: (gap) => Effect.sync(() => history.gap(node.name, "", gap.count, gap.reason)),
        handlerRetry,
        reconnect: { base: "100 millis", cap: "500 millis" },
        heartbeat: "2 seconds",
        heartbeatTimeout: "1 second"
      })
      this.client = client
      yield* Effect.forkScoped(this.collect(node, client.deadLetters), { startImmediately: true })
      yield* Effect.forkScoped(Stream.runForEach(client.states, (state) =>
        Effect.sync(() => {
          this.note(`client is ${state._tag}`)
          this.clientState = state._tag
        })))
    })
    const layer = Layer.mergeAll(CircuitBreaker.layer(), Deduplicator.layerMemory(), MessageQueue.layerMemory())
    const whole = Effect.flatMap(Layer.build(Layer.fresh(layer)), (context) => Effect.provideContext(program, context))
      .pipe(
        Effect.provideService(TransportClient, network.client(node)),
        Scope.provide(node.scope)
      )
    this.launch(node, whole)
  }

  private launch(node: Node, program: Effect.Effect<unknown, unknown>): void {
    this.note(`${node.name} starts`)
    node.run(Effect.onExit(program, (exit) =>
      Effect.sync(() => {
        if (Exit.isFailure(exit)) this.history.violated(`${node.name} did not start: ${String(exit.cause)}`)
      })))
  }

  private collect(node: Node, letters: Server["deadLetters"]) {
    return Stream.runForEach(letters, ({ direction, maybeHandled, message, reason }) =>
      Effect.sync(() => {
        const key = message?.key ?? "unknown"
        this.history.letter({ process: node.name, direction, key, reason, maybeHandled })
      }))
  }

  // --- what the programs do

  private sentOf(key: string, process: string): Sent {
    const before = this.history.sent.get(key)
    if (before !== undefined) return before
    const sent: Sent = {
      key,
      process,
      fromClient: process === "client",
      volatile: false,
      status: "pending",
      messageId: undefined,
      answeredAt: undefined,
      settledAt: undefined,
      outcome: "pending"
    }
    this.history.sent.set(key, sent)
    return sent
  }

  private accepted(sent: Sent, node: Node, receipt: Receipt): Effect.Effect<void> {
    this.note(`${node.name} sent ${sent.key}: ${receipt._tag} ${receipt.messageId}`)
    if (receipt._tag === "Skipped") this.history.violated(`${sent.key} was skipped`)
    if (sent.messageId !== undefined && sent.messageId !== receipt.messageId) {
      this.history.violated(`${sent.key} has two ids: ${sent.messageId} and ${receipt.messageId}`)
    }
    sent.status = "accepted"
    sent.messageId = receipt.messageId
    return receipt.handled.pipe(
      Effect.match({
        onSuccess: () => void (sent.outcome = "handled"),
        onFailure: ({ maybeHandled, reason }) => {
          // A process that did not send it is not told how it was before the session ended.
          const isUnknown = reason === "sessionEnded" && maybeHandled && sent.process !== node.name
          if (!isUnknown) sent.outcome = reason
        }
      }),
      Effect.tap(() => Effect.sync(() => this.note(`receipt ${sent.key} ${sent.outcome}`))),
      Effect.forkIn(node.scope),
      Effect.asVoid
    )
  }

  private readonly messageOf = (key: string): Message => ({ key, poison: key.endsWith("poison") })

  /** One after the other. */
  private clientSends(...messages: ReadonlyArray<readonly [key: string, options: SendOptions]>): void {
    const { client, clientNode } = this
    if (client === undefined || clientNode === undefined) return
    const send = (key: string, options: SendOptions) =>
      Effect.matchEffect(client.send(this.messageOf(key), options), {
        onFailure: (error) => Effect.sync(() => this.history.violated(`${key} was refused: ${String(error)}`)),
        onSuccess: (receipt) => this.accepted(this.sentOf(key, "client"), clientNode, receipt)
      })
    for (const [key] of messages) this.sentOf(key, "client")
    clientNode.run(Effect.forEach(messages, ([key, options]) => send(key, options), { discard: true }))
  }

  private serverSends(key: string, options: SendOptions): void {
    this.tasks.push({
      name: `send ${key}`,
      run: (server, node) =>
        Effect.suspend(() => {
          const sent = this.sentOf(key, node.name)
          // Who was killed while it sent can't know whether it has, unless it used a key.
          if (options.id === undefined && sent.process !== node.name) return Effect.void
          return Effect.flatMap(
            server.send(session, this.messageOf(key), options),
            (receipt) => this.accepted(sent, node, receipt)
          )
        })
    })
  }

  private looksFor(key: string): void {
    this.tasks.push({
      name: `look for ${key}`,
      run: (server) =>
        Effect.suspend(() => {
          const id = this.history.sent.get(key)?.messageId
          if (id === undefined) return Effect.void
          return Effect.map(server.locate(session, id), (state) => void (this.located[key] = state))
        })
    })
  }

  private serverEndsSession(): void {
    this.tasks.push({
      name: "end the session",
      run: (server) =>
        Effect.catchTag(server.endSession(session), "resilient-websocket/SessionNotFoundError", () => Effect.void)
    })
  }

  /** The server's program: a task is done when it has succeeded, also if another process began it. */
  private readonly work = Effect.fnUntraced(function*(this: World, server: Server, node: Node) {
    while (true) {
      const task = this.tasks[0]
      if (task === undefined) {
        yield* Effect.sleep(lookMillis)
        continue
      }
      this.note(`${node.name} begins to ${task.name}`)
      const exit = yield* Effect.exit(task.run(server, node))
      if (Exit.isFailure(exit)) this.history.violated(`${node.name} could not ${task.name}: ${String(exit.cause)}`)
      this.tasks.shift()
    }
  })

  // --- time

  private readonly pass = Effect.fnUntraced(function*(this: World, millis: number) {
    for (let passed = 0; passed < millis; passed += stepMillis) {
      yield* this.scheduler.settled
      yield* TestClock.adjust(stepMillis)
      this.scheduler.rest()
      yield* this.scheduler.settled
      if (this.serverNode?.state === "dead" && !this.closed) yield* this.restart()
    }
  })

  private readonly restart = Effect.fnUntraced(function*(this: World) {
    const dead = this.serverNode
    for (let passed = 0; passed < restartMillis; passed += stepMillis) {
      yield* this.scheduler.settled
      yield* TestClock.adjust(stepMillis)
    }
    if (this.serverNode === dead) this.startServer()
  })

  private readonly until = Effect.fnUntraced(function*(this: World, what: string, condition: () => boolean) {
    for (let millis = 0; millis < patienceSeconds * 1_000; millis += stepMillis) {
      if (condition()) return
      yield* this.pass(stepMillis)
    }
    this.history.violated(`waited in vain: ${what}`)
  })

  private drained(part: string) {
    return this.until(`${part} is done`, () => {
      if (this.clientState !== "Connected" || this.tasks.length > 0) return false
      for (const { fromClient, outcome, process, status } of this.history.sent.values()) {
        const isAwaited = fromClient || (status === "accepted" && process === this.serverNode?.name)
        if (isAwaited && outcome === "pending") return false
      }
      return this.waiting() === 0
    })
  }

  /** Messages in the server's outboxes. */
  private waiting(): number {
    let waiting = 0
    for (const { state } of this.database.outboxes.values()) waiting += state.messages
    return waiting
  }

  private unplug(network: SimulatedNetwork): void {
    network.cutSome(1, 0)
    network.faults = { ...noFaults, refuse: 1 }
  }

  private readonly close = Effect.fnUntraced(function*(this: World) {
    const ends = [[this.clientNode, this.client?.shutdown], [this.serverNode, this.shutdown]] as const
    for (const [node, shutdown = Effect.void] of ends) {
      if (node === undefined) continue
      let isOpen = true
      node.run(Effect.ensuring(
        Effect.andThen(Effect.delay(Effect.asVoid(shutdown), 1), Effect.delay(Scope.close(node.scope, Exit.void), 1)),
        Effect.sync(() => void (isOpen = false))
      ))
      this.closed = node === this.serverNode
      yield* this.until(`${node.name} is closed`, () => !isOpen || node.state === "dead")
    }
  })
}
