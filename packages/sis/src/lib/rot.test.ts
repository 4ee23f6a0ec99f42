/** The bytes on disk: as the page about them shows, and every flipped bit of them is noticed before anybody is served. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { parseHex } from '@mailstead/bytes'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { deep, say } from '../../../../tests/support/depth.ts'
import { SisError } from './error.ts'
import { nameOfRef } from './names.ts'
import { openSis } from './sis.ts'

function counter(): (bytes: Uint8Array) => void {
  let next = 0
  return (bytes) => {
    for (let at = 0; at < bytes.length; at++) bytes[at] = next++ & 255
  }
}

async function files(fs: Fs, path: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(path))
    for (const { name, kind } of page)
      if (kind === 'file') found.push(`${path}/${name}`)
      else found.push(...(await files(fs, `${path}/${name}`)))
  return found.sort()
}

test('the files are what docs/formats/blob.md shows', async () => {
  const page = readFileSync(new URL('../../../../docs/formats/blob.md', import.meta.url), 'utf8')
  const shown = [...page.matchAll(/```hex\n([\s\S]*?)```/g)].map(([, dump]) => Buffer.from(parseHex(dump!)))
  const fs = memoryFs()
  {
    await using sis = await openSis(fs, 'a', { create: true, random: counter() })
    const { ref } = await sis.put(Buffer.from('Hello, attachment.\n'))
    await sis.release(ref)
  }
  const written = (await files(fs, 'a')).filter((file) => !file.endsWith('.lock'))
  expect(written.map((file) => file.slice(2))).toEqual([
    /^`(43\/.*)`:$/m.exec(page)![1],
    'domain',
    'journal',
    'journal.seal',
  ])
  const [blob, domain, journal, seal] = await Promise.all(written.map((file) => fs.readFile(file)))
  for (const [at, bytes] of [domain, blob, journal, seal].entries())
    expect(Buffer.from(bytes!).equals(shown[at]!)).toBe(true)
})

test('a bit that flips in any byte, and a cut anywhere, is noticed and never served', async () => {
  const fs = memoryFs()
  const bytes = Buffer.concat([Buffer.alloc(70_000, 'compresses '), Buffer.from('and ends')])
  const refs: Uint8Array[] = []
  {
    await using sis = await openSis(fs, 'a', { create: true, random: counter() })
    for (let n = 0; n < 3; n++) refs.push((await sis.put(bytes)).ref)
    refs.push((await sis.put(Buffer.from('another'))).ref)
  }
  const images = new Map<string, Uint8Array>()
  for (const file of await files(fs, 'a')) images.set(file, (await fs.readFile(file)).slice())
  async function* all(): AsyncGenerator<readonly Uint8Array[]> {
    yield refs
  }
  /** Whether somebody would hear of it: at opening, or by check. What is read is right, or refused. */
  const noticed = async (): Promise<boolean> => {
    try {
      await using sis = await openSis(fs, 'a')
      for (const [at, ref] of refs.entries())
        try {
          await using reader = await sis.open(ref)
          const into = Buffer.alloc(reader.size)
          await reader.read(into, 0)
          expect(into.equals(at < 3 ? bytes : Buffer.from('another'))).toBe(true)
        } catch (error) {
          if (!(error instanceof SisError)) throw error
        }
      return (await Array.fromAsync(sis.check({ references: all() })))
        .flat()
        .some(({ severity }) => severity === 'damage')
    } catch (error) {
      if (error instanceof SisError && error.code === 'SIS_CORRUPT') return true
      throw error
    }
  }
  expect(await noticed()).toBe(false)
  const missed: string[] = []
  let flips = 0
  for (const [file, image] of images) {
    if (file.endsWith('.lock')) continue
    for (let at = 0; at < image.length; at++)
      for (const bit of deep() ? [0, 1, 2, 3, 4, 5, 6, 7] : [at % 8]) {
        const flipped = image.slice()
        flipped[at]! ^= 1 << bit
        await fs.writeFile(file, flipped)
        flips++
        if (!(await noticed())) missed.push(`${file} @${at} bit ${bit}`)
      }
    for (let at = 0; at < image.length; at += deep() ? 1 : 5) {
      await fs.writeFile(file, image.subarray(0, at))
      flips++
      if (!(await noticed())) missed.push(`${file} cut at ${at}`)
    }
    await fs.writeFile(file, image)
  }
  say(`sis rot: ${flips} flips and cuts, ${missed.length} missed`)
  expect(missed).toEqual([])
})

test('what is put again is kept anew where its file is damaged, and whoever used that reads it again', async () => {
  const fs = memoryFs()
  const bytes = randomBytes(300_000)
  const refs: Uint8Array[] = []
  {
    await using sis = await openSis(fs, 'a', { create: true })
    refs.push((await sis.put(bytes)).ref)
  }
  const [file] = (await files(fs, 'a')).filter((path) => path.includes('-'))
  const image = (await fs.readFile(file!)).slice()
  image[150_000]! ^= 1
  await fs.writeFile(file!, image)
  // Nobody has read it since.
  await using sis = await openSis(fs, 'a')
  const again = await sis.put(bytes)
  expect(again.shared).toBe(false)
  refs.push(again.ref, (await sis.put(bytes)).ref)
  for (const ref of refs) {
    await using reader = await sis.open(ref)
    const into = Buffer.alloc(reader.size)
    await reader.read(into, 0)
    expect(into.equals(bytes)).toBe(true)
  }
})

test('a repair names what is damaged anywhere, and a row goes over to a whole file with the same bytes', async () => {
  const fs = memoryFs()
  const bytes = randomBytes(300_000)
  const refs: Uint8Array[] = []
  async function* all(): AsyncGenerator<readonly Uint8Array[]> {
    yield refs
  }
  const damage = async (path: string): Promise<void> => {
    const image = (await fs.readFile(path)).slice()
    image[150_000]! ^= 1
    await fs.writeFile(path, image)
  }
  const path = (ref: Uint8Array): string => `a/${nameOfRef(ref).slice(0, 2)}/${nameOfRef(ref)}`
  {
    await using sis = await openSis(fs, 'a', { create: true })
    refs.push((await sis.put(bytes)).ref)
  }
  await damage(path(refs[0]!))
  {
    await using sis = await openSis(fs, 'a')
    const found = await sis.repair(all())
    expect(found).toMatchObject([{ severity: 'damage', kind: 'blob-damaged', file: path(refs[0]!) }])
    // The file is named beside it, and not again.
    expect(found[0]!.message).not.toContain(nameOfRef(refs[0]!))
    refs.push((await sis.put(bytes)).ref)
  }
  await using sis = await openSis(fs, 'a')
  expect((await sis.repair(all())).map(({ kind }) => kind)).toEqual(['blob-elsewhere'])
  expect(await sis.repair(all())).toEqual([])
  // What nobody uses may be as it is.
  const findings = (await Array.fromAsync(sis.check({ references: all() }))).flat()
  expect(findings).toMatchObject([{ severity: 'note', kind: 'blob-damaged', file: path(refs[0]!) }])
  // A damaged twin is no other file with the same bytes.
  await damage(path(refs[1]!))
  expect((await sis.repair(all())).map(({ kind }) => kind)).toEqual(['blob-damaged'])
})
