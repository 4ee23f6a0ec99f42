/** What must hold for every message: stored and read again, in whole and in parts, it is what it was. Throws where it is not. */
import assert from 'node:assert/strict'
import { decodeBody, type MessagePart, scanMessage } from '@mailstead/message'
import type { ExtractOptions } from '../src/lib/extract.ts'
import { readSegments } from '../src/lib/segments.ts'
import { MemoryBlobs, restore, store, type Stored, woven } from './memory-blobs.ts'
import type { Random } from './shapes.ts'

/** Bytes of parts that went to blobs, and of those the ones that are there decoded. */
export interface Share {
  outside: number
  decoded: number
}

const below = (random: Random, limit: number): number => Math.floor(random() * limit)

/** Options and cuts are drawn; `minSize` is such that most parts count. */
export async function keepsEveryByte(message: Buffer, random: Random, given?: ExtractOptions): Promise<Share> {
  const options = given ?? {
    minSize: [1, 16, 64, 200][below(random, 4)]!,
    windowBytes: [512, 512, 1000, 4096, 65_536][below(random, 5)]!,
  }
  const blobs = new MemoryBlobs(random() < 0.2)
  const stored = await store(message, blobs, options, cutsOf(message, random))
  assert.equal(blobs.begun, 0)
  assert.equal(stored.size, message.length)
  assert.equal(stored.inlineSize, stored.inline.length)
  same(await restore(stored, blobs), message)
  const share = { outside: 0, decoded: 0 }
  if (stored.segments === undefined) return share
  await ranges(stored, blobs, message, random)
  const map = readSegments(stored.segments)
  const { root, canonical } = scanMessage(message)
  const bodies = new Set(leaves(root).map(({ bodyStart, bodyEnd }) => `${bodyStart} to ${bodyEnd}`))
  for (const { start, end } of map.parts) {
    share.outside += end - start
    if (canonical) assert(bodies.has(`${start} to ${end}`), `${start} to ${end} is the body of no part`)
  }
  map.kinds.forEach((kind, i) => {
    if (kind === 'lines') share.decoded += map.starts[i + 1]! - map.starts[i]!
  })
  return share
}

function leaves(part: MessagePart): readonly MessagePart[] {
  return part.message === undefined ? [part, ...part.children.flatMap(leaves)] : leaves(part.message)
}

/** None, a few, or many pieces. */
function cutsOf(message: Buffer, random: Random): number[] {
  const kind = random()
  if (kind < 0.3) return []
  if (kind < 0.9)
    return Array.from({ length: below(random, 8) }, () => below(random, message.length + 1)).sort((a, b) => a - b)
  const size = 1 + below(random, 40)
  return Array.from({ length: Math.min(2000, Math.floor(message.length / size)) }, (_, i) => i * size)
}

async function ranges(stored: Stored, blobs: MemoryBlobs, message: Buffer, random: Random): Promise<void> {
  await using whole = woven(stored, blobs)
  assert.equal(whole.size, message.length)
  for (let i = 0; i < 3; i++) {
    const at = below(random, message.length + 1)
    const into = Buffer.alloc(below(random, random() < 0.5 ? 20 : 2000))
    const read = await whole.read(into, at)
    same(into.subarray(0, read), message.subarray(at, at + into.length))
  }
  for (const [i, part] of whole.parts.entries()) {
    if (!part.exact) continue
    const decoded = Buffer.from(decodeBody(message.subarray(part.start, part.end), 'base64'))
    assert.equal(part.decodedSize, decoded.length)
    const at = below(random, decoded.length + 1)
    const into = Buffer.alloc(below(random, 3000))
    const read = await whole.readDecoded(i, into, at)
    same(into.subarray(0, read), decoded.subarray(at, at + into.length))
  }
}

function same(found: Buffer, expected: Buffer): void {
  if (found.equals(expected)) return
  let at = 0
  while (found[at] === expected[at] && at < found.length) at++
  throw new assert.AssertionError({
    message: `${found.length} bytes for ${expected.length}, different from byte ${at}`,
    actual: found.toString('latin1', Math.max(0, at - 20), at + 60),
    expected: expected.toString('latin1', Math.max(0, at - 20), at + 60),
  })
}
