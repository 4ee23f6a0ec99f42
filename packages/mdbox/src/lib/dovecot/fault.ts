/**
 * What is wrong with a store, collected while it is read: each place once, however often it is met.
 */
import type { DovecotFault } from './contract.ts'

/** Most faults that are kept; one more says that there are others. */
export const FAULTS_MAX = 100_000

export interface FaultPlace {
  readonly file?: string | undefined
  readonly offset?: number | undefined
  readonly mailbox?: string | undefined
  readonly uid?: number | undefined
}

export class Faults {
  readonly list: DovecotFault[] = []
  readonly #known = new Set<string>()

  add(kind: string, message: string, place: FaultPlace = {}): void {
    const { file, offset, mailbox, uid } = place
    const key = `${kind}\0${file}\0${offset}\0${mailbox}\0${uid}\0${message}`
    if (this.#known.has(key) || this.#known.size > FAULTS_MAX) return
    this.#known.add(key)
    if (this.#known.size > FAULTS_MAX)
      this.list.push(fault('too-many', `more than ${FAULTS_MAX} faults: the others are not listed`, {}))
    else this.list.push(fault(kind, message, { file, offset, mailbox, uid }))
  }
}

function fault(kind: string, message: string, { file, offset, mailbox, uid }: FaultPlace): DovecotFault {
  return { kind, file, offset, mailbox, uid, message }
}
