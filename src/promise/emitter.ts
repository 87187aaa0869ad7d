/** Emits events to listeners that may throw or reject: that is reported, and the others still get the event. */
import { EventEmitter } from "node:events"

export class Emitter<Events extends object> {
  private readonly emitter = new EventEmitter()
  private readonly onFault: (event: string, fault: unknown) => void

  constructor(onFault: (event: string, fault: unknown) => void) {
    this.onFault = onFault
    this.emitter.setMaxListeners(0)
  }

  on<Name extends keyof Events & string>(event: Name, listener: (value: Events[Name]) => unknown): void {
    this.emitter.on(event, listener)
  }

  off<Name extends keyof Events & string>(event: Name, listener: (value: Events[Name]) => unknown): void {
    this.emitter.off(event, listener)
  }

  /** Does not throw. */
  emit<Name extends keyof Events & string>(event: Name, value: Events[Name]): void {
    for (const listener of this.emitter.listeners(event)) {
      void guarded(() => listener(value), (fault) => this.onFault(event, fault))
    }
  }
}

/** Calls a function that may throw or reject. The returned promise resolves when it is done, and never rejects. */
export const guarded = (call: () => unknown, onFault: (fault: unknown) => void): Promise<void> | undefined => {
  try {
    const result = call()
    return isThenable(result) ? Promise.resolve(result).then(nothing, onFault) : undefined
  } catch (fault) {
    onFault(fault)
    return undefined
  }
}

export const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof value === "object" && value !== null && "then" in value && typeof value.then === "function"

const nothing = (): void => {}
