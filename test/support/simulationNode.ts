/**
 * The machine of the simulation: a seeded source of chance, a scheduler that picks the next task by it, and nodes,
 * which are processes that can be frozen (a GC pause) and killed (SIGKILL: nothing of them ever runs again).
 */
import {
  Clock,
  Context,
  type Duration,
  Effect,
  type Fiber,
  Logger,
  Metric,
  Random,
  References,
  Scheduler,
  Scope
} from "effect"

/** Mulberry32: small, fast, and the same everywhere. Also an Effect `Random`. */
export class Rng {
  private state: number

  constructor(seed: number) {
    this.state = Math.imul(seed + 1, 0x9e3779b1) | 0
  }

  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  /** An integer in `low..high`. */
  int(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1))
  }

  pick<A>(values: readonly [A, ...Array<A>]): A {
    return values[this.int(0, values.length - 1)] ?? values[0]
  }

  fork(): Rng {
    return new Rng(Math.floor(this.next() * 4_294_967_296))
  }

  nextDoubleUnsafe(): number {
    return this.next()
  }

  nextIntUnsafe(): number {
    return this.int(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
  }
}

/** More tasks than any virtual second of a simulation has. */
const maxTasks = 300_000

/** Runs ready tasks in a seeded order, so that the seed also picks the interleaving of all fibers. */
export class SeededScheduler implements Scheduler.Scheduler {
  readonly executionMode = "async"
  private readonly rng: Rng
  private readonly tasks: Array<() => void> = []
  private readonly idle: Array<() => void> = []
  private armed = false
  private ran = 0
  private readonly onSpin: () => void

  /** `onSpin` is told when so much runs without `rest` that it will never end; nothing runs any more then. */
  constructor(seed: number, onSpin: () => void) {
    this.rng = new Rng(seed)
    this.onSpin = onSpin
  }

  /** Time has passed. */
  rest(): void {
    this.ran = 0
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return fiber.currentOpCount >= 128 && fiber.currentOpCount >= 128 + this.rng.int(0, 512)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return {
      scheduleTask: (task) => {
        this.tasks.push(task)
        if (this.armed) return
        this.armed = true
        setImmediate(() => {
          this.armed = false
          this.run()
        })
      },
      flush: () => this.run()
    }
  }

  /** Waits until nothing is left to run: more follows only from time or from the caller. */
  readonly settled: Effect.Effect<void> = Effect.callback<void>((resume) => {
    this.idle.push(() => resume(Effect.void))
    if (this.armed) return
    this.armed = true
    setImmediate(() => {
      this.armed = false
      this.run()
    })
  })

  private run(): void {
    while (true) {
      if (++this.ran > maxTasks) {
        this.tasks.length = 0
        return this.onSpin()
      }
      const task = this.takeAny() ?? this.idle.shift()
      if (task === undefined) return
      task()
    }
  }

  private takeAny(): (() => void) | undefined {
    const { tasks } = this
    if (tasks.length === 0) return undefined
    const index = tasks.length === 1 ? 0 : this.rng.int(0, tasks.length - 1)
    const task = tasks[index]
    const last = tasks.pop()
    if (last !== undefined && index < tasks.length) tasks[index] = last
    return task
  }
}

const hourMillis = 3_600_000

/** What a machine takes for the time of day: it may be wrong, and is set while programs run. */
export class Wall {
  private aheadMillis: number

  constructor(rng: Rng) {
    this.aheadMillis = rng.int(-600_000, 600_000)
  }

  /** Back an hour, forward a day or some minutes, or a small step. Returns by how much. */
  set(rng: Rng): number {
    const byMillis = rng.pick([-hourMillis, 24 * hourMillis, rng.int(5_000, 600_000), rng.int(-5_000, 5_000)])
    this.aheadMillis += byMillis
    return byMillis
  }

  show(millis: number): number {
    return epochMillis + millis + this.aheadMillis
  }
}

/** So that no wall stands before 1970. */
const epochMillis = 1_700_000_000_000

const neverSet: Pick<Wall, "show"> = { show: (millis) => millis }

/** What the nodes of one simulation share. */
export interface Machine {
  readonly clock: Clock.Clock
  readonly scheduler: Scheduler.Scheduler
  /** Told of every log entry at level Error or worse. */
  readonly onError: (node: string, text: string, fatal: boolean) => void
}

/** One process: a clock and a scheduler of its own over the machine's, and a count of what runs in it. */
export class Node {
  readonly name: string
  readonly context: Context.Context<never>
  /** Closed to end the process in an orderly way. */
  readonly scope = Scope.makeUnsafe()
  state: "running" | "frozen" | "dead" = "running"
  /** Fibers begun and not ended. */
  fibers = 0
  private readonly held: Array<() => void> = []
  private readonly dispatcher: Scheduler.SchedulerDispatcher

  constructor(machine: Machine, name: string, rng: Rng, wall: Pick<Wall, "show"> = neverSet) {
    this.name = name
    const { clock } = machine
    const makeDispatcher = (): Scheduler.SchedulerDispatcher => {
      const dispatcher = machine.scheduler.makeDispatcher()
      return {
        scheduleTask: (task, priority) => {
          const guarded = () => {
            if (this.state === "running") task()
            else if (this.state === "frozen") this.held.push(guarded)
          }
          // What is held is not given to the clock's scheduler, which would wait for it.
          if (this.state === "frozen") this.held.push(guarded)
          else if (this.state === "running") dispatcher.scheduleTask(guarded, priority)
        },
        flush: () => dispatcher.flush()
      }
    }
    this.dispatcher = makeDispatcher()
    const scheduler: Scheduler.Scheduler = {
      executionMode: "async",
      shouldYield: (fiber) => machine.scheduler.shouldYield(fiber),
      makeDispatcher
    }
    const awake: Effect.Effect<void> = Effect.suspend(() =>
      this.state === "running"
        ? Effect.void
        : Effect.callback<void>((resume) => void this.held.push(() => resume(awake)))
    )
    const sleep = (duration: Duration.Duration) => Effect.andThen(clock.sleep(duration), awake)
    const millis = () => wall.show(clock.currentTimeMillisUnsafe())
    const nanos = () => BigInt(Math.floor(millis())) * 1_000_000n
    const nodeClock: Clock.Clock = {
      currentTimeMillisUnsafe: millis,
      currentTimeNanosUnsafe: nanos,
      monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanos: clock.monotonicTimeNanos,
      sleep
    }
    const logger = Logger.make(({ cause, logLevel, message }) => {
      const text = `${String(message)} ${cause.reasons.map(String).join("; ")}`
      if (logLevel === "Error" || logLevel === "Fatal") machine.onError(name, text, logLevel === "Fatal")
    })
    this.context = Context.make(Clock.Clock, nodeClock).pipe(
      Context.add(Scheduler.Scheduler, scheduler),
      Context.add(Random.Random, rng),
      Context.add(Logger.CurrentLoggers, new Set([logger])),
      Context.add(References.MinimumLogLevel, "Error"),
      Context.add(Metric.FiberRuntimeMetrics, {
        recordFiberStart: () => void this.fibers++,
        recordFiberEnd: () => void this.fibers--
      })
    )
  }

  /** Starts an effect in this process, in a task of its own. */
  run(effect: Effect.Effect<unknown, unknown>): void {
    this.later(() => void Effect.runForkWith(this.context)(effect))
  }

  /** Runs something synchronous in this process, soon. */
  later(task: () => void): void {
    this.dispatcher.scheduleTask(task, 0)
  }

  freeze(): void {
    if (this.state === "running") this.state = "frozen"
  }

  thaw(): void {
    if (this.state !== "frozen") return
    this.state = "running"
    for (const task of this.held.splice(0)) this.later(task)
  }

  kill(): void {
    this.state = "dead"
    this.held.length = 0
  }
}
