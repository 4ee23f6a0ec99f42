/**
 * A closed index with everything an index may hold, the same bytes each time: a root marker; a log of several segments with
 * frames of each kind; snapshots with old directories and old pages; both lists; caches with directories.
 */
import { type Fs, initRoot } from '@mailstead/fs'
import { type MemoryFsOptions, memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import type { Index, Table } from '../src/index.ts'
import { encodeDirectory } from '../src/lib/cache-directory.ts'
import { recordAt, tableSeed } from '../src/lib/cache-record.ts'
import { openIndex } from '../src/lib/open-index.ts'
import { imageOf } from './image-fs.ts'
import { Random } from './random.ts'

export interface StoreToMake {
  readonly seed: number
  readonly messages: number
  readonly segmentBytes: number
}

export const MAILBOXES = ['inbox', 'archive', 'mailbox-00112233445566778899aabbccddeeff'] as const
export const COLUMNS = ['ref', 'guid', 'uses', 'size'] as const
export const FIELDS = ['envelope', 'body', 'nothing'] as const
const BATCH = 6
const LOCKS = ['lock', 'open', 'checkpoint']

/** The files of it, below `index/`, beside the root marker. */
export async function sealedStore(
  toMake: StoreToMake,
  supports: MemoryFsOptions = {},
): Promise<Map<string, Uint8Array>> {
  const fs = memoryFs(supports)
  await writeStore(fs, toMake)
  const image = await imageOf(fs)
  for (const lock of LOCKS) image.delete(`index/${lock}`)
  for (const [path, bytes] of image) if (path.endsWith('.cache')) image.set(path, withDirectories(path, bytes))
  return image
}

/** A cache with the two directories that whoever opens a long one leaves: of its first half, and of the rest. */
function withDirectories(path: string, file: Uint8Array): Uint8Array {
  const seed = tableSeed(path.slice(path.lastIndexOf('/') + 1, -'.cache'.length))
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.length)
  const records: [uid: number, at: number][] = []
  for (let at = 0; at < bytes.length; ) {
    const uid = bytes.readUInt32LE(at + 8)
    if (uid > 0) records.push([uid, at])
    at += recordAt(bytes, at, bytes.length, seed)
  }
  const half = records.length >> 1
  const to = records[half]![1]
  const listed = (list: typeof records): Uint32Array => Uint32Array.from(list.flat())
  const first = encodeDirectory({ from: 0, to, before: -1, records: listed(records.slice(0, half)) }, seed)
  const rest = { from: to, to: bytes.length, before: bytes.length, records: listed(records.slice(half)) }
  return new Uint8Array(Buffer.concat([bytes, first, encodeDirectory(rest, seed)]))
}

export async function writeStore(fs: Fs, { seed, messages, segmentBytes }: StoreToMake): Promise<void> {
  const random = new Random(seed)
  const options = {
    segmentBytes,
    checkpointBytes: 1 << 30,
    now: () => 1_700_000_000_000,
    random: (bytes: Uint8Array) => random.fill(bytes),
  }
  await initRoot(fs, 'index', options)
  let index = await openIndex(fs, 'index', { ...options, create: true })
  {
    await using tx = index.begin()
    tx.createTable({
      id: 'box',
      uidValidity: 1,
      columns: [
        { name: 'uses', bytes: 4 },
        { name: 'size', bytes: 6, summed: true },
      ],
    })
    for (const [i, id] of MAILBOXES.entries())
      tx.createTable({
        id,
        uidValidity: 100 + i,
        columns: [
          { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
          { name: 'guid', bytes: 16 },
          { name: 'size', bytes: 6, summed: true },
        ],
      })
    tx.createTable({ id: 'gone', uidValidity: 9, columns: [] })
    tx.setValue('inbox', 'name', Buffer.from('INBOX'))
    await tx.commit()
  }
  for (let n = 0; n < messages; n += BATCH) {
    await deliver(index, random, n, Math.min(BATCH, messages - n))
    const done = n / messages
    const at = (part: number): boolean => done < part && (n + BATCH) / messages >= part
    if (at(0.3)) {
      await using tx = index.begin()
      tx.dropTable('gone')
      await tx.commit()
    }
    if (at(0.4) || at(0.55) || at(0.75)) await index.checkpoint()
    // Closed and opened again: the log is sealed more than once.
    if (at(0.6)) {
      await index[Symbol.asyncDispose]()
      index = await openIndex(fs, 'index', options)
    }
  }
  await index[Symbol.asyncDispose]()
}

async function deliver(index: Index, random: Random, first: number, count: number): Promise<void> {
  const id = MAILBOXES[random.below(5)] ?? 'inbox'
  {
    await using tx = index.begin()
    for (let i = 0; i < count; i++) {
      const size = 500 + random.below(20_000)
      const ref = tx.append('box', { columns: { size } })
      const keywords = random.below(4) === 0 ? [random.pick(['$Label1', '$Junk', 'later', 'Ärger'])] : []
      const flags = random.below(32)
      tx.append(id, { flags, keywords, columns: { ref, size, guid: guidOf(first + i) } })
      if (random.below(6) === 0) tx.append('archive', { keywords, columns: { ref, size, guid: guidOf(first + i) } })
    }
    await tx.commit()
  }
  const { uidNext } = index.info(id)!
  const some = (): UidSet => UidSet.of(1 + random.below(uidNext - 1), 1 + random.below(uidNext - 1))
  await using tx = index.begin()
  switch (random.below(5)) {
    case 0:
      tx.changeFlags(id, some(), { add: 8, addKeywords: ['$Forwarded'] })
      break
    case 1:
      tx.changeFlags(id, some(), { remove: 4, removeKeywords: ['$Junk'] })
      break
    case 2:
      tx.expunge(id, some())
      break
    case 3:
      tx.setValue(id, `key-${random.below(5)}`, random.below(4) === 0 ? undefined : Buffer.from(`value ${first}`))
      break
    default:
      tx.changeFlags(id, some(), { add: 1 })
  }
  await tx.commit(random.below(3) === 0 ? { durability: 'lazy' } : {})
  await using table = (await index.open(id))!
  cache(table, random)
}

/** Keeps something of the last rows: the envelope of each, and the body of some. */
function cache(table: Table, random: Random): void {
  const { view } = table
  const guid = view.extension('guid')!
  for (let row = Math.max(0, view.count - BATCH); row < view.count; row += 2) {
    const fields: [string, Uint8Array][] = [['envelope', envelopeOf(guid.value(row))]]
    if (random.below(3) === 0) fields.push(['body', bodyOf(guid.value(row))])
    table.cacheWrite([{ uid: view.uid(row), guid: guid.value(row), fields }])
  }
}

function guidOf(n: number): Uint8Array {
  const guid = new Uint8Array(16)
  new Random(n).fill(guid)
  return guid
}
const envelopeOf = (guid: Uint8Array): Uint8Array =>
  Buffer.from(`("${Buffer.from(guid.subarray(0, 6)).toString('hex')}" NIL)`)
const bodyOf = (guid: Uint8Array): Uint8Array => Buffer.from(`("TEXT" "PLAIN" NIL NIL NIL "7BIT" ${guid[0]} 1)`)

/** What an index says of one table, in parts; a part that is refused is the code of its error. */
export interface Said {
  readonly info: string
  readonly rows: string
  /** Value by UID and field. Absent ones are left out: a cache owes nothing. */
  readonly cached: ReadonlyMap<string, string>
}

/** Everything that an index says. */
export async function everything(index: Index): Promise<ReadonlyMap<string, Said>> {
  const said = new Map<string, Said>()
  for (const info of index.tables) {
    const cached = new Map<string, string>()
    let rows: string
    try {
      await using table = (await index.open(info.id))!
      rows = await rowsOf(table, cached)
    } catch (error) {
      rows = codeOf(error)
    }
    said.set(info.id, { info: JSON.stringify(info), rows, cached })
  }
  return said
}

function codeOf(error: unknown): string {
  const { name, code, table } = error as { name?: string; code?: string; table?: string }
  if (name !== 'IndexError') throw error
  return `${code} ${table ?? ''}`
}

async function rowsOf(table: Table, cached: Map<string, string>): Promise<string> {
  const { view } = table
  const columns = COLUMNS.flatMap((name) => view.extension(name) ?? [])
  await view.load(COLUMNS)
  const fields = FIELDS.map((name) => [name, view.cache(name)] as const)
  const lines: string[] = [
    [view.uidValidity, view.uidNext, view.highestModSeq, view.count, view.unseen, view.deleted, view.bytes].join(' '),
    view.digest,
  ]
  for (let row = 0; row < view.count; row++) {
    const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k])
    const uid = view.uid(row)
    const values = columns.map((column) => Buffer.from(column.value(row)).toString('hex'))
    lines.push([uid, view.flags(row), view.modSeq(row), ...values, ...keywords].join(' '))
    for (const [name, column] of fields) {
      const value = column.value(row)
      if (value !== undefined) cached.set(`${uid} ${name}`, Buffer.from(value).toString('latin1'))
    }
  }
  for (const [key, value] of view.values) lines.push(`${key}=${Buffer.from(value).toString('hex')}`)
  for (let modSeq = 0; modSeq <= view.highestModSeq; modSeq += 7)
    lines.push(`${modSeq}: ${table.expungedSince(modSeq)?.toString()}`)
  return lines.join('\n')
}
