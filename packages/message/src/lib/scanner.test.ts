import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseEnvelope } from './envelope.ts'
import { parseHeader } from './header.ts'
import { decodeStructure, encodeStructure } from './parts-format.ts'
import { canonicalBytes, MessageScanner, scanMessage } from './scanner.ts'
import type { MessagePart, MessageStructure } from './structure.ts'

const runs =
  process.env['MAILSTEAD_DEPTH'] === undefined ? 1000 : process.env['MAILSTEAD_DEPTH'] === 'ci' ? 10_000 : 100_000

/** Lines that meet every decision the scanner takes, more often than chance would. */
const lines = [
  ['--a', '--a--', '--ab', '--ab--', '--b', '--b--', '-', '--', 'text', '', ' folded', '\tfolded', 'no colon', ':'],
  ['Content-Type: multipart/mixed; boundary=a', 'Content-Type: multipart/digest; boundary="ab"', 'X: y', '\0'],
  ['Content-Type: multipart/alternative; boundary=b', 'Content-Type: message/rfc822', 'MIME-Version: 1.0', '\r'],
  ['Content-Type: text/html; charset="utf-8"', 'content-disposition : inline; filename*0=a; filename*1*=%20'],
  ['Content-Transfer-Encoding: base64', 'From: a@b, "c', 'Content-Type: text', 'Content-Language: en, de', '\xe9'],
].flat()
const pieces = fc.constantFrom(...lines)
const ends = fc.constantFrom('\r\n', '\r\n', '\n', '\n', '', '\r')
const mail = fc
  .array(fc.tuple(pieces, ends), { maxLength: 60 })
  .map((lines) => Buffer.from(lines.map(([line, end]) => line + end).join(''), 'latin1'))
const anyBytes = fc.oneof(
  mail,
  fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes)),
)

function inChunks(bytes: Buffer, cuts: readonly number[]): MessageStructure {
  const scanner = new MessageScanner()
  let at = 0
  for (const cut of cuts.map((n) => n % (bytes.length + 1)).sort((a, b) => a - b)) {
    // A chunk that its owner overwrites afterwards, as a reader's buffer is.
    const chunk = Buffer.from(bytes.subarray(at, cut))
    scanner.push(chunk)
    chunk.fill(0x2d)
    at = cut
  }
  scanner.push(bytes.subarray(at))
  return scanner.finish()
}

function* partsOf(part: MessagePart): Generator<MessagePart> {
  yield part
  for (const child of part.children) yield* partsOf(child)
  if (part.message !== undefined) yield* partsOf(part.message)
}

describe('scanner', () => {
  test('any chunking gives the same structure', () => {
    fc.assert(
      fc.property(anyBytes, fc.array(fc.nat(), { maxLength: 12 }), (bytes, cuts) => {
        expect(inChunks(bytes, cuts)).toEqual(scanMessage(bytes))
      }),
      { numRuns: runs },
    )
  })

  test('one byte at a time gives the same structure', () => {
    fc.assert(
      fc.property(mail, (bytes) => {
        const scanner = new MessageScanner()
        for (let at = 0; at < bytes.length; at++) scanner.push(bytes.subarray(at, at + 1))
        expect(scanner.finish()).toEqual(scanMessage(bytes))
      }),
      { numRuns: Math.ceil(runs / 3) },
    )
  })

  test('the canonical size is that of the text with every lone LF replaced', () => {
    fc.assert(
      fc.property(anyBytes, (bytes) => {
        const { size, physicalSize, canonical } = scanMessage(bytes)
        const replaced = bytes.toString('latin1').replace(/(?<!\r)\n/g, '\r\n')
        expect(size).toBe(replaced.length)
        expect(physicalSize).toBe(bytes.length)
        expect(canonical).toBe(replaced.length === bytes.length)
        expect(canonicalBytes(bytes).toString('latin1')).toBe(replaced)
      }),
      { numRuns: runs },
    )
  })

  test('what was stored and its canonical form have the same structure', () => {
    fc.assert(
      fc.property(anyBytes, (bytes) => {
        const { physicalSize: _, canonical: __, ...stored } = scanMessage(bytes)
        expect(scanMessage(canonicalBytes(bytes))).toMatchObject(stored)
      }),
      { numRuns: runs },
    )
  })

  test('parts lie inside their parent, in order, and line counts are those of their bytes', () => {
    fc.assert(
      fc.property(anyBytes, (bytes) => {
        const structure = scanMessage(bytes)
        const text = canonicalBytes(bytes).toString('latin1')
        const { root } = structure
        expect([root.headerStart, root.bodyEnd]).toEqual([0, structure.size])
        expect(structure.header.toString()).toBe(Buffer.from(text.slice(0, root.bodyStart), 'latin1').toString())
        for (const part of partsOf(root)) {
          expect(part.headerStart).toBeLessThanOrEqual(part.bodyStart)
          expect(part.bodyStart).toBeLessThanOrEqual(part.bodyEnd)
          expect(part.bodyLines).toBe(text.slice(part.bodyStart, part.bodyEnd).split('\n').length - 1)
          expect(part.headerLines).toBe(text.slice(part.headerStart, part.bodyStart).split('\n').length - 1)
          let at = part.bodyStart
          for (const child of part.children) {
            expect(child.headerStart).toBeGreaterThan(at)
            // Before a child there is its boundary line.
            expect(text.slice(0, child.headerStart)).toMatch(/(?:^|\n)--[^\n]*\n$/)
            at = child.bodyEnd
          }
          expect(at).toBeLessThanOrEqual(part.bodyEnd)
          expect(part.message === undefined).toBe(part.kind !== 'message')
          if (part.message !== undefined) {
            expect(part.message.headerStart).toBe(part.bodyStart)
            expect(part.message.bodyEnd).toBeLessThanOrEqual(part.bodyEnd)
          }
        }
      }),
      { numRuns: runs },
    )
  })

  test('nothing in this package throws on any bytes', () => {
    fc.assert(
      fc.property(anyBytes, (bytes) => {
        const structure = scanMessage(bytes)
        for (const part of partsOf(structure.root)) parseEnvelope(part.header ?? structure.header)
        const fields = parseHeader(bytes)
        let names = ''
        for (let i = 0; i < fields.count; i++) names += fields.name(i) + fields.value(i)
        expect(names.length).toBeLessThanOrEqual(bytes.length)
        expect(decodeStructure(encodeStructure(structure)).size).toBe(structure.size)
      }),
      { numRuns: runs },
    )
  })

  test('a message enclosed a thousand deep is followed to the limit, in linear time', () => {
    const bytes = Buffer.from(`${'Content-Type: message/rfc822\n\n'.repeat(1000)}Subject: deep\n\nbody\n`)
    const { root, quirks } = scanMessage(bytes)
    let depth = 1
    let part = root
    while (part.message !== undefined) {
      part = part.message
      depth++
    }
    expect(depth).toBe(100)
    expect([part.type, part.subtype]).toEqual(['application', 'octet-stream'])
    expect(part.bodyEnd).toBe(bytes.length + bytes.toString().split('\n').length - 1)
    expect(quirks).toContain('too-deep')
  })

  test('multiparts a thousand deep are followed to the limit', () => {
    let text = ''
    for (let i = 0; i < 1000; i++) text += `Content-Type: multipart/mixed; boundary=b${i}.\r\n\r\n--b${i}.\r\n`
    const { root, quirks, size } = scanMessage(Buffer.from(text))
    expect([...partsOf(root)].length).toBe(100)
    expect(root.bodyEnd).toBe(size)
    expect(quirks).toEqual(expect.arrayContaining(['too-deep', 'unclosed-multipart']))
  })

  test('parts beyond the limit are text of the last one', () => {
    const text = `Content-Type: multipart/mixed; boundary=x\r\n\r\n${'--x\r\n\r\nhello\r\n'.repeat(50)}--x--\r\n`
    const { root, quirks } = scanMessage(Buffer.from(text), { parts: 10 })
    expect(root.children.length).toBe(9)
    expect(quirks).toContain('too-many-parts')
    expect(root.children[8]!.bodyEnd).toBe(text.length)
  })

  test('a header of 100 MB is measured in bounded memory and keeps its beginning', () => {
    const scanner = new MessageScanner()
    scanner.push(Buffer.from('Subject: first\r\n'))
    const line = Buffer.from(`X-Filler: ${'x'.repeat(65_524)}\r\n`)
    const before = process.memoryUsage().arrayBuffers
    for (let i = 0; i < 1600; i++) scanner.push(line)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 1024 * 1024)
    scanner.push(Buffer.from('Subject: last\r\n\r\nbody'))
    const { root, header, quirks } = scanner.finish()
    expect(root.bodyStart).toBe(16 + 1600 * line.length + 17)
    expect(header.length).toBe(1024 * 1024)
    expect(parseEnvelope(header).subject).toBe('first')
    expect(quirks).toContain('header-truncated')
  })

  test('headers of enclosed messages are kept up to a total', () => {
    const inner = `--x\nContent-Type: message/rfc822\n\nSubject: ${'s'.repeat(100)}\n\nbody\n`
    const text = `Content-Type: multipart/mixed; boundary=x\n\n${inner.repeat(10)}--x--\n`
    const { root, quirks } = scanMessage(Buffer.from(text), { enclosedHeaderBytes: 500 })
    expect(root.children.filter((part) => part.message!.header!.length > 0).length).toBe(4)
    expect(quirks).toContain('enclosed-headers-dropped')
  })

  test('content fields are read up to a total', () => {
    const inner = `--x\nContent-Type: text/html; name=${'n'.repeat(100)}\n\nbody\n`
    const text = `Content-Type: multipart/mixed; boundary=x\n\n${inner.repeat(10)}--x--\n`
    const { root, quirks } = scanMessage(Buffer.from(text), { contentBytes: 500 })
    expect(root.children.length).toBe(10)
    expect(root.children.filter((part) => part.subtype === 'html').length).toBe(3)
    expect(quirks).toContain('too-many-fields')
  })

  test('misuse is refused', () => {
    const scanner = new MessageScanner()
    scanner.finish()
    expect(() => scanner.push(Buffer.from('x'))).toThrow(TypeError)
    expect(() => scanner.finish()).toThrow(TypeError)
    expect(() => new MessageScanner({ parts: 0 })).toThrow(TypeError)
  })
})

describe('structure', () => {
  const scan = (text: string): MessageStructure => scanMessage(Buffer.from(text.replaceAll('\n', '\r\n'), 'latin1'))
  const sizes = (part: MessagePart): unknown[] => [part.bodyEnd - part.bodyStart, part.bodyLines]

  test('the line end before a boundary belongs to the boundary', () => {
    const { root } = scan(
      'Content-Type: multipart/mixed; boundary=b\n\npreamble\n--b\n\none\n\n--b\n\ntwo\n--b--\nepilogue\n',
    )
    expect(root.children.map(sizes)).toEqual([
      [5, 1],
      [3, 0],
    ])
  })

  test('a boundary is matched by its beginning, the longest open one first', () => {
    const { root } = scan(
      'Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=ab\n\n' +
        '--ab\n\nx\n--abc\n\ny\n--ab--\n--a trailing\n\nz\n--a--\n',
    )
    expect(root.children.length).toBe(2)
    expect(root.children[0]!.children.length).toBe(2)
  })

  test('parts of a digest are messages unless they say otherwise', () => {
    const { root } = scan(
      'Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: in\n\nx\n--b\nContent-Type: text/plain\n\ny\n--b--\n',
    )
    expect(root.children.map((part) => [part.kind, part.contentTypePresent])).toEqual([
      ['message', false],
      ['text', true],
    ])
    expect(parseEnvelope(root.children[0]!.message!.header!).subject).toBe('in')
  })

  test('content fields without MIME-Version or Content-Type count only inside a multipart', () => {
    expect(scan('Content-Transfer-Encoding: base64\n\nx').root.encoding).toBeUndefined()
    expect(scan('MIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nx').root.encoding).toBe('base64')
    const { root } = scan('Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-ID: <i>\n\nx\n--b--\n')
    expect(root.children[0]!.id).toBe('<i>')
  })

  test('a multipart without boundary has no parts', () => {
    const { root, quirks } = scan('Content-Type: multipart/mixed\n\n--b\n\nx\n')
    expect([root.kind, root.children.length]).toEqual(['multipart', 0])
    expect(quirks).toEqual(expect.arrayContaining(['no-boundary', 'empty-multipart']))
  })

  test('plain ASCII text is told in one way however it was written', () => {
    const plain = scan('\nx').root
    const spelled = scan('Content-Type: TEXT/Plain; Charset=US-ASCII\nContent-Transfer-Encoding: 7BIT\n\nx').root
    expect([spelled.type, spelled.subtype, spelled.parameters, spelled.encoding]).toEqual([
      plain.type,
      plain.subtype,
      plain.parameters,
      plain.encoding,
    ])
  })
})

describe('events of a scan', () => {
  const leaves = (part: MessagePart): readonly MessagePart[] =>
    part.message !== undefined
      ? leaves(part.message)
      : part.kind === 'multipart'
        ? part.children.flatMap(leaves)
        : [part]

  test('tell where every leaf begins and ends, in any chunking, before a byte beyond what is decided is needed', () => {
    fc.assert(
      fc.property(anyBytes, fc.array(fc.nat(), { maxLength: 8 }), (bytes, cuts) => {
        // Offsets of the structure are of the canonical form, those of events are of what is pushed.
        const message = canonicalBytes(bytes)
        const told: { part: MessagePart; start: number; end: number }[] = []
        let decided = 0
        const scanner = new MessageScanner(undefined, {
          leafStart: (part, at) => {
            expect(at).toBeGreaterThanOrEqual(decided - 2)
            told.push({ part, start: at, end: -1 })
          },
          leafEnd: (part, at, lineEnd) => {
            expect(at).toBeGreaterThanOrEqual(decided)
            const last = told.at(-1)!
            expect(last.part).toBe(part)
            last.end = Math.max(last.start, lineEnd ? at - 2 : at)
          },
        })
        let at = 0
        for (const cut of [...cuts.map((n) => n % (message.length + 1)).sort((a, b) => a - b), message.length]) {
          scanner.push(message.subarray(at, cut))
          at = cut
          decided = scanner.decided
          expect(decided).toBeLessThanOrEqual(cut)
          expect(cut - decided).toBeLessThanOrEqual(86)
        }
        const { root } = scanner.finish()
        const found = leaves(root)
        expect(told.map(({ part }) => part)).toEqual(found)
        for (const { part, start, end } of told) expect([start, end]).toEqual([part.bodyStart, part.bodyEnd])
      }),
      { numRuns: runs },
    )
  })

  test('what is passed over in the body of a leaf counts as if it had been pushed', () => {
    for (const end of ['\r\n', '\n']) {
      const head = `Content-Type: multipart/mixed; boundary=b${end}${end}--b${end}Content-Type: image/png${end}${end}QU`
      const rows = `JD${end}QUJD${end}QUJD${end}`
      const tail = `QUJ${end}--b--${end}after${end}`
      const scanner = new MessageScanner()
      scanner.push(Buffer.from(head))
      expect(scanner.decided).toBe(head.length)
      scanner.pass(rows.length, 3, end === '\n')
      scanner.push(Buffer.from(tail))
      expect(scanner.finish()).toEqual(scanMessage(Buffer.from(head + rows + tail)))
    }
    const scanner = new MessageScanner()
    scanner.push(Buffer.from('Subject: s\r\n'))
    expect(() => scanner.pass(1, 1, true)).toThrow(TypeError)
  })
})
