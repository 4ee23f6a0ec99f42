import { spawnSync } from 'node:child_process'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decompressed } from './decompress.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 400 : 20

/** Python has bzip2 where the command is not installed. */
function bzip2(bytes: Uint8Array, level = 9): Buffer {
  const program = `import bz2,sys; sys.stdout.buffer.write(bz2.compress(sys.stdin.buffer.read(), ${level}))`
  const { status, stdout, error } = spawnSync('python3', ['-c', program], { input: bytes, maxBuffer: 1 << 28 })
  if (status !== 0) throw error ?? new Error(`python3 ended with ${status}`)
  return stdout
}
const hasPython = spawnSync('python3', ['-c', 'import bz2']).status === 0
if (!hasPython && depth !== 'ci') console.log('bzip2: not compared with python3, which is not there')

async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}
async function read(bytes: Uint8Array, size = 1000): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of decompressed(pieces(bytes, size))) parts.push(Buffer.from(part))
  return Buffer.concat(parts)
}

const codecs: readonly (readonly [string, (bytes: Uint8Array) => Buffer])[] = [
  ['gz', (bytes) => gzipSync(bytes)],
  ['zstd', (bytes) => zstdCompressSync(bytes, { params: { 201: 1 } })],
  ...(hasPython || depth === 'ci' ? [['bz2', bzip2] as const] : []),
]
const text = Buffer.from('From: a\n\n' + 'the same line, again and again\n'.repeat(500))

describe.each(codecs)('%s', (name, compress) => {
  test('what was compressed is read', async () => {
    const block = fc.oneof(
      fc.uint8Array({ maxLength: 2000 }),
      fc.tuple(fc.nat(255), fc.nat(3000)).map(([byte, length]) => new Uint8Array(length).fill(byte)),
      fc.string({ maxLength: 100 }).map((part) => Buffer.from(part.repeat(20))),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(block, { maxLength: 6 }), fc.integer({ min: 1, max: 5000 }), async (blocks, size) => {
        const bytes = Buffer.concat(blocks)
        expect((await read(compress(bytes), size)).equals(bytes)).toBe(true)
      }),
      // Another process for each.
      { numRuns: name === 'bz2' ? Math.ceil(numRuns / 5) : numRuns },
    )
  })
  test('streams that follow each other are one', async () => {
    const both = Buffer.concat([compress(text), compress(text)])
    expect((await read(both)).equals(Buffer.concat([text, text]))).toBe(true)
  })
  test('what is cut or has a flipped bit is damaged, never something else', async () => {
    const whole = compress(text)
    for (let length = 4; length < whole.length; length++) {
      const cut = await read(whole.subarray(0, length)).then(String, (error: unknown) => error)
      expect(cut).toMatchObject({ code: 'BOX_DAMAGED' })
    }
    for (let bit = 32; bit < 8 * whole.length; bit += 3) {
      const flipped = Buffer.from(whole)
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      const result = await read(flipped).then(
        (bytes) => bytes,
        (error: unknown) => error,
      )
      // Times and names in the header of gzip may be anything.
      if (Buffer.isBuffer(result)) expect(result.equals(text)).toBe(true)
      else expect(result).toMatchObject({ code: 'BOX_DAMAGED' })
    }
  })
})

test('blocks of bzip2 of every size are read', { skip: !hasPython && depth !== 'ci' }, async () => {
  const bytes = Buffer.alloc(1_000_000)
  for (let i = 0, x = 1; i < bytes.length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0
    bytes[i] = i % 5000 < 2500 ? x >>> 24 : 65
  }
  for (const level of [1, 5, 9]) expect((await read(bzip2(bytes, level), 100_000)).equals(bytes)).toBe(true)
})

test('what is not compressed stays as it is', async () => {
  for (const plain of ['', 'a', 'BZ', 'BZhx', 'Subject: x\n\n'])
    expect((await read(Buffer.from(plain), 1)).toString()).toBe(plain)
})

test('a source that fails is not damage', async () => {
  const source = async function* (): AsyncGenerator<Uint8Array> {
    yield gzipSync(text).subarray(0, 20)
    throw new Error('the disk')
  }
  await expect(Array.fromAsync(decompressed(source()))).rejects.toThrow('the disk')
})
