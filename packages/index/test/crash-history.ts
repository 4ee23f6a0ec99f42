/**
 * What an index was asked and what it promised, moment by moment, so that any disk a power cut leaves can be judged.
 *
 * The log orders all transactions, so whatever is left must be what the first so many of them give: at least those that
 * were acknowledged as flushed, at most those that had begun. Each such version is known by its description, from the model.
 */
import type { Index, TableSpec } from '../src/lib/contract.ts'
import { describeModel, describeView, Model, type ModelChange, request } from '../src/lib/model.ts'
import type { CommitOptions } from '../src/index.ts'

/** What holds at one moment. */
export interface Promised {
  /** The version that was acknowledged as flushed. */
  readonly acknowledged: number
  /** The newest version that had begun. */
  readonly asked: number
  /** Per table, by UIDVALIDITY: the highest modseq anybody was shown. */
  readonly modSeqs: ReadonlyMap<number, number>
}

/** Names and contents of all tables, but for HIGHESTMODSEQ, which a crash may raise. */
export function describe(tables: readonly { readonly id: string; readonly what: unknown }[]): string {
  return tables
    .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    .map(({ id, what }) => {
      const { uidValidity, uidNext, count, unseen, deleted, bytes, digest, rows, values } = what as Record<
        string,
        unknown
      >
      return JSON.stringify([id, uidValidity, uidNext, count, unseen, deleted, bytes, digest, rows, values])
    })
    .join('\n')
}

export class History {
  readonly model: Model = new Model()
  acknowledged = 0
  asked = 0
  /** Called when a version was acknowledged as flushed. */
  onAcknowledged: () => void = () => {}
  readonly #modSeqs = new Map<number, number>()
  readonly #versions = new Map<string, number[]>()
  readonly #notes: Promised[] = []
  #count = 0

  constructor() {
    this.#versions.set('', [0])
  }

  /** The model has changed: the next version. */
  next(): number {
    const tables = [...this.model.tables].map(([id, table]) => ({ id, what: describeModel(table) }))
    const what = describe(tables)
    const version = ++this.#count
    const known = this.#versions.get(what)
    if (known === undefined) this.#versions.set(what, [version])
    else known.push(version)
    return version
  }

  /** What clients may see now is remembered. */
  show(index: Index): void {
    for (const { uidValidity, highestModSeq } of index.tables)
      this.#modSeqs.set(uidValidity, Math.max(highestModSeq, this.#modSeqs.get(uidValidity) ?? 0))
  }

  /** What holds now. */
  now(): Promised {
    const { acknowledged, asked } = this
    return { acknowledged, asked, modSeqs: new Map(this.#modSeqs) }
  }

  /** The disk changed. */
  note(tick: number): void {
    this.#notes[tick] = this.now()
  }

  /** What holds from this change of the disk until the next. */
  at(tick: number): Promised {
    const now = this.#notes[tick]
    const later = this.#notes[tick + 1] ?? { acknowledged: this.acknowledged, modSeqs: this.#modSeqs }
    const { acknowledged, modSeqs } = later
    // What changes nothing is acknowledged without a change of the disk.
    return { acknowledged, asked: Math.max(acknowledged, now?.asked ?? 0), modSeqs }
  }

  /** What is wrong with what a disk gives, if anything. */
  objection(
    promised: Promised,
    { description, modSeqs }: Pick<Recovered, 'description' | 'modSeqs'>,
  ): string | undefined {
    const versions = this.#versions.get(description)
    if (versions === undefined) return `half of something is there:\n${description}`
    const { acknowledged, asked } = promised
    if (!versions.some((version) => version >= acknowledged && version <= asked))
      return `version ${versions.join(' or ')} is there, not ${acknowledged} to ${asked}`
    for (const [uidValidity, modSeq] of promised.modSeqs) {
      const found = modSeqs.get(uidValidity)
      if (found !== undefined && found < modSeq) return `HIGHESTMODSEQ is ${found} where ${modSeq} was shown`
    }
    return undefined
  }

  /** Commits the changes as one transaction each, all in one turn: one group. Resolves when all are done. */
  async commit(index: Index, group: readonly (readonly ModelChange[])[], options: CommitOptions = {}): Promise<void> {
    const waiting: Promise<void>[] = []
    for (const changes of group) {
      const tx = index.begin()
      request(tx, changes, () => {
        throw new TypeError('nothing is copied here')
      })
      const expected = this.model.commit(changes)
      if ('code' in expected) throw new Error(`the model refuses: ${expected.code}`)
      const version = this.next()
      this.asked = version
      waiting.push(
        tx.commit(options).then(({ frame }) => {
          // What changes nothing flushes nothing.
          if (options.durability !== 'lazy' && frame > 0) this.acknowledged = Math.max(this.acknowledged, version)
          this.show(index)
          if (frame > 0) this.onAcknowledged()
        }),
      )
    }
    // All are looked at: one that fails must not leave another unheard.
    const results = await Promise.allSettled(waiting)
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  /** Opened after a death without a word: modseqs go on above those that lazy changes may have used. */
  raised(index: Index): void {
    for (const [id, table] of this.model.tables)
      table.highestModSeq = Math.max(table.highestModSeq, index.info(id)?.highestModSeq ?? 0)
  }
}

/** What a disk turned out to hold. */
export interface Recovered {
  readonly description: string
  readonly modSeqs: ReadonlyMap<number, number>
}

/** Everything in an open index. */
export async function recoveredOf(index: Index, specs: ReadonlyMap<string, TableSpec>): Promise<Recovered> {
  const tables: { id: string; what: unknown }[] = []
  const modSeqs = new Map<number, number>()
  for (const { id, uidValidity, highestModSeq } of index.tables) {
    const table = await index.open(id)
    if (table === undefined) throw new Error(`table ${id} is listed and not there`)
    const spec = specs.get(id)
    if (spec === undefined) throw new Error(`table ${id} was never made`)
    tables.push({ id, what: describeView(table, spec) })
    modSeqs.set(uidValidity, highestModSeq)
    await table[Symbol.asyncDispose]()
  }
  return { description: describe(tables), modSeqs }
}
