import {
  canonicalBytes,
  encodeStructure,
  type MessagePart,
  type MessageStructure,
  scanMessage,
} from '@mailstead/message'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bodyStructure } from './body-structure.ts'
import type { MessageBody } from './contract.ts'
import { StoreError } from './error.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 5000 : 500

/** A body whose parts cannot be read from these places on. */
function unreadable(
  message: Buffer,
  parts: readonly { readonly start: number; readonly end: number; readonly readable: number }[],
  chunk: number,
): MessageBody {
  return {
    size: message.length,
    parts,
    sliceSync: () => undefined,
    async *stream(start, end) {
      for (let at = start; at < end; ) {
        const to = Math.min(end, at + chunk)
        const hit = parts.find((part) => part.start < to && part.end > at && to > part.start + part.readable)
        if (hit !== undefined) throw new StoreError('STORE_DAMAGED', 'not there')
        yield message.subarray(at, to)
        at = to
      }
    },
    [Symbol.dispose]: () => undefined,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

/** All of it but what may be a guess. */
function known(structure: MessageStructure): Buffer {
  const without = (part: MessagePart): MessagePart => ({
    ...part,
    bodyLines: 0,
    children: part.children.map(without),
    message: part.message === undefined ? undefined : without(part.message),
  })
  const quirks = structure.quirks.filter((quirk) => quirk !== 'nul')
  return Buffer.concat([encodeStructure({ ...structure, quirks, root: without(structure.root) }), structure.header])
}

const words = fc.constantFrom('AAAA', '\r\n', '--', '-', '--x', 'b', '\r', ' ', '\0', 'A'.repeat(76), '--B', '\r\n\r\n')
const content = fc.array(words, { maxLength: 40 }).map((list) => list.join(''))
const leaf = fc.record({ content, nested: fc.boolean(), out: fc.boolean(), share: fc.integer({ min: 0, max: 4 }) })

test('a message is found to be built as it is, whichever bodies of its leaves cannot be read', async () => {
  let messages = 0
  let holes = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(leaf, { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 1, max: 200 }),
      async (leaves, chunk) => {
        const entities = leaves.map(({ content: text, nested }) =>
          nested
            ? `Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: image/png\r\n\r\n${text}`
            : `Content-Type: image/png\r\n\r\n${text}`,
        )
        const text = `Subject: x\r\nContent-Type: multipart/mixed; boundary=bound\r\n\r\n${entities.map((each) => `--bound\r\n${each}\r\n`).join('')}--bound--\r\nepilogue\r\n`
        const message = canonicalBytes(Buffer.from(text, 'latin1'))
        const structure = scanMessage(message)
        const parts = structure.root.children.flatMap((child, i) => {
          const { bodyStart: start, bodyEnd: end } = child.message ?? child
          const { out, share } = leaves[i]!
          return out && end > start ? [{ start, end, readable: Math.floor(((end - start) * share) / 4) }] : []
        })
        const found = await bodyStructure(unreadable(message, parts, chunk))
        expect(known(found.structure).equals(known(structure))).toBe(true)
        const missing = parts.filter(({ start, end, readable }) => readable < end - start)
        expect(found.unread === undefined).toBe(missing.length === 0)
        if (missing.length === 0) expect(encodeStructure(found.structure)).toEqual(encodeStructure(structure))
        messages++
        holes += missing.length
      },
    ),
    { numRuns },
  )
  console.info(`${messages} messages, ${holes} bodies that could not be read`)
})

test('what is not readable outside such a part is a failure', async () => {
  const message = Buffer.from('Subject: x\r\n\r\nbody\r\n')
  const broken: MessageBody = {
    ...unreadable(message, [{ start: 14, end: 18, readable: 0 }], 10),
    async *stream(start, end) {
      if (start === 0) throw new StoreError('STORE_DAMAGED', 'the file')
      yield message.subarray(start, end)
    },
  }
  await expect(bodyStructure(broken)).rejects.toThrow('the file')
  const gone: MessageBody = {
    ...unreadable(message, [{ start: 14, end: 18, readable: 0 }], 10),
    async *stream(start, end) {
      if (start === 14) throw new StoreError('STORE_EXPUNGED', 'gone')
      yield message.subarray(start, end)
    },
  }
  await expect(bodyStructure(gone)).rejects.toThrow('gone')
})

test('a message of another size than it is said to have is not guessed at', async () => {
  const message = Buffer.from('Subject: x\r\n\r\nbody\n')
  const body = unreadable(message, [{ start: 14, end: 18, readable: 0 }], 10)
  await expect(bodyStructure(body)).rejects.toThrow('not there')
})
