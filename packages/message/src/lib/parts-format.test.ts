import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MessageError } from './errors.ts'
import { decodeStructure, encodeStructure } from './parts-format.ts'
import { scanMessage } from './scanner.ts'
import type { MessageStructure } from './structure.ts'

const withoutHeaders = (structure: MessageStructure): unknown =>
  JSON.parse(JSON.stringify(structure, (key, value: unknown) => (key === 'header' ? undefined : value)))

const message = scanMessage(
  Buffer.from(
    'Content-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: text/html\nContent-ID: <1>\n\nhello\n' +
      '--x\nContent-Type: message/rfc822\nContent-Disposition: inline; filename=a\n\nSubject: s\n\nbody\n--x--\n',
  ),
)
describe('encoded structure', () => {
  test('the byte layout does not change (golden, also in the documentation)', () => {
    const hex = Buffer.from(encodeStructure(message)).toString('hex')
    const document = readFileSync(new URL('../../../../docs/formats/mime-parts.md', import.meta.url), 'utf8')
    const block = /```hex\n([^`]*)```/.exec(document)?.[1] ?? ''
    const documented = block.replace(/#.*$/gm, '').replace(/\s/g, '')
    expect(hex).toBe(documented)
    expect(withoutHeaders(decodeStructure(Buffer.from(documented, 'hex')))).toEqual(withoutHeaders(message))
  })

  test('every cut and every flipped bit is an error of ours or another structure, never anything else', () => {
    const bytes = Buffer.from(encodeStructure(message))
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decodeStructure(bytes.subarray(0, length))).toThrow(MessageError)
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      try {
        decodeStructure(flipped)
      } catch (error) {
        expect(error).toBeInstanceOf(MessageError)
      }
    }
  })

  test('arbitrary bytes are refused in bounded time', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          decodeStructure(Buffer.concat([Buffer.from([0]), bytes]))
        } catch (error) {
          expect(error).toBeInstanceOf(MessageError)
        }
      }),
    )
  })

  test('another version is refused by name', () => {
    expect(() => decodeStructure(Uint8Array.of(1, 0, 0, 0))).toThrow('version 1')
  })
})
