import { duplexPair } from 'node:stream'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatFlags } from './format.ts'
import { CHUNK_BYTES, ConnectionGone, Output } from './output.ts'
import { writeNumbers, writeThreads } from './replies.ts'
import type { ThreadNode } from './session.ts'

const numRuns = process.env['MAILSTEAD_DEPTH'] === 'ci' ? 2000 : 200

/** What `write` puts out. */
async function drained(write: (output: Output) => void | Promise<void>): Promise<string> {
  const [ours, theirs] = duplexPair()
  const pieces: Buffer[] = []
  theirs.on('data', (piece: Buffer) => pieces.push(Buffer.from(piece)))
  const ended = new Promise<void>((resolve) => theirs.on('end', () => resolve()))
  const output = new Output(ours)
  await write(output)
  output.flush()
  ours.end()
  await ended
  return Buffer.concat(pieces).toString('latin1')
}
const label = (text: string): Uint8Array => Buffer.from(text, 'latin1')

describe('output', () => {
  test('writes a FETCH reply item by item', async () => {
    const text = await drained((output) => {
      output.begin(12)
      output.uid(4294967295)
      output.flags(formatFlags(9, ['$a'], true))
      output.modSeq(9007199254740991)
      output.internalDate(1000)
      output.size(0)
      output.item(label('ENVELOPE'), label('(NIL)'))
      output.nil(label('BODY[9]'))
      output.literal(label('BODY[]'), label('a\r\nb'))
      output.literalStart(label('BODY[1]'), 5)
      output.bytes(label('he'))
      output.space(3).set(label('llo'))
      output.advance(3)
      output.end()
    })
    expect(text).toBe(
      '* 12 FETCH (UID 4294967295 FLAGS (\\Answered \\Seen \\Recent $a) MODSEQ (9007199254740991) ' +
        'INTERNALDATE "01-Jan-1970 00:00:01 +0000" RFC822.SIZE 0 ENVELOPE (NIL) BODY[9] NIL BODY[] {4}\r\na\r\nb BODY[1] {5}\r\nhello)\r\n',
    )
  })
  test('numbers are written in full', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(fc.maxSafeNat(), fc.nat(), fc.nat({ max: 11 })), { minLength: 1, maxLength: 50 }),
        async (numbers) => {
          const text = await drained((output) => {
            for (const value of numbers) {
              output.gap()
              output.number(value)
            }
          })
          expect(text).toBe(numbers.map((value) => ` ${value}`).join(''))
        },
      ),
      { numRuns },
    )
  })
  test('keeps order and every byte, whatever the sizes and ways', async () => {
    const way = fc.constantFrom('text', 'raw', 'bytes', 'give', 'space', 'item', 'cache')
    const size = fc.oneof(
      fc.integer({ min: 0, max: 100 }),
      fc.integer({ min: 0, max: 3 * CHUNK_BYTES }),
      fc.constantFrom(CHUNK_BYTES - 1, CHUNK_BYTES, 8192),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(way, size), { maxLength: 12 }), async (steps) => {
        let expected = ''
        const text = await drained(async (output) => {
          for (const [i, [how, length]] of steps.entries()) {
            const value = String.fromCharCode(97 + i).repeat(length)
            const bytes = Buffer.from(value)
            if (how === 'text') output.text(value)
            else if (how === 'raw') output.raw(bytes)
            if (how === 'text' || how === 'raw') {
              expected += value
              continue
            }
            output.begin(1)
            expected += '* 1 FETCH ('
            if (how === 'item') output.item(label('X'), bytes)
            else if (how === 'cache') {
              const source = {
                copy(_: number, out: Uint8Array, at: number): number {
                  if (at + length > out.length) return -2 - length
                  out.set(bytes, at)
                  return length
                },
              }
              expect(output.itemFrom(label('X'), source, 0)).toBe(true)
            } else {
              output.literalStart(label('X'), length)
              if (how === 'bytes') {
                output.bytes(bytes)
                // It was copied.
                bytes.fill(0)
              } else if (how === 'give') output.give(bytes)
              else
                for (let at = 0; at < length; ) {
                  const space = output.space(Math.min(1000, length - at))
                  const count = Math.min(space.length, length - at)
                  // A turn passes while the bytes are read.
                  if (i % 3 === 0) await new Promise((resolve) => setImmediate(resolve))
                  space.set(bytes.subarray(at, at + count))
                  output.advance(count)
                  at += count
                }
            }
            output.end()
            expected += how === 'item' || how === 'cache' ? `X ${value})\r\n` : `X {${length}}\r\n${value})\r\n`
            const pending = output.pending()
            if (pending !== undefined) await pending
          }
        })
        expect(text === expected).toBe(true)
      }),
      { numRuns },
    )
  })
  test('a cache without the value writes nothing', async () => {
    const text = await drained((output) => {
      output.begin(1)
      output.uid(1)
      expect(output.itemFrom(label('ENVELOPE'), { copy: () => -1 }, 0)).toBe(false)
      output.end()
    })
    expect(text).toBe('* 1 FETCH (UID 1)\r\n')
  })
  test('a literal gets exactly the bytes that were announced', () => {
    const output = new Output(duplexPair()[0])
    output.begin(1)
    output.literalStart(label('BODY[]'), 3)
    expect(() => output.bytes(label('four'))).toThrow('more bytes')
    output.bytes(label('tw'))
    expect(() => output.end()).toThrow('1 bytes')
    expect(() => output.uid(1)).toThrow('1 bytes')
    expect(output.repair()).toBe(false)
  })
  test('a reply that was left open is ended if it says anything', () => {
    const output = new Output(duplexPair()[0])
    expect(output.repair()).toBe(true)
    output.begin(1)
    expect(output.repair()).toBe(false)
    output.uid(1)
    expect(output.repair()).toBe(true)
    output.begin(2)
  })
  test('what is written in one turn goes out together, without being asked to', async () => {
    const [ours, theirs] = duplexPair()
    const pieces: string[] = []
    theirs.on('data', (piece: Buffer) => pieces.push(piece.toString()))
    const output = new Output(ours)
    output.text('one ')
    output.text('two')
    expect(pieces).toEqual([])
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(pieces).toEqual(['one two'])
    expect(output.unsentBytes).toBe(0)
  })
  test('callers wait for a client that does not read, and hear when it is gone', async () => {
    const [ours] = duplexPair()
    const output = new Output(ours)
    expect(output.pending()).toBeUndefined()
    for (let i = 0; i < 20; i++) output.raw(Buffer.alloc(CHUNK_BYTES))
    const pending = output.pending()
    expect(pending).toBeInstanceOf(Promise)
    output.fail()
    await expect(pending).rejects.toThrow(ConnectionGone)
    await expect(output.pending()).rejects.toThrow(ConnectionGone)
    output.text('nobody hears this')
    output.flush()
  })
})

describe('replies', () => {
  test('sets are written number by number', async () => {
    expect(await drained((output) => writeNumbers(output, UidSet.parse('1:3,7')))).toBe(' 1 2 3 7')
  })
  test('threads are written as RFC 5256 has them', async () => {
    const node = (id: number, ...children: ThreadNode[]): ThreadNode => ({ id, children })
    const roots = [node(2), node(3, node(6, node(4, node(23)), node(44, node(7, node(96)))))]
    expect(await drained((output) => writeThreads(output, roots))).toBe('(2)(3 6 (4 23)(44 7 96))')
    expect(await drained((output) => writeThreads(output, [node(0, node(3), node(5))]))).toBe('((3)(5))')
  })
  test('a thread may be as deep as it likes', async () => {
    let chain: ThreadNode = { id: 1, children: [] }
    let tree: ThreadNode = { id: 1, children: [] }
    for (let id = 2; id <= 100_000; id++) chain = { id, children: [chain] }
    for (let id = 2; id <= 20_000; id++) tree = { id, children: [tree, { id, children: [] }] }
    const text = await drained((output) => writeThreads(output, [chain, tree]))
    expect(text.length).toBeGreaterThan(600_000)
  })
})
