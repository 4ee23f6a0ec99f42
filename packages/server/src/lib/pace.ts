/** Long loops give way now and then, so that one client's million messages are not everybody's pause. */
import { setImmediate as turn } from 'node:timers/promises'

/** How long a loop may keep the event loop to itself, in milliseconds. */
const SLICE_MS = 25

export class Pace {
  #since: number = performance.now()

  /** A promise if it is time to give way, otherwise undefined. Ask every few hundred rounds. */
  due(): Promise<void> | undefined {
    if (performance.now() - this.#since < SLICE_MS) return undefined
    return this.#rest()
  }

  async #rest(): Promise<void> {
    await turn()
    this.#since = performance.now()
  }
}
