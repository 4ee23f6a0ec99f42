/** Blobs on their way in: what a batch of them is, and how each comes to be named by a row. */
import { toHex } from '@mailstead/bytes'
import type { BlobStore } from './blob-store.ts'
import type { BlobSaved, BlobSink, BlobWriter } from './contract.ts'
import type { Domain } from './domain.ts'
import { type BlobRow, type ReferencePending, type ReferenceTransaction, refOf } from './references.ts'
import type { Spool } from './spool.ts'

/** How one blob of a batch comes to be named by a row. */
export interface Plan {
  readonly key: Uint8Array
  readonly instance: Uint8Array
  readonly hold: Uint8Array
  readonly size: number
  readonly stored: number
  readonly shared: boolean
  /** The row that was found, if one was; else a new row is appended. */
  readonly row: BlobRow | undefined
  /** Batches that go by it. */
  users: number
  /** A transaction was told of it: what came of that nobody here knows. */
  recorded: boolean
  /** The rows of transactions that were told. */
  readonly rows: WeakMap<object, { readonly pending: ReferencePending; uses: number }>
  last: ReferencePending | undefined
}

/** Blobs that are saved together, and become durable before the frame that names them. */
export class BlobBatch implements BlobSink, AsyncDisposable {
  readonly #store: BlobStore
  readonly #plans = new Map<string, Plan>()
  readonly #open = new Set<Spool>()
  #disposed = false

  constructor(store: BlobStore) {
    this.#store = store
  }

  begin(): BlobWriter {
    if (this.#disposed) throw new TypeError('the batch is disposed')
    const { domain } = this.#store
    if (domain === undefined) return this.#late()
    const spool = this.#spool(domain)
    return {
      write: (bytes) => spool.write(bytes),
      end: () => this.#end(spool),
      abort: () => this.#forget(spool),
    }
  }

  #spool(domain: Domain): Spool {
    const spool = this.#store.spool(domain)
    this.#open.add(spool)
    return spool
  }

  /** While the directory was away: the first bytes ask whether it is back. */
  #late(): BlobWriter {
    let made: Promise<Spool> | undefined
    const spool = (): Promise<Spool> => (made ??= this.#store.ready().then((domain) => this.#spool(domain)))
    return {
      write: async (bytes) => (await spool()).write(bytes),
      end: async () => this.#end(await spool()),
      abort: async () => {
        const begun = await made?.catch(() => undefined)
        if (begun !== undefined) await this.#forget(begun)
      },
    }
  }

  /** What ended is durable: files and holds are flushed as they are made. */
  async flush(): Promise<void> {
    await Promise.resolve()
  }

  /**
   * Adds uses of these blobs of the batch to a transaction, one for each time a reference is there. SIS_STALE if a sweep was faster:
   * then nothing may be committed.
   */
  record(tx: ReferenceTransaction, refs: readonly Uint8Array[]): void {
    const counts = new Map<Plan, number>()
    for (const ref of refs) {
      const plan = this.#plans.get(toHex(ref))
      if (plan === undefined) throw new TypeError(`${toHex(ref)} is not of this batch`)
      counts.set(plan, (counts.get(plan) ?? 0) + 1)
    }
    for (const [plan, uses] of counts) this.#store.record(tx, plan, uses)
  }

  /** What no transaction was told of is given back. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    for (const spool of this.#open) await spool.discard()
    for (const plan of this.#plans.values()) await this.#store.leave(plan)
  }

  async #end(spool: Spool): Promise<BlobSaved> {
    try {
      const { plan, joined } = await this.#store.plan(spool)
      const ref = refOf(plan)
      const hex = toHex(ref)
      const known = this.#plans.get(hex)
      if (known === undefined) this.#plans.set(hex, plan)
      else await this.#store.leave(plan)
      return { ref, size: plan.size, shared: plan.shared || joined }
    } finally {
      await this.#forget(spool)
    }
  }

  async #forget(spool: Spool): Promise<void> {
    this.#open.delete(spool)
    await spool.discard()
  }
}
