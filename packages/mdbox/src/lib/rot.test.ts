import { randomBytes, randomInt } from 'node:crypto'
import { type Box, BoxError, type BoxFinding, type BoxRef } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { readFileLine } from './format.ts'
import { mdbox } from './mdbox.ts'
import { COLUMNS } from './place.ts'

interface Kept {
  readonly fs: Fs
  readonly box: Box
  readonly refs: readonly BoxRef[]
  readonly bodies: readonly Buffer[]
  /** First byte of each message's record, and behind the last. */
  readonly offsets: readonly number[]
}

async function keep(bodies: readonly Buffer[]): Promise<Kept> {
  const fs = memoryFs()
  const process = memoryTable(COLUMNS).process()
  const box = await mdbox(fs, 'storage').open(process.host)
  await using batch = box.begin()
  const saved = []
  for (const [i, body] of bodies.entries())
    saved.push(await batch.save(body, { guid: randomBytes(16), receivedMs: i * 1_000_000, mailbox: 'INBOX' }))
  await batch.flush()
  const refs = await process.keep(...saved)
  const found = (await Array.fromAsync(box.scan())).flat()
  const { size } = (await fs.stat('storage/m.1'))!
  return { fs, box, refs, bodies, offsets: [...found.map(({ offset }) => offset), size] }
}

async function damages(box: Box): Promise<BoxFinding[]> {
  return (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
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

async function flip({ fs }: Kept, at: number, bit: number): Promise<void> {
  await using file = await fs.open('storage/m.1', 'write')
  const byte = new Uint8Array(1)
  await file.read(byte, at)
  byte[0]! ^= 1 << bit
  await file.write(byte, at)
}

/** Flips a bit, asks everybody, flips it back. Returns the index of the message hit, -1 for the first line. */
async function rot(kept: Kept, at: number, bit: number): Promise<void> {
  const { box, refs, bodies, offsets } = kept
  await flip(kept, at, bit)
  const victim = offsets.findLastIndex((offset) => offset <= at)
  const found = await damages(box)
  expect(found.length, `bit ${bit} of byte ${at}`).toBeGreaterThan(0)
  for (const { ref } of found) expect(ref).toBe(victim < 0 ? undefined : refs[victim])
  for (const [i, ref] of refs.entries()) {
    const judged = await judge(box, ref, bodies[i]!)
    if (i !== victim) expect(judged, `neighbour ${i} of byte ${at}`).toBe('right')
    else if (judged === 'right') expect(await isVirtualSize(kept, at)).toBe(true)
  }
  await flip(kept, at, bit)
}

/** Only the V line may differ without a read noticing: nothing is read from it. */
async function isVirtualSize({ fs, offsets }: Kept, at: number): Promise<boolean> {
  const bytes = Buffer.from(await fs.readFile('storage/m.1'))
  const end = offsets.find((offset) => offset > at)!
  const start = bytes.lastIndexOf('\n\x01\x03\n', end)
  return at > start + 4 && at < bytes.indexOf('\n', start + 4)
}

describe('bit rot', () => {
  test('every byte of a file: check names the message, reads refuse it, its neighbours are served', async () => {
    const kept = await keep([Buffer.from('Subject: a\r\n\r\nb\r\n'), Buffer.from(''), Buffer.from('lone\nfeeds\n')])
    const size = kept.offsets.at(-1)!
    const all = process.env['MAILSTEAD_DEPTH'] !== undefined
    let flips = 0
    for (let at = 0; at < size; at++)
      for (let bit = 0; bit < 8; bit++)
        if (all || bit === (at * 5 + 3) % 8) {
          await rot(kept, at, bit)
          flips++
        }
    expect(await damages(kept.box)).toEqual([])
    console.log(`${flips} flipped bits in ${size} bytes, all found`)
  })

  test('the first line: whatever one of its bytes becomes, also one that makes it look like Dovecot’s', async () => {
    const kept = await keep([Buffer.from('one')])
    const bytes = await kept.fs.readFile('storage/m.1')
    const values =
      process.env['MAILSTEAD_DEPTH'] === undefined
        ? Array.from('\n 0HC', (c) => c.charCodeAt(0))
        : [...Array(256).keys()]
    let changed = 0
    await using file = await kept.fs.open('storage/m.1', 'write')
    for (let at = 0; at < kept.offsets[0]!; at++)
      for (const value of values) {
        if (bytes[at] === value) continue
        await file.write(Uint8Array.of(value), at)
        expect(await damages(kept.box), `byte ${at} is ${value}`).toMatchObject([
          { kind: 'first-line', ref: undefined },
        ])
        await file.write(bytes.subarray(at, at + 1), at)
        changed++
      }
    expect(await damages(kept.box)).toEqual([])
    console.log(`${changed} changes of the first line, all found`)
  })

  test('of large messages: header, metadata and a sample of the body', async () => {
    const kept = await keep([randomBytes(300_000), randomBytes(70_000), Buffer.alloc(600_000, 'line\r\n')])
    const [first, second, third, end] = kept.offsets as [number, number, number, number]
    const places = Array.from({ length: 10 }, (_, i) => first + 3 * i)
    for (const stop of [second, third, end]) for (let i = 1; i < 200; i += 17) places.push(stop - i)
    for (let i = 0; i < 30; i++) places.push(randomInt(first, end))
    for (const at of places) await rot(kept, at, randomInt(8))
    expect(await damages(kept.box)).toEqual([])
    console.log(`${places.length} flipped bits in ${end} bytes, all found`)
  })

  test('a range is refused only where the damage is', async () => {
    const body = randomBytes(300_000)
    const kept = await keep([body])
    await flip(kept, kept.offsets[0]! + 30 + 70_000, 4)
    await using message = await kept.box.open(kept.refs[0]!)
    const into = Buffer.alloc(1000)
    for (const position of [0, 64_000, 131_072, 299_000]) {
      expect(await message.read(into, position)).toBe(1000)
      expect(into.equals(body.subarray(position, position + 1000))).toBe(true)
    }
    for (const position of [65_535, 65_536, 131_071]) {
      into.fill(0xee)
      await expect(message.read(into, position)).rejects.toMatchObject({ code: 'BOX_CORRUPT' })
    }
    await expect(message.read(Buffer.alloc(300_000), 0)).rejects.toMatchObject({ code: 'BOX_CORRUPT' })
  })

  test('a file cut short: what is whole is served, the rest is named', async () => {
    for (let n = 0; n < 20; n++) {
      const kept = await keep([Buffer.alloc(500, 'a'), Buffer.alloc(500, 'b'), randomBytes(200_000)])
      const size = randomInt(kept.offsets.at(-1)!)
      {
        await using file = await kept.fs.open('storage/m.1', 'write')
        await file.truncate(size)
      }
      const found = await damages(kept.box)
      for (const [i, ref] of kept.refs.entries()) {
        const whole = kept.offsets[i + 1]! <= size
        expect(await judge(kept.box, ref, kept.bodies[i]!)).toBe(whole ? 'right' : 'refused')
        expect(found.some((finding) => finding.ref === ref)).toBe(!whole)
      }
    }
  })

  test('a message in the place of another is noticed', async () => {
    const kept = await keep([Buffer.from('one'), Buffer.from('two')])
    const [first, second, end] = kept.offsets as [number, number, number]
    const bytes = await kept.fs.readFile('storage/m.1')
    expect(end - second).toBeGreaterThan(0)
    {
      await using file = await kept.fs.open('storage/m.1', 'write')
      await file.write(bytes.subarray(second, end), first)
    }
    expect(readFileLine(bytes)?.verified).toBe(true)
    expect(await judge(kept.box, kept.refs[0]!, kept.bodies[0]!)).toBe('refused')
    expect((await damages(kept.box)).some(({ ref }) => ref === kept.refs[0])).toBe(true)
  })
})
