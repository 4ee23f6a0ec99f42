/**
 * One task over a table of very many blobs, in a process of its own: `node sis-large-child.ts make|sweep DIRECTORY ROWS`. Prints one line of
 * JSON. The table is one of a store's index, on disk. Files of blobs are not: a driver lists and removes names, so that the memory of a sweep
 * is what is measured, and not a million files.
 *
 *   make    rows of which every second one has had no uses for two days; so many blobs as rows
 *   sweep   with a grace period of a day: drops those rows, and removes their files
 */
import { readFileSync } from 'node:fs'
import type { Fs, FsEntry } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { openIndex, transactLent } from '@mailstead/index'
import { attachments, BLOB_COLUMNS, type ReferenceHost } from '@mailstead/sis'

export interface SisLargeRun {
  readonly rows: number
  /** Rows dropped and files removed. */
  readonly dropped: number
  readonly removed: number
  readonly seconds: number
  readonly cpuSeconds: number
  /** Most memory of the process, in MB. */
  readonly memory: number
}

const TABLE = 'blobs'
const DAY_S = 86_400
/** Rows appended in one frame. */
const FRAME_ROWS = 10_000
const PREFIXES = 256
const PAGE = 1024
/** Where in a key the number of its blob is. */
const NUMBER_AT = 8
/** Characters of a name: key, dash, instance. */
const NAME_LENGTH = 64 + 1 + 16
/** Epoch of the table, so that files of epoch 0 are old. */
const EPOCH = 5

/** Of blob `n`: its directory is n modulo 256, then bytes as evenly spread as those of a hash, then n. */
function keyOf(n: number): Buffer {
  const key = Buffer.alloc(32, 0xab)
  key.writeUInt32BE(Math.imul(n ^ (n >>> 15), 0x9e3779b1) >>> 0, 1)
  key.writeUInt32BE(Math.imul(n ^ (n >>> 13), 0x85ebca6b) >>> 0, 4)
  key[0] = n % PREFIXES
  key.writeUInt32BE(n, NUMBER_AT)
  return key
}

function instanceOf(n: number): Buffer {
  const instance = Buffer.alloc(8)
  instance.writeUInt32BE(n, 4)
  return instance
}

function isUsed(n: number): boolean {
  return n % 512 >= PREFIXES
}

async function make(directory: string, rows: number): Promise<void> {
  await using fs = await posixFs(directory, { create: true })
  await using index = await openIndex(fs, 'index', { create: true })
  {
    await using tx = index.begin()
    tx.createTable({ id: TABLE, columns: BLOB_COLUMNS, uidValidity: 1 })
    const epoch = Buffer.alloc(4)
    epoch.writeUInt32LE(EPOCH)
    tx.setValue(TABLE, 'epoch', epoch)
    await tx.commit()
  }
  const since = Math.floor(Date.now() / 1000) - 2 * DAY_S
  for (let from = 0; from < rows; from += FRAME_ROWS) {
    await using tx = index.begin()
    for (let n = from; n < Math.min(rows, from + FRAME_ROWS); n++) {
      const used = isUsed(n)
      const instance = instanceOf(n)
      tx.append(TABLE, {
        columns: {
          key: keyOf(n),
          instance,
          hold: instance,
          size: 200_000,
          stored: 150_000,
          since: used ? 0 : since,
          uses: used ? 1 : 0,
        },
      })
    }
    await tx.commit()
  }
  await index.checkpoint()
}

async function sweep(directory: string, rows: number): Promise<Omit<SisLargeRun, 'memory'>> {
  await using fs = await posixFs(directory)
  await using index = await openIndex(fs, 'index')
  await using table = (await index.open(TABLE))!
  const host: ReferenceHost = {
    table,
    storeId: index.uuid,
    transact: (body) => transactLent(index, 'uses', body),
    refresh: () => index.refresh(),
  }
  const names = new Names(rows)
  const format = attachments(names.fs(), 'attachments', { key: Buffer.alloc(32, 1) })
  await using store = await format.open(host)
  const started = performance.now()
  const before = process.cpuUsage()
  const report = await store.sweep({ graceMs: DAY_S * 1000 })
  const { user, system } = process.cpuUsage(before)
  const seconds = (performance.now() - started) / 1000
  if (names.removedUsed > 0) throw new Error(`${names.removedUsed} files were removed that are used`)
  return { rows, dropped: report.rows, removed: report.blobs, seconds, cpuSeconds: (user + system) / 1e6 }
}

/** Names of so many blobs, as a directory of them has them; one bit is kept for each. */
class Names {
  readonly #gone: Uint8Array
  readonly #rows: number
  removedUsed = 0

  constructor(rows: number) {
    this.#rows = rows
    this.#gone = new Uint8Array(Math.ceil(rows / 8))
  }

  fs(): Fs {
    const memory = memoryFs()
    const list = (path: string): AsyncIterable<readonly FsEntry[]> => this.#list(path)
    const numberOf = (path: string): number => Buffer.from(path.slice(-NAME_LENGTH), 'hex').readUInt32BE(NUMBER_AT)
    return new Proxy(memory, {
      get: (target, name): unknown => {
        if (name === 'list') return list
        if (name === 'stat')
          return async () => Promise.resolve({ kind: 'file' as const, size: 150_000, modifiedMs: 0, tag: '' })
        if (name === 'remove')
          return async (path: string) => {
            const n = numberOf(path)
            if (isUsed(n)) this.removedUsed++
            this.#gone[n >> 3]! |= 1 << (n & 7)
            return Promise.resolve()
          }
        const value: unknown = Reflect.get(target, name)
        return typeof value === 'function' ? (value.bind(target) as unknown) : value
      },
    })
  }

  async *#list(path: string): AsyncGenerator<readonly FsEntry[]> {
    const name = path.slice(path.lastIndexOf('/') + 1)
    if (name === 'attachments') {
      yield Array.from({ length: PREFIXES }, (_, n) => ({
        name: n.toString(16).padStart(2, '0'),
        kind: 'directory' as const,
      }))
      return
    }
    if (name.length !== 2) return
    let page: FsEntry[] = []
    for (let n = Number.parseInt(name, 16); n < this.#rows; n += PREFIXES) {
      if ((this.#gone[n >> 3]! & (1 << (n & 7))) !== 0) continue
      page.push({ name: `${keyOf(n).toString('hex')}-${instanceOf(n).toString('hex')}`, kind: 'file' })
      if (page.length < PAGE) continue
      yield await Promise.resolve(page)
      page = []
    }
    if (page.length > 0) yield page
  }
}

if (import.meta.main) {
  const [task, directory, rows] = process.argv.slice(2)
  if (task === 'make') {
    await make(directory!, Number(rows))
    process.stdout.write('{}')
  } else {
    const found = await sweep(directory!, Number(rows))
    const memory = Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'latin1'))![1]) / 1000
    process.stdout.write(JSON.stringify({ ...found, memory }))
  }
}
