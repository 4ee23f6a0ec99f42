/** Calls on files that are under way at the same time: each waits for a thread, few for the disk. */
const PARALLEL = 16

/** All have ended when this ends; after a failure no more are begun, and the first is thrown. */
export async function inParallel<T>(list: Iterable<T>, body: (one: T) => Promise<void>): Promise<void> {
  const iterator = list[Symbol.iterator]()
  const failures: unknown[] = []
  const work = async (): Promise<void> => {
    while (failures.length === 0) {
      const next = iterator.next()
      if (next.done === true) return
      try {
        await body(next.value)
      } catch (error) {
        failures.push(error)
      }
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, work))
  if (failures.length > 0) throw failures[0]
}
