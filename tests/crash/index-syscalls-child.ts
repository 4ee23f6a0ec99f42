/**
 * A process that does everything to an index that writes its files, for tests whose system calls fail or kill.
 *
 * Arguments: the root of the file system, and the call by which it prints (`write` or `writev`: the one that does not fail).
 * For each line `<path> <number>` that it reads it makes a round of work on the index there, giving what it makes numbers from
 * that one on; a third word says that the index was harmed and is to be repaired first. It prints what it is about to do before it asks for it, and what became of it (`Said`), a line of JSON each.
 */
import { writeSync, writevSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { type Fs, FsError } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import {
  FLAG_ANSWERED,
  FLAG_FLAGGED,
  FLAG_SEEN,
  type Index,
  IndexError,
  openIndex,
  repairIndex,
  type Table,
} from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import { createBoxAndInbox } from '../../packages/index/test/schema.ts'
import {
  CACHE_FIELD,
  type Change,
  cachedOf,
  guidOf,
  numberOf,
  SMALL,
  type Said,
  valueKey,
} from './index-syscalls-model.ts'

const [root, printing] = process.argv.slice(2) as [string, 'write' | 'writev']
/** So often something is tried: faults are further apart than that. */
const ATTEMPTS = 4
/** How long a compaction is waited for, in milliseconds: it may have failed, which nobody tells. */
const COMPACTION_MS = 300
/** Three times this for each message is enough to be compacted. */
const ROWS = 8

function say(...said: Said): void {
  const text = JSON.stringify(said)
  if (printing === 'write') writeSync(1, `${text}\n`)
  else writevSync(1, [Buffer.from(text), Buffer.from('\n')])
}

let asked = 0

class Round {
  readonly #fs: Fs
  readonly #path: string
  #next: number
  #index!: Index
  /** Messages of which nobody knows: they are let alone. */
  readonly #doubtful = new Set<number>()
  #mustReopen = false

  constructor(fs: Fs, path: string, first: number) {
    this.#fs = fs
    this.#path = path
    this.#next = first
  }

  async run(harmed: boolean): Promise<void> {
    if (harmed) await this.#repair()
    await this.#open()
    if (this.#index.info('inbox') === undefined)
      await this.#insist(() => [
        { kind: 'create', table: 'box' },
        { kind: 'create', table: 'inbox' },
      ])
    await this.#insist(() => [this.#delivery()])
    await this.#insist(() => [this.#delivery(), this.#delivery()])
    // What waits together is one group.
    const together = [1, 2, 3].map(() => this.#commit([this.#delivery()]))
    for (const done of await Promise.all(together)) if (!done) await this.#insist(() => [this.#delivery()])
    await this.#afterDoubt()
    for (const flag of [FLAG_SEEN, FLAG_FLAGGED])
      await this.#insist(() => this.#onOne((one) => ({ kind: 'flag', ...one, flag })), 'lazy')
    await this.#insist(() => this.#onOne((one) => ({ kind: 'flag', ...one, flag: FLAG_ANSWERED })))
    await this.#checkpoint()
    await this.#insist(() => this.#onOne((one) => ({ kind: 'expunge', ...one })))
    while ((this.#index.info('inbox')?.count ?? 0) < ROWS) await this.#insist(() => [this.#delivery()])
    await this.#cache()
    const extra = `extra-${this.#next}`
    await this.#insist(() => [{ kind: 'create', table: extra }, this.#delivery()])
    await this.#checkpoint()
    await this.#insist(() => this.#onOne((one) => ({ kind: 'flag', ...one, flag: FLAG_FLAGGED })), 'lazy')
    await this.#insist(() => [{ kind: 'drop', table: extra }, this.#delivery()])
    await this.#reopen()
    await this.#insist(() => [this.#delivery()])
    await this.#index[Symbol.asyncDispose]()
    await this.#harm()
    await this.#repair()
    say('end')
  }

  async #open(): Promise<void> {
    await this.#attempt('open', async () => {
      this.#index = await openIndex(this.#fs, this.#path, { create: true, ...SMALL })
    })
  }

  async #reopen(): Promise<void> {
    await this.#index[Symbol.asyncDispose]()
    await this.#open()
  }

  /** Whoever was told that nobody knows opens the index again. */
  async #afterDoubt(): Promise<void> {
    if (!this.#mustReopen) return
    this.#mustReopen = false
    await this.#reopen()
  }

  /** Something that may fail with the storage, and that can be done again. */
  async #attempt(what: string, run: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt++)
      try {
        return await run()
      } catch (error) {
        if (!(error instanceof FsError) && !(error instanceof IndexError)) throw error
        say('failed', what, error.code, causeOf(error))
        if (attempt === ATTEMPTS) throw error
      }
  }

  /** Commits until it is done: whatever failed does so no more. */
  async #insist(
    make: () => readonly Change[] | Promise<readonly Change[]>,
    durability: 'lazy' | 'flushed' = 'flushed',
  ): Promise<void> {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const done = await this.#commit(await make(), durability)
      await this.#afterDoubt()
      if (done) return
    }
    throw new Error(`refused ${ATTEMPTS} times`)
  }

  async #commit(changes: readonly Change[], durability: 'lazy' | 'flushed' = 'flushed'): Promise<boolean> {
    const index = this.#index
    const tx = index.begin()
    const uids: { readonly uid: number }[] = []
    const creates = changes.filter(({ kind }) => kind === 'create').length === 2
    if (creates) createBoxAndInbox(tx)
    for (const change of changes) {
      if (change.kind === 'deliver') {
        const ref = tx.append('box', { columns: { size: change.n } })
        uids.push(tx.append('inbox', { columns: { ref, guid: guidOf(change.n) } }))
        tx.setValue('inbox', valueKey(change.n), guidOf(change.n))
      } else if (change.kind === 'flag') tx.changeFlags('inbox', UidSet.of(change.uid), { add: change.flag })
      else if (change.kind === 'expunge') {
        tx.expunge('inbox', UidSet.of(change.uid), { mustExist: true })
        tx.setValue('inbox', valueKey(change.n), undefined)
      } else if (change.kind === 'drop') tx.dropTable(change.table)
      else if (!creates) tx.createTable({ id: change.table, uidValidity: 7, columns: [] })
    }
    const id = ++asked
    say('ask', id, changes)
    try {
      await tx.commit({ durability })
    } catch (error) {
      if (!(error instanceof IndexError)) throw error
      say('refused', id, error.code, causeOf(error))
      if (error.code === 'INDEX_UNCERTAIN') {
        this.#mustReopen = true
        for (const change of changes) if ('n' in change) this.#doubtful.add(change.n)
      }
      return false
    }
    const { uidNext, highestModSeq } = index.info('inbox')!
    say(
      'done',
      id,
      uids.map(({ uid }) => uid),
      uidNext,
      highestModSeq,
    )
    return true
  }

  #delivery(): Change {
    return { kind: 'deliver', n: this.#next++ }
  }

  /** A change of the first message that is known to be there. */
  async #onOne(make: (one: { readonly n: number; readonly uid: number }) => Change): Promise<readonly Change[]> {
    let made: readonly Change[] | undefined
    await this.#attempt('open a table', async () => {
      await using inbox = (await this.#index.open('inbox'))!
      const { view } = inbox
      const guids = view.extension('guid')!
      for (let row = 0; row < view.count && made === undefined; row++) {
        const n = numberOf(guids.value(row))
        if (!this.#doubtful.has(n)) made = [make({ n, uid: view.uid(row) })]
      }
    })
    if (made === undefined) throw new Error('no message is known')
    return made
  }

  async #checkpoint(): Promise<void> {
    await this.#attempt('checkpoint', () => this.#index.checkpoint())
  }

  /** Fills the cache and makes it due to be compacted. Nothing here ever fails. */
  async #cache(): Promise<void> {
    let inbox: Table | undefined
    await this.#attempt('open a table', async () => {
      inbox = await this.#index.open('inbox')
    })
    await using table = inbox!
    const { view } = table
    const guids = view.extension('guid')!
    for (let time = 0; time < 3; time++) {
      for (let row = 0; row < view.count; row++) {
        const guid = guids.value(row).slice()
        const fields = [[CACHE_FIELD, cachedOf(numberOf(guid))]] as const
        table.cacheWrite([{ uid: view.uid(row), guid, fields }])
      }
      // Written at the end of the turn.
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
    const path = `${this.#path}/cache/inbox.cache`
    const sizeOf = async (): Promise<number> => (await this.#fs.stat(path).catch(() => undefined))?.size ?? 0
    const before = 3 * view.count * cachedOf(0).length
    for (const end = Date.now() + COMPACTION_MS; Date.now() < end; ) {
      // Whoever asks finds that it is due.
      view.cache(CACHE_FIELD).value(0)
      await new Promise<void>((resolve) => setTimeout(resolve, 1))
      const size = await sizeOf()
      if (size === 0 || size >= before) continue
      say('compacted')
      break
    }
    const guid = guids.value(0).slice()
    table.cacheWrite([{ uid: view.uid(0), guid, fields: [[CACHE_FIELD, cachedOf(numberOf(guid))]] }])
  }

  /** Loses the control file and the list of tables, which a repair makes anew. */
  async #harm(): Promise<void> {
    say('harmed')
    for (const name of ['control', 'tables/directory'])
      await this.#attempt('harm', async () => {
        await this.#fs.writeFile(`${this.#path}/${name}`, Buffer.alloc(1024, 0x55))
      })
  }

  async #repair(): Promise<void> {
    await this.#attempt('repair', async () => {
      for await (const _ of repairIndex(this.#fs, this.#path));
    })
    say('repaired')
  }
}

/** What lies below an error. */
function causeOf(error: IndexError | FsError): string | undefined {
  const { cause } = error
  return cause instanceof FsError || cause instanceof IndexError ? cause.code : undefined
}

const fs = await posixFs(root)
say('ready')
for await (const line of createInterface({ input: process.stdin })) {
  const [path, first, harmed] = line.split(' ') as [string, string, string | undefined]
  try {
    await new Round(fs, path, Number(first)).run(harmed !== undefined)
  } catch (error) {
    say('stuck', error instanceof Error ? (error.stack ?? error.message) : String(error))
  }
}
