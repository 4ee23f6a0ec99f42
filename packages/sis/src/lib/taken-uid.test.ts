/**
 * What a process takes for a row may be no row yet, or another's by now: two processes on an object store take the same UID, and a search goes on
 * while rows come.
 */
import { randomBytes } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { Journal } from './journal.ts'
import { KeyIndex, type ReferenceColumn, type ReferenceHost } from './references.ts'
import { openSis } from './sis.ts'

const objects = (): Fs => memoryFs({ append: false, overwrite: false, rename: false, link: false, lock: false })

/** The same files; `before` is called with the path of each that is to be written. */
function watched(fs: Fs, before: (path: string) => Promise<void>): Fs {
  return new Proxy(fs, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      const call = value.bind(target) as (...args: unknown[]) => unknown
      if (name !== 'writeFile') return call
      return async (...args: unknown[]) => {
        await before(String(args[0]))
        return call(...args)
      }
    },
  })
}

function row(key: Uint8Array): { readonly columns: Readonly<Record<string, Uint8Array | number>> } {
  const instance = new Uint8Array(8)
  return { columns: { key, instance, hold: instance, size: 1, stored: 1, since: 0, uses: 1 } }
}

test('a use of a row that was not written after all is not counted for the row that another has in its place', async () => {
  const fs = objects()
  const [one, two] = [randomBytes(1000), randomBytes(2000)]
  await (await openSis(fs, 'a', { create: true }))[Symbol.asyncDispose]()
  await using other = await openSis(fs, 'a')
  const refs: Uint8Array[] = []
  let armed = false
  let second: Promise<{ readonly ref: Uint8Array }> | undefined
  const behind = watched(fs, async (path) => {
    if (!armed || path !== 'a/journal') return
    armed = false
    second = sis.put(one)
    // It waits for the first one's write, which is refused, since another process is faster.
    for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve))
    refs.push((await other.put(two)).ref)
  })
  await using sis = await openSis(behind, 'a')
  armed = true
  refs.push((await sis.put(one)).ref)
  refs.push((await second!).ref)
  const references = async function* (): AsyncGenerator<readonly Uint8Array[]> {
    yield refs
  }
  expect((await Array.fromAsync(sis.check({ references: references() }))).flat()).toEqual([])
})

test('a row is found although another row was seen with its UID and not written', async () => {
  const fs = objects()
  const [one, two] = [randomBytes(32), randomBytes(32)]
  const random = (bytes: Uint8Array): void => bytes.set(randomBytes(bytes.length))
  const options = { create: true, salvage: false, lost: false, lockWaitMs: 1000, random }
  await using other = await Journal.open(fs, 'a', options)
  let armed = false
  const behind = watched(fs, async (path) => {
    if (!armed || path !== 'a/journal') return
    armed = false
    await keys.update()
    await other.transact((tx) => tx.append('blobs', row(two)))
  })
  await using journal = await Journal.open(behind, 'a', options)
  const keys = new KeyIndex(journal)
  armed = true
  await journal.transact((tx) => tx.append('blobs', row(one)))
  expect(await keys.find(one)).toHaveLength(1)
  expect(await keys.find(two)).toHaveLength(1)
})

test('a search finds all rows of a key although rows come, and others go, while it reads', async () => {
  const wanted = randomBytes(32)
  let uids: number[] = []
  let keysOf = new Map<number, Uint8Array>()
  let reads = 0
  let onRead: (() => void) | undefined
  const view = (): ReferenceHost['table']['view'] => {
    const [rows, keys] = [uids, keysOf]
    const column = (name: string): ReferenceColumn => ({
      number: () => 1,
      value: (at) => (name === 'key' ? keys.get(rows[at]!)! : new Uint8Array(8)),
    })
    return {
      count: rows.length,
      uid: (at) => rows[at]!,
      rowOf: (uid) => rows.indexOf(uid),
      extension: column,
      load: async (names) => {
        if (names.length > 1 && reads++ === 0) onRead?.()
        await new Promise((resolve) => setImmediate(resolve))
      },
    }
  }
  const table = { id: 'blobs', view: view() }
  const host = { table, storeId: new Uint8Array(16) } as unknown as ReferenceHost
  const show = (all: readonly (readonly [number, Uint8Array])[]): void => {
    uids = all.map(([uid]) => uid)
    keysOf = new Map(all)
    table.view = view()
  }
  for (const [before, after] of [
    [40, 200], // the table of keys grows
    [1500, 100], // rows are gone, and it is made anew
  ] as const) {
    const keys = new KeyIndex(host)
    const filler = (count: number, from: number): [number, Uint8Array][] =>
      Array.from({ length: count }, (_, at) => [from + at, randomBytes(32)])
    const both: [number, Uint8Array][] = [
      [1, wanted],
      [2, wanted],
    ]
    show([...both, ...filler(before, 3)])
    await keys.update()
    let update: Promise<void> | undefined
    reads = 0
    onRead = () => {
      show([...both, ...filler(after, 10_000)])
      update = keys.update()
    }
    expect((await keys.find(wanted)).map(({ uid }) => uid)).toEqual([1, 2])
    await update
    onRead = undefined
  }
})
