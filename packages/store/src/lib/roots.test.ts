import { readFileSync } from 'node:fs'
import { parseHex, toHex } from '@mailstead/bytes'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import type { StoreRoots } from './contract.ts'
import { decodeIndexRoot, encodeIndexRoot, INDEX_ROOT_FILE } from './roots.ts'
import { rebuildStore } from './rebuild.ts'
import { plainBox } from './plain-box.ts'
import { anna, damage, findings, mail, open, save } from '../../test/support.ts'

const uuid = (byte: number): Uint8Array => new Uint8Array(16).fill(byte)
const roots: StoreRoots = { data: uuid(1), index: uuid(2) }
const unavailable = expect.objectContaining({ code: 'STORE_UNAVAILABLE' })

/** Every name below the root. */
async function names(fs: ReturnType<typeof memoryFs>, directory = ''): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      found.push(path)
      if (kind === 'directory') found.push(...(await names(fs, path)))
    }
  return found.sort()
}

describe('the file that says in which root the index is', () => {
  test('what is written is what is read; any flipped bit, any cut and any surplus is damage', () => {
    const bytes = encodeIndexRoot(uuid(7))
    expect(decodeIndexRoot(bytes)).toEqual(uuid(7))
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const copy = Uint8Array.from(bytes)
      copy[bit >> 3]! ^= 1 << (bit & 7)
      expect(decodeIndexRoot(copy)).toBeUndefined()
    }
    for (let cut = 0; cut < bytes.length; cut++) expect(decodeIndexRoot(bytes.slice(0, cut))).toBeUndefined()
    expect(decodeIndexRoot(Buffer.concat([bytes, Buffer.from('\n')]))).toBeUndefined()
  })
  test('the example in docs/formats/tree.md is what is written', () => {
    const page = readFileSync(new URL('../../../../docs/formats/tree.md', import.meta.url), 'utf8')
    const bytes = parseHex(/`index-root`[^`]*:\n\n```hex\n([^`]*)```/.exec(page)![1]!)
    expect(toHex(decodeIndexRoot(bytes)!)).toBe('000102030405060708090a0b0c0d0e0f')
    expect(toHex(encodeIndexRoot(decodeIndexRoot(bytes)!))).toBe(toHex(bytes))
  })
})

describe('a store with its index in a root of its own', () => {
  test('keeps nothing of the index beside the messages, and is the same when it is opened again', async () => {
    const [fs, indexFs] = [memoryFs(), memoryFs()]
    {
      await using store = await open(fs, { indexFs, roots })
      await save(store, 'INBOX', mail(1))
    }
    expect((await names(fs)).filter((name) => name.startsWith('index'))).toEqual([INDEX_ROOT_FILE])
    expect(await names(indexFs)).toContain('index/control')
    await using store = await open(fs, { indexFs, roots, create: false })
    expect(store.as(anna).mailbox('INBOX')).toMatchObject({ count: 1 })
    expect(await findings(store)).toEqual([])
  })

  test('is unavailable without that root, or with another, and nothing is made there', async () => {
    const [fs, indexFs, other] = [memoryFs(), memoryFs(), memoryFs()]
    {
      // No message yet: only the file tells that there are mailboxes.
      await using store = await open(fs, { indexFs, roots })
      await store.as(anna).create('Work')
    }
    const before = await names(fs)
    await expect(open(fs, { roots: { data: uuid(1) } })).rejects.toEqual(unavailable)
    await expect(open(fs, { indexFs: other, roots: { data: uuid(1), index: uuid(3) } })).rejects.toMatchObject({
      code: 'STORE_UNAVAILABLE',
      message: expect.stringMatching(/index root.*0202.*0303/) as string,
    })
    await expect(
      Array.fromAsync(
        rebuildStore({
          fs,
          indexFs: other,
          roots: { data: uuid(1), index: uuid(3) },
          box: (at) => plainBox(at, 'storage'),
        }),
      ),
    ).rejects.toEqual(unavailable)
    expect(await names(other)).toEqual([])
    expect(await names(fs)).toEqual(before)
    await using store = await open(fs, { indexFs, roots })
    expect(store.as(anna).mailbox('Work')).toBeDefined()
  })

  test('is unavailable in another data root, to a rebuild too', async () => {
    const [fs, indexFs, other] = [memoryFs(), memoryFs(), memoryFs()]
    {
      await using store = await open(fs, { indexFs, roots })
      await save(store, 'INBOX', mail(1))
    }
    const wrong = { data: uuid(9), index: uuid(2) }
    const before = await names(indexFs)
    await expect(open(other, { indexFs, roots: wrong })).rejects.toEqual(unavailable)
    await expect(
      Array.fromAsync(rebuildStore({ fs: other, indexFs, roots: wrong, box: (at) => plainBox(at, 'storage') })),
    ).rejects.toEqual(unavailable)
    expect(await names(other)).toEqual([])
    expect(await names(indexFs)).toEqual(before)
  })

  test('that was made before there was such a root keeps its index where it is', async () => {
    const [fs, indexFs] = [memoryFs(), memoryFs()]
    await (await open(fs, { roots: { data: uuid(1) } }))[Symbol.asyncDispose]()
    {
      await using store = await open(fs, { indexFs, roots })
      await save(store, 'INBOX', mail(1))
    }
    expect(await names(indexFs)).toEqual([])
    await using store = await open(fs, { roots: { data: uuid(1) } })
    expect(store.as(anna).mailbox('INBOX')).toMatchObject({ count: 1 })
  })

  test('whose file is damaged is found by its index, and the file is mended', async () => {
    const [fs, indexFs] = [memoryFs(), memoryFs()]
    await (await open(fs, { indexFs, roots }))[Symbol.asyncDispose]()
    await fs.writeFile(INDEX_ROOT_FILE, Buffer.from('mailstead-index-root 0 what?'))
    await expect(open(fs, { roots: { data: uuid(1) } })).rejects.toEqual(unavailable)
    await expect(open(fs, { indexFs: memoryFs(), roots })).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
    {
      await using store = await open(fs, { indexFs, roots, create: false, readOnly: true })
      expect(await damage(store)).toMatchObject([{ kind: 'index-root', file: INDEX_ROOT_FILE }])
    }
    await (await open(fs, { indexFs, roots }))[Symbol.asyncDispose]()
    expect(decodeIndexRoot(await fs.readFile(INDEX_ROOT_FILE))).toEqual(uuid(2))
  })
})

test('a second tier of another root than recorded is told to the box, and the store opens all the same', async () => {
  const fs = memoryFs()
  const events: string[] = []
  const told: (StoreRoots | undefined)[] = []
  for (const byte of [4, 5]) {
    await using _store = await open(fs, {
      roots: { data: uuid(1), alternate: uuid(byte) },
      box: (at, _name, recorded) => {
        told.push(recorded)
        return plainBox(at, 'storage')
      },
      onEvent: ({ kind, message }) => events.push(`${kind}: ${message}`),
    })
  }
  expect(told.at(-1)?.alternate).toEqual(uuid(4))
  expect(events.filter((one) => one.startsWith('root-changed'))).toHaveLength(1)
})
