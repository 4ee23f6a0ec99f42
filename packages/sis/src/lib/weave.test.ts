import { FsError } from '@mailstead/fs'
import { describe, expect, test } from 'vitest'
import { seeded } from '../../../../tests/support/depth.ts'
import { inlineOf, MemoryBlobs, restore, store, type Stored, woven } from '../../test/memory-blobs.ts'
import type { BlobSource } from './contract.ts'
import { SisError } from './error.ts'
import { Extraction } from './extract.ts'
import { readSegments, SegmentLimits } from './segments.ts'
import { type PartFailure, weave } from './weave.ts'

const KiB = 1024
const random = seeded(3)

function bytes(size: number): Buffer {
  return Buffer.from(Array.from({ length: size }, () => random() * 256))
}
function encoded(data: Buffer, length = 76, end = '\r\n'): string {
  return data.toString('base64').replace(new RegExp(`.{1,${length}}`, 'g'), `$&${end}`)
}
function multipart(bodies: readonly string[]): Buffer {
  const parts = bodies.map((body) => `--b\r\nContent-Type: application/x\r\n\r\n${body}\r\n`)
  return Buffer.from(`Content-Type: multipart/mixed; boundary=b\r\n\r\n${parts.join('')}--b--\r\n`, 'latin1')
}
async function failure(reading: Promise<unknown>): Promise<PartFailure> {
  const error: unknown = await reading.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(SisError)
  return error as PartFailure
}

describe('what stays inline', () => {
  test('a part below the minimum size, one of text, and one without Content-Type', async () => {
    const blobs = new MemoryBlobs()
    const body = encoded(bytes(4000))
    for (const [head, minSize] of [
      ['Content-Type: application/x\r\n', body.length + 1],
      ['Content-Type: TEXT/html\r\n', 1],
      ['Subject: s\r\n', 1],
    ] as const) {
      const message = Buffer.from(`${head}\r\n${body}`)
      const stored = await store(message, blobs, { minSize })
      expect(stored.segments).toBeUndefined()
      expect(stored.inline.equals(message)).toBe(true)
    }
    expect(blobs.kept.size).toBe(0)
    expect(
      (await store(Buffer.from(`Content-Type: application/x\r\n\r\n${body}`), blobs, { minSize: body.length }))
        .segments,
    ).toBeDefined()
  })

  test('the default minimum is 128 KiB of the message', async () => {
    const body = 'QUJD'.repeat(32 * KiB)
    const head = 'Content-Type: application/x\r\n\r\n'
    expect((await store(Buffer.from(head + body.slice(1)), new MemoryBlobs())).segments).toBeUndefined()
    expect((await store(Buffer.from(head + body), new MemoryBlobs())).segments).toBeDefined()
  })

  test('what an application says is no attachment', async () => {
    const message = multipart([encoded(bytes(2000)), encoded(bytes(3000))])
    const blobs = new MemoryBlobs()
    await store(message, blobs, { minSize: 1, isAttachment: (part) => part.headerStart > 1000 })
    expect([...blobs.kept.values()].map(({ length }) => length)).toEqual([3000])
  })
})

describe('equal attachments', () => {
  test('are one blob, whatever their lines and whatever text follows them', async () => {
    const blobs = new MemoryBlobs()
    const data = bytes(200_001)
    const footer = '\r\n-- \r\nTo unsubscribe from this list write to the owner of it,\r\nplease\r\n'
    for (const body of [
      encoded(data),
      encoded(data, 64, '\n'),
      encoded(data, 3),
      encoded(data, 996),
      data.toString('base64'),
      encoded(data) + footer,
      `${encoded(data)}\r\n\r\nfooter\r\n`,
    ]) {
      const message = multipart([body])
      expect((await restore(await store(message, blobs), blobs)).equals(message)).toBe(true)
    }
    expect([...blobs.kept.values()].map((kept) => kept.equals(data))).toEqual([true])
  })
})

describe('limits', () => {
  test('a message of more parts than uses keeps the rest of them inline', async () => {
    const message = multipart(Array.from({ length: 400 }, (_, i) => encoded(bytes(100 + i))))
    const blobs = new MemoryBlobs()
    const stored = await store(message, blobs, { minSize: 1 })
    expect(stored.blobs.length).toBeGreaterThan(200)
    expect(stored.blobs.length).toBeLessThanOrEqual(SegmentLimits.uses)
    expect((await restore(stored, blobs)).equals(message)).toBe(true)
  })

  test('lines too irregular to tell in few bytes are stored as they came, from there on', async () => {
    let body = ''
    const chars = bytes(2_000_000).toString('base64')
    for (let at = 0, i = 0; at < chars.length; at += 60 + (i++ % 17))
      body += `${chars.slice(at, at + 60 + (i % 17))}\r\n`
    const message = multipart([body, encoded(bytes(200_000))])
    const blobs = new MemoryBlobs()
    const stored = await store(message, blobs)
    expect(stored.segments!.length).toBeLessThanOrEqual(SegmentLimits.bytes)
    expect(stored.inline.length).toBeLessThan(300_000)
    expect((await restore(stored, blobs)).equals(message)).toBe(true)
    expect(new Set(readSegments(stored.segments!).kinds)).toEqual(new Set(['inline', 'lines', 'raw']))
  })

  test('options that make no sense are refused at the door', () => {
    const targets = { blobs: new MemoryBlobs(), keep: () => {} }
    for (const options of [{ minSize: 0 }, { minSize: 2 ** 30 }, { windowBytes: 1 }, { minSize: 1.5 }])
      expect(() => new Extraction(targets, options)).toThrow(TypeError)
  })
})

describe('a blob that cannot be read', () => {
  const data = [bytes(5000), bytes(6000)]
  const message = multipart(data.map((each) => encoded(each)))

  /** The message, where the blob of the first part fails so. */
  async function broken(fail: () => unknown): Promise<{ stored: Stored; source: BlobSource }> {
    const blobs = new MemoryBlobs()
    const stored = await store(message, blobs, { minSize: 1 })
    const [first] = stored.blobs
    const source: BlobSource = {
      open: async (ref) => {
        if (Buffer.compare(ref, first!.ref) === 0) throw fail()
        return blobs.open(ref)
      },
    }
    return { stored, source }
  }

  for (const [attachment, code, fail] of [
    ['absent', 'SIS_NOT_FOUND', () => new SisError('SIS_NOT_FOUND', 'gone')],
    ['damaged', 'SIS_CORRUPT', () => new SisError('SIS_CORRUPT', 'rotten')],
    ['unavailable', 'SIS_UNAVAILABLE', () => new FsError('FS_UNAVAILABLE', 'open', { path: 'x' })],
  ] as const)
    test(`that is ${attachment} fails the ranges of its part, and no others`, async () => {
      const { stored, source } = await broken(fail)
      await using whole = woven(stored, source)
      const [first, second] = whole.parts
      const into = Buffer.alloc(message.length)
      for (const position of [first!.start, first!.end - 10, first!.start - 10, 0]) {
        const error = await failure(whole.read(into.subarray(0, 20_000), position))
        expect(error).toMatchObject({ attachment, code, start: first!.start, end: first!.end })
        expect(error.ref).toBe(Buffer.from(stored.blobs[0]!.ref).toString('hex'))
      }
      expect((await failure(whole.readDecoded(0, into, 0))).attachment).toBe(attachment)
      expect(await whole.read(into.subarray(0, first!.start), 0)).toBe(first!.start)
      expect(into.subarray(0, first!.start).equals(message.subarray(0, first!.start))).toBe(true)
      const rest = await whole.read(into, first!.end)
      expect(into.subarray(0, rest).equals(message.subarray(first!.end))).toBe(true)
      expect(second!.decodedSize).toBe(6000)
      expect(await whole.readDecoded(1, into, 0)).toBe(6000)
      expect(into.subarray(0, 6000).equals(data[1]!)).toBe(true)
    })

  test('that has another size is damaged', async () => {
    const blobs = new MemoryBlobs()
    const stored = await store(message, blobs, { minSize: 1 })
    for (const [key, kept] of blobs.kept) blobs.kept.set(key, kept.subarray(1))
    await using whole = woven(stored, blobs)
    expect((await failure(whole.read(Buffer.alloc(1), whole.parts[0]!.start))).attachment).toBe('damaged')
  })

  test('segments that do not fit what stayed inline are refused', async () => {
    const blobs = new MemoryBlobs()
    const stored = await store(message, blobs, { minSize: 1 })
    expect(() => weave(stored.segments!, inlineOf(stored.inline.subarray(1)), blobs)).toThrow(SisError)
  })
})

describe('reading', () => {
  test('asks blobs for little more than the range', async () => {
    const blobs = new MemoryBlobs()
    const data = bytes(1_000_000)
    const message = multipart([encoded(data)])
    const stored = await store(message, blobs)
    let asked = 0
    const source: BlobSource = {
      open: async (ref) => {
        const reader = await blobs.open(ref)
        const read = async (into: Uint8Array, position: number): Promise<number> => {
          asked += into.length
          return reader.read(into, position)
        }
        return { size: reader.size, read, [Symbol.asyncDispose]: async () => {} }
      },
    }
    await using whole = woven(stored, source)
    const into = Buffer.alloc(1000)
    for (let i = 0; i < 50; i++) {
      const at = Math.floor(random() * (message.length - 1000))
      await whole.read(into, at)
      expect(into.equals(message.subarray(at, at + 1000))).toBe(true)
    }
    expect(asked).toBeLessThan(50 * 800)
  })

  test('several at once do not disturb each other, and none begins after the message is closed', async () => {
    const blobs = new MemoryBlobs()
    const message = multipart([
      encoded(bytes(100_000)),
      encoded(bytes(200_000), 60, '\n'),
      bytes(150_000).toString('latin1'),
    ])
    const whole = woven(await store(message, blobs, { minSize: 1 }), blobs)
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        const at = Math.floor(random() * message.length)
        const into = Buffer.alloc(70_000)
        const read = await whole.read(into, at)
        expect(into.subarray(0, read).equals(message.subarray(at, at + 70_000))).toBe(true)
      }),
    )
    await whole[Symbol.asyncDispose]()
    await expect(whole.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'SIS_CLOSED' })
  })

  test('a message that is given up leaves no blob begun', async () => {
    const blobs = new MemoryBlobs()
    const extraction = new Extraction({ blobs, keep: () => {} }, { minSize: 1 })
    await extraction.write(multipart([encoded(bytes(200_000))]).subarray(0, 200_000))
    expect(blobs.begun).toBe(1)
    await extraction.abort()
    expect(blobs.begun).toBe(0)
  })
})
