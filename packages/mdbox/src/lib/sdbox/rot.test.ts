import { randomBytes, randomInt } from 'node:crypto'
import { type Box, BoxError, type BoxFinding, type BoxRef } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { readFileLine } from '../format.ts'
import { COLUMNS } from './row.ts'
import { sdbox } from './sdbox.ts'

const GUID = '0123456789abcdef0123456789abcdef'
const OTHER = 'fedcba9876543210fedcba9876543210'

interface Kept {
  readonly fs: Fs
  readonly box: Box
  readonly refs: readonly BoxRef[]
  readonly bodies: readonly Buffer[]
}

/** Messages in a mailbox, as UID 1, 2 …; the last also in another. */
async function keep(bodies: readonly Buffer[]): Promise<Kept> {
  const fs = memoryFs()
  const { host, mail } = memoryTable(COLUMNS).process()
  await mail.create(GUID, 'INBOX')
  await mail.create(OTHER, 'Copies')
  const box = await sdbox(fs, 'storage').open(host)
  await using batch = box.begin()
  const saved = []
  const origin = { mailbox: Buffer.from(GUID, 'hex'), uidValidity: 1000 }
  for (const [i, body] of bodies.entries())
    saved.push(await batch.save(body, { guid: randomBytes(16), receivedMs: i * 1_000_000, mailbox: 'INBOX', origin }))
  await batch.flush()
  await mail.keep(box, saved, [GUID])
  await mail.copy(box, GUID, [bodies.length], OTHER)
  return { fs, box, refs: [...mail.rows(GUID).values()], bodies }
}

async function findings(box: Box): Promise<BoxFinding[]> {
  return (await Array.fromAsync(box.check())).flat()
}
async function damages(box: Box): Promise<BoxFinding[]> {
  return (await findings(box)).filter(({ severity }) => severity === 'damage')
}

/** What reading says of a message: its bytes are right, or that they are not. Anything else throws. */
async function judge(box: Box, ref: BoxRef, body: Buffer): Promise<'right' | 'refused'> {
  try {
    await using message = await box.open(ref)
    const into = Buffer.alloc(body.length)
    expect(await message.read(into, 0)).toBe(body.length)
    expect(into.equals(body)).toBe(true)
    return 'right'
  } catch (error) {
    if (error instanceof BoxError && (error.code === 'BOX_CORRUPT' || error.code === 'BOX_DAMAGED')) return 'refused'
    throw error
  }
}

async function flip(fs: Fs, path: string, at: number, bit: number): Promise<void> {
  await using file = await fs.open(path, 'write')
  const byte = new Uint8Array(1)
  await file.read(byte, at)
  byte[0]! ^= 1 << bit
  await file.write(byte, at)
}

/** Only in the first line, and in the V line, may a bit differ without a read noticing: nothing is read from them. */
function isRead(bytes: Buffer, at: number): boolean {
  const virtual = bytes.lastIndexOf('\n\x01\x03\n') + 4
  return at >= readFileLine(bytes)!.length && !(at >= virtual && at < bytes.indexOf('\n', virtual))
}

/** Flips a bit of the message with this UID, asks everybody, flips it back. */
async function rot({ fs, box, refs, bodies }: Kept, uid: number, at: number, bit: number): Promise<void> {
  const path = `storage/${GUID}/u.${uid}`
  const bytes = Buffer.from(await fs.readFile(path))
  await flip(fs, path, at, bit)
  const found = await damages(box)
  expect(found.length, `bit ${bit} of byte ${at} of u.${uid}`).toBeGreaterThan(0)
  for (const { ref, file } of found) {
    expect(ref).toBe(refs[uid - 1])
    expect(file).toMatch(/^[0-9a-f]{32}\/u\.\d+$/)
  }
  for (const [i, ref] of refs.entries()) {
    const judged = await judge(box, ref, bodies[i]!)
    if (i !== uid - 1) expect(judged, `neighbour ${i} of byte ${at}`).toBe('right')
    else if (isRead(bytes, at)) expect(judged, `byte ${at}`).toBe('refused')
  }
  await flip(fs, path, at, bit)
}

describe('bit rot of an sdbox', () => {
  test('every byte of a file: check names message and file, reads refuse it, its neighbours are served', async () => {
    const kept = await keep([Buffer.from('Subject: a\r\n\r\nb\r\n'), Buffer.from(''), Buffer.from('lone\nfeeds\n')])
    const all = process.env['MAILSTEAD_DEPTH'] !== undefined
    let flips = 0
    let bytes = 0
    for (let uid = 1; uid <= kept.refs.length; uid++) {
      const { size } = (await kept.fs.stat(`storage/${GUID}/u.${uid}`))!
      bytes += size
      for (let at = 0; at < size; at++)
        for (let bit = 0; bit < 8; bit++)
          if (all || bit === (at * 5 + 3) % 8) {
            await rot(kept, uid, at, bit)
            flips++
          }
    }
    expect(await findings(kept.box)).toEqual([])
    console.log(`${flips} flipped bits in ${bytes} bytes, all found`)
  })

  test('of a large message: header, metadata and a sample of the body', async () => {
    const kept = await keep([randomBytes(300_000), Buffer.from('small\r\n')])
    const { size } = (await kept.fs.stat(`storage/${GUID}/u.1`))!
    const places = Array.from({ length: 10 }, (_, i) => 26 + 3 * i)
    for (let i = 1; i < 150; i += 17) places.push(size - i)
    for (let i = 0; i < 20; i++) places.push(randomInt(26, size))
    for (const at of places) await rot(kept, 1, at, randomInt(8))
    expect(await findings(kept.box)).toEqual([])
  })

  test('a file cut short, made longer, or gone is that message alone', async () => {
    const change: readonly ((fs: Fs, path: string, size: number) => Promise<void>)[] = [
      async (fs, path, size) => {
        await using file = await fs.open(path, 'write')
        await file.truncate(randomInt(size))
      },
      async (fs, path) => {
        await using file = await fs.open(path, 'append')
        await file.append([Buffer.from('more')])
      },
      async (fs, path) => fs.remove(path),
    ]
    for (const [n, body] of [...change, ...change, change[0]!].entries()) {
      const kept = await keep([Buffer.alloc(500, 'a'), randomBytes(200_000), Buffer.from('c')])
      const uid = 1 + (n % 2)
      const path = `storage/${GUID}/u.${uid}`
      await body(kept.fs, path, (await kept.fs.stat(path))!.size)
      const found = await damages(kept.box)
      // What is cut within its first line has that besides.
      expect([...new Set(found.map(({ ref }) => ref))]).toEqual([kept.refs[uid - 1]])
      for (const [i, ref] of kept.refs.entries()) {
        const judged = await judge(kept.box, ref, kept.bodies[i]!)
        if (i !== uid - 1) expect(judged).toBe('right')
        // What follows a whole message harms nobody but is no part of it.
        else if (n % 3 !== 1) expect(judged).toBe('refused')
      }
    }
  })

  test('a message in the place of another is noticed, and the right one found where it still is', async () => {
    const kept = await keep([Buffer.from('one'), Buffer.from('two')])
    const [first, second] = [`storage/${GUID}/u.1`, `storage/${GUID}/u.2`]
    const bytes = await kept.fs.readFile(first)
    await kept.fs.writeFile(first, await kept.fs.readFile(second))
    expect(await judge(kept.box, kept.refs[0]!, kept.bodies[0]!)).toBe('refused')
    expect((await damages(kept.box)).map(({ ref }) => ref)).toEqual([kept.refs[0]])
    // As an expunge that an older index does not know would leave it.
    await kept.fs.writeFile(`storage/${GUID}/x.1`, bytes)
    expect(await judge(kept.box, kept.refs[0]!, kept.bodies[0]!)).toBe('right')
  })

  test('every byte of an identity', async () => {
    const { fs, box, refs, bodies } = await keep([Buffer.from('one')])
    const path = `storage/${GUID}/identity`
    const { size } = (await fs.stat(path))!
    for (let at = 0; at < size; at++) {
      const bit = (at * 3) % 8
      await flip(fs, path, at, bit)
      expect(await damages(box), `bit ${bit} of byte ${at}`).toMatchObject([
        { kind: 'identity', file: `${GUID}/identity` },
      ])
      await flip(fs, path, at, bit)
    }
    await fs.remove(path)
    expect(await damages(box)).toMatchObject([{ kind: 'identity', file: `${GUID}/identity` }])
    expect(await judge(box, refs[0]!, bodies[0]!)).toBe('right')
    console.log(`${size} bytes of an identity, every one of which is covered`)
  })

  test('the copy of a message, where copies are files of their own', async () => {
    const fs = memoryFs({ link: false })
    const { host, mail } = memoryTable(COLUMNS).process()
    await mail.create(GUID)
    await mail.create(OTHER)
    await using box = await sdbox(fs, 'storage').open(host)
    await using batch = box.begin()
    const origin = { mailbox: Buffer.from(GUID, 'hex'), uidValidity: 1000 }
    const saved = await batch.save(Buffer.from('body\r\n'), { guid: randomBytes(16), receivedMs: 0, origin })
    await batch.flush()
    await mail.keep(box, [saved], [GUID])
    await mail.copy(box, GUID, [1], OTHER)
    await flip(fs, `storage/${OTHER}/u.1`, 60, 2)
    expect(await damages(box)).toMatchObject([{ kind: 'message-damaged', file: `${OTHER}/u.1`, ref: 1 }])
    expect(await judge(box, 1, Buffer.from('body\r\n'))).toBe('right')
    // It does not become the message's home.
    await mail.expunge(box, GUID, [1])
    expect((await box.purge()).skipped).toBe(1)
    expect(await judge(box, 1, Buffer.from('body\r\n'))).toBe('right')
  })
})
