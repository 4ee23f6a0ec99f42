import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { describe, expect, test } from 'vitest'
import { type Mdbox, openMdbox } from './standalone.ts'
import { rebuildMdbox } from './standalone-rebuild.ts'

const drivers: Readonly<Record<string, () => Promise<{ readonly fs: Fs; readonly end: () => Promise<void> }>>> = {
  memory: () => {
    const fs = memoryFs()
    return Promise.resolve({ fs, end: async () => fs[Symbol.asyncDispose]() })
  },
  posix: async () => {
    const directory = await mkdtemp(join(tmpdir(), 'mdbox-alone-'))
    const fs = await posixFs(directory)
    const end = async (): Promise<void> => {
      await fs[Symbol.asyncDispose]()
      await rm(directory, { recursive: true })
    }
    return { fs, end }
  },
}

const metadata = () => ({ guid: randomBytes(16), receivedMs: 1_700_000_000_000 })

async function text(box: Mdbox, ref: number): Promise<string> {
  await using message = await box.open(ref)
  return Buffer.from(message.whole!).toString()
}

async function findings(box: Mdbox): Promise<unknown[]> {
  return (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
}

for (const [name, create] of Object.entries(drivers))
  describe(`a box alone, ${name}`, () => {
    test('keeps what is committed, and forgets what is removed, also after it was closed', async () => {
      const { fs, end } = await create()
      const kept = new Map<number, string>()
      for (let round = 0; round < 3; round++) {
        await using box = await openMdbox(fs, 'storage', { create: round === 0 })
        expect([...box.refs]).toEqual([...kept.keys()])
        await using batch = box.begin()
        for (let i = 0; i < 40; i++) await batch.save(Buffer.from(`message ${round} ${i} `.repeat(50)), metadata())
        for (const [i, ref] of (await batch.commit()).entries()) kept.set(ref, `message ${round} ${i} `.repeat(50))
        await batch.save(Buffer.from('never committed'), metadata())
        const removed = [...kept.keys()].filter((ref) => ref % 2 === 0)
        await box.remove([...removed, 999_999])
        for (const ref of removed) {
          kept.delete(ref)
          await expect(box.open(ref)).rejects.toMatchObject({ code: 'BOX_NOT_FOUND' })
        }
        for (const [ref, body] of kept) expect(await text(box, ref)).toBe(body)
        const report = await box.purge()
        expect(report).toMatchObject({ messages: removed.length, skipped: 0 })
        for (const [ref, body] of kept) expect(await text(box, ref)).toBe(body)
        expect(await findings(box)).toEqual([])
      }
      await end()
    })

    test('batches that commit together share their flushes and keep their messages apart', async () => {
      const { fs, end } = await create()
      {
        await using box = await openMdbox(fs, 'storage', { create: true })
        const refs = await Promise.all(
          Array.from({ length: 50 }, async (_, i) => {
            await using batch = box.begin()
            await batch.save(Buffer.from(`one ${i}`), metadata())
            await batch.save(Buffer.from(`two ${i}`), metadata())
            return await batch.commit()
          }),
        )
        for (const [i, [one, two]] of refs.entries()) {
          expect(await text(box, one!)).toBe(`one ${i}`)
          expect(await text(box, two!)).toBe(`two ${i}`)
        }
      }
      await end()
    })

    test('is not made without being asked, and not over files whose index is gone', async () => {
      const { fs, end } = await create()
      await expect(openMdbox(fs, 'storage')).rejects.toMatchObject({ code: 'BOX_NOT_FOUND' })
      {
        await using box = await openMdbox(fs, 'storage', { create: true })
        await using batch = box.begin()
        await batch.save(Buffer.from('x'), metadata())
        await batch.commit()
      }
      const bytes = await fs.readFile('storage/m.1')
      await fs.writeFile('other/m.1', bytes)
      await expect(openMdbox(fs, 'other', { create: true })).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
      await end()
    })
  })

test('what was removed from a box alone stays so, though its index is lost after it was closed', async () => {
  const fs = memoryFs()
  {
    await using box = await openMdbox(fs, 'storage', { create: true })
    await using batch = box.begin()
    for (let i = 0; i < 5; i++) await batch.save(Buffer.from(`message ${i}`), metadata())
    const refs = await batch.commit()
    await box.remove(refs.slice(0, 3))
  }
  await removeAll(fs, 'storage/index')
  await Array.fromAsync(rebuildMdbox(fs, 'storage'))
  await using box = await openMdbox(fs, 'storage')
  const bodies = await Promise.all([...box.refs].map((ref) => text(box, ref)))
  expect(bodies.sort()).toEqual(['message 3', 'message 4'])
})

test('a box alone says that it has messages in a second tier that it was not given', async () => {
  const fs = memoryFs()
  const alt = { fs: memoryFs(), path: 'storage' }
  {
    await using box = await openMdbox(fs, 'storage', { create: true, alt })
    await using batch = box.begin()
    await batch.save(Buffer.from('message'), metadata())
    await box.altmove(Uint32Array.from(await batch.commit()), { to: 'alt' })
    expect(await box.unavailable()).toBeUndefined()
  }
  await using box = await openMdbox(fs, 'storage')
  expect(await box.unavailable()).toMatchObject({ code: 'FS_UNAVAILABLE' })
})

async function removeAll(fs: Fs, path: string): Promise<void> {
  for (const { name, kind } of (await Array.fromAsync(fs.list(path))).flat())
    await (kind === 'directory' ? removeAll(fs, `${path}/${name}`) : fs.remove(`${path}/${name}`))
}
