/**
 * Calls what somebody gave to be told of something. What it throws is no failure of whoever tells: a commit is done, whatever
 * those think who hear of it. As of a listener of an EventTarget, it becomes an uncaught exception, on a turn of its own.
 */
export function tell<Told extends readonly unknown[]>(listener: (...told: Told) => void, ...told: Told): void {
  try {
    listener(...told)
  } catch (error) {
    process.nextTick(() => {
      throw error
    })
  }
}
