/** Stores with some history, ways to damage them, and everything that can be read of what is left. */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import {
  FLAG_DELETED,
  FLAG_FLAGGED,
  FLAG_SEEN,
  type Index,
  type IndexTransaction,
  type Table,
} from '../src/lib/contract.ts'
import { IndexError } from '../src/lib/error.ts'
import { openIndex } from '../src/lib/open-index.ts'
import { repairIndex, type RepairOptions } from '../src/lib/repair.ts'
import type { RepairRecord } from '../src/lib/repair-record.ts'
import { OBJECTS } from './image-fs.ts'
import { createBoxAndInbox } from './schema.ts'

export const path = 'store'

/** What the log is kept in. */
export const media = ['file', 'objects'] as const

/** An empty file system for one of them. */
export function emptyFs(medium: (typeof media)[number]): Fs {
  return memoryFs(medium === 'objects' ? OBJECTS : {})
}

/** Of a log in objects, which are many, some segments, and the last; and every other file. */
export function someOf(files: readonly string[], random: (below: number) => number): string[] {
  const logs = files.filter((file) => file.endsWith('.log'))
  const some = new Set([...Array.from({ length: 5 }, () => logs[random(logs.length)]!), logs.at(-1)!])
  return files.filter((file) => !file.endsWith('.log') || some.has(file))
}

export function randomOf(seed: number): (below: number) => number {
  let state = seed * 7919 + 1
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) % below
  }
}

export async function commit(index: Index, build: (tx: IndexTransaction) => void, lazy = false): Promise<void> {
  await using tx = index.begin()
  build(tx)
  await tx.commit(lazy ? { durability: 'lazy' } : {})
}

/** A store with some history: checkpoints, segments, dropped tables, keywords, values, caches. */
export async function build(fs: Fs, seed: number, end: 'sealed' | 'open' = 'sealed'): Promise<void> {
  const random = randomOf(seed)
  let index = await openIndex(fs, path, { create: true, segmentBytes: 3000 })
  await commit(index, (tx) => {
    createBoxAndInbox(tx)
    for (const id of ['sent', 'gone', 'tree']) tx.createTable({ id, uidValidity: 9, columns: [] })
  })
  for (let step = 0; step < 40; step++) {
    const n = 1 + random(60)
    switch (random(9)) {
      case 0:
        await commit(index, (tx) => tx.changeFlags('inbox', UidSet.range(n, n + 5), { add: 1 << random(5) }))
        break
      case 1:
        await commit(index, (tx) =>
          tx.changeFlags('inbox', UidSet.of(n), { add: FLAG_SEEN, addKeywords: [`k${random(5)}`] }),
        )
        break
      case 2:
        await commit(index, (tx) => tx.expunge('inbox', UidSet.of(n)))
        break
      case 3:
        await commit(index, (tx) => tx.setValue('tree', `box${random(9)}`, Buffer.from(`${n}`)))
        break
      case 4:
        await index.checkpoint()
        break
      case 5:
        await commit(index, (tx) => tx.changeFlags('inbox', UidSet.of(n), { add: FLAG_FLAGGED }), true)
        break
      default:
        await commit(index, (tx) => {
          const ref = tx.append('box', { columns: { size: n } })
          tx.append('inbox', {
            flags: random(2) === 0 ? FLAG_SEEN : 0,
            keywords: random(4) === 0 ? [`k${random(5)}`] : [],
            columns: { ref, guid: Buffer.alloc(16, step + 1) },
          })
          if (random(2) === 0) tx.append('sent', { flags: FLAG_DELETED })
        })
    }
    if (step === 20 && index.info('gone') !== undefined) await commit(index, (tx) => tx.dropTable('gone'))
    if (random(8) === 0) {
      {
        await using inbox = (await index.open('inbox'))!
        const { view } = inbox
        if (view.count > 0)
          inbox.cacheWrite([
            {
              uid: view.uid(0),
              guid: Uint8Array.from(view.extension('guid')!.value(0)),
              fields: [['a', Buffer.from('b')]],
            },
          ])
      }
      await index[Symbol.asyncDispose]()
      index = await openIndex(fs, path, { segmentBytes: 3000 })
    }
  }
  if (end === 'sealed') await index[Symbol.asyncDispose]()
  else await (index as Index & { abandon(): Promise<void> }).abandon()
}

export interface Readable {
  readonly uidNext: number
  readonly highestModSeq: number
  /** By UID: what can be read of the row, by column. */
  readonly rows: ReadonlyMap<number, ReadonlyMap<string, string>>
  readonly values: string
}

/** Everything that can be read of an index, whatever is damaged. */
export async function readAll(fs: Fs): Promise<Map<string, Readable>> {
  const found = new Map<string, Readable>()
  let index: Index
  try {
    index = await openIndex(fs, path, { readOnly: true })
  } catch (error) {
    if (!(error instanceof IndexError)) throw error
    return found
  }
  await using opened = index
  for (const { id } of opened.tables) {
    let table: Table | undefined
    try {
      table = await opened.open(id)
    } catch (error) {
      if (!(error instanceof IndexError)) throw error
      continue
    }
    if (table === undefined) continue
    const { view } = table
    const rows = new Map<number, Map<string, string>>()
    for (let row = 0; row < view.count; row++) {
      const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!)
      const base = [['base', `${view.flags(row)} ${view.modSeq(row)} ${keywords.sort().join(' ')}`]] as const
      rows.set(view.uid(row), new Map(base))
    }
    for (const name of ['guid', 'size'])
      try {
        await view.load([name])
        const column = view.extension(name)
        for (let row = 0; column !== undefined && row < view.count; row++)
          rows.get(view.uid(row))!.set(name, Buffer.from(column.value(row)).toString('hex'))
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
      }
    const values = [...view.values].map(([key, value]) => `${key}=${Buffer.from(value).toString()}`).sort()
    found.set(id, { uidNext: view.uidNext, highestModSeq: view.highestModSeq, rows, values: values.join(' ') })
  }
  return found
}

export async function filesOf(fs: Fs, directory: string = path): Promise<string[]> {
  const files: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      if (kind === 'directory') files.push(...(await filesOf(fs, `${directory}/${name}`)))
      else if (!['lock', 'open', 'checkpoint'].includes(name)) files.push(`${directory}/${name}`)
    }
  return files.sort()
}

/** Files of a file system on another of the same kind. */
export async function copyTo(from: Fs, files: readonly string[]): Promise<Fs> {
  const fs = memoryFs(from.supports)
  for (const file of files) {
    await fs.makeDirectory(file.slice(0, file.lastIndexOf('/')))
    await fs.writeFile(file, await from.readFile(file))
  }
  return fs
}

export async function repair(fs: Fs, options: RepairOptions = {}): Promise<RepairRecord[]> {
  const records: RepairRecord[] = []
  for await (const page of repairIndex(fs, path, options)) records.push(...page)
  return records
}

export async function damageOf(fs: Fs): Promise<string[]> {
  await using index = await openIndex(fs, path, { readOnly: true })
  const found: string[] = []
  for await (const page of index.check())
    for (const one of page) if (one.severity === 'damage') found.push(`${one.kind} ${one.file} ${one.message}`)
  return found
}

export type Damage = 'bit' | 'block' | 'cut' | 'gone' | 'many bits'
export const damages: readonly Damage[] = ['bit', 'block', 'cut', 'gone', 'many bits']

export async function harm(fs: Fs, file: string, damage: Damage, random: (below: number) => number): Promise<void> {
  const bytes = Uint8Array.from(await fs.readFile(file))
  const at = random(Math.max(1, bytes.length))
  if (damage === 'gone') {
    await fs.remove(file)
    return
  }
  if (damage === 'bit') bytes[at]! ^= 1 << random(8)
  else if (damage === 'many bits') for (let i = 0; i < 6; i++) bytes[random(bytes.length)]! ^= 1 << random(8)
  else if (damage === 'block') bytes.fill(0, at, Math.min(bytes.length, at + 512))
  await fs.writeFile(file, damage === 'cut' ? bytes.subarray(0, at) : bytes)
}
