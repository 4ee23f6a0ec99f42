/** One timer for all connections: each second it asks every one of them whether its time is up. */

export interface Swept {
  sweep(): void
}

const SWEEP_MS = 1000

const connections = new Set<Swept>()
let timer: NodeJS.Timeout | undefined

export function startSweeping(connection: Swept): void {
  connections.add(connection)
  if (timer !== undefined) return
  timer = setInterval(() => {
    for (const one of connections) one.sweep()
  }, SWEEP_MS)
  // A process that has nothing else to do may end.
  timer.unref()
}

export function stopSweeping(connection: Swept): void {
  connections.delete(connection)
  if (connections.size > 0 || timer === undefined) return
  clearInterval(timer)
  timer = undefined
}

const bySignal = new WeakMap<AbortSignal, Set<() => void>>()

/** Like `addEventListener('abort')`, but one listener serves all connections. Returns nothing to undo: see `offAbort`. */
export function onAbort(signal: AbortSignal, callback: () => void): void {
  let callbacks = bySignal.get(signal)
  if (callbacks === undefined) {
    const all = new Set<() => void>()
    callbacks = all
    bySignal.set(signal, all)
    signal.addEventListener('abort', () => {
      for (const one of Array.from(all)) one()
    })
  }
  callbacks.add(callback)
}

export function offAbort(signal: AbortSignal, callback: () => void): void {
  bySignal.get(signal)?.delete(callback)
}
