/** The harness itself: what reads responses, compares them, and prepares messages. It must be able to fail. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { canonical, lineEndsRestored, lmtpCanCarry } from '../../support/corpus.ts'
import { sample, seeded } from '../../support/depth.ts'
import { splitResponses } from './imap.ts'
import { dotStuffed } from './lmtp.ts'
import { madeMail, plainMessage } from '../../support/made-mail.ts'
import { readTar } from '../../support/tar.ts'
import { bodyDifferences, envelopeDifferences, type Tree, treeOf } from './trees.ts'
import { parseValues } from './values.ts'

const read = (text: string): Tree => treeOf(parseValues(Buffer.from(text, 'latin1'))[0]!)

describe('values', () => {
  test('atoms, numbers, NIL, quoted strings, literals and lists', () => {
    const values = parseValues(
      Buffer.from(
        '1 NIL nil "a \\"b\\"" {3}\r\nx\r\n (\\Seen (2)) BODY[HEADER.FIELDS (A B)]<0> "NIL" ~{1}\r\n\0',
        'latin1',
      ),
    )
    expect(values).toEqual([
      1,
      null,
      null,
      'a "b"',
      Buffer.from('x\r\n'),
      ['\\Seen', [2]],
      'BODY[HEADER.FIELDS (A B)]<0>',
      'NIL',
      Buffer.from([0]),
    ])
  })

  test('what no server may send is an error', () => {
    for (const text of ['"never ends', '(never ends', ')', '{5}\r\nabc', '"a\nb"'])
      expect(() => parseValues(Buffer.from(text))).toThrow()
  })

  test('a stream is cut at line ends and literals only', () => {
    const stream = Buffer.from('* 1 FETCH (BODY[] {7}\r\n* OK \r\n UID 3)\r\nt OK done\r\n* BYE\r\n')
    expect(splitResponses(stream).map(({ type, number }) => [type, number])).toEqual([
      ['FETCH', 1],
      ['BYE', undefined],
    ])
  })
})

describe('messages', () => {
  test('the canonical form has no bare LF, and restoring line ends undoes their removal', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('\r', '\n', '\r\n', 'a', '.', '\0'), { maxLength: 40 }), (parts) => {
        const bytes = canonical(Buffer.from(parts.join(''), 'latin1'))
        expect(bytes.toString('latin1')).not.toMatch(/(?<!\r)\n/)
        expect(canonical(bytes)).toBe(bytes)
        const stored = Buffer.from(bytes.toString('latin1').replaceAll('\r\n', '\n'), 'latin1')
        expect(lineEndsRestored(stored).equals(bytes)).toBe(true)
      }),
    )
  })

  test('stuffed dots are undone by taking one dot from each line that has one', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('\r\n', '.', 'a', '..'), { maxLength: 40 }), (parts) => {
        const text = `${parts.join('')}\r\n`
        const wire = dotStuffed(Buffer.from(text)).toString()
        expect(wire.indexOf('\r\n.\r\n')).toBe(text === '\r\n' && wire === '\r\n.\r\n' ? 0 : wire.length - 5)
        expect(wire.slice(0, -3).replace(/^\./gm, '')).toBe(text)
      }),
    )
  })

  test('made mail is always the same, canonical, and mostly fit for LMTP', () => {
    expect(plainMessage(7).equals(plainMessage(7))).toBe(true)
    const all = madeMail()
    expect(new Set(all.map(({ sha256 }) => sha256)).size).toBe(all.length)
    expect(all.every(({ bytes }) => canonical(bytes) === bytes)).toBe(true)
    expect(all.filter(({ bytes }) => lmtpCanCarry(bytes)).length).toBeGreaterThan(180)
  })

  test('a sample has the size asked for, keeps the order, and follows the seed', () => {
    const list = Array.from({ length: 100 }, (_, at) => at)
    const chosen = sample(list, 10, seeded(3))
    expect(chosen.length).toBe(10)
    expect([...chosen].sort((a, b) => a - b)).toEqual(chosen)
    expect(sample(list, 10, seeded(3))).toEqual(chosen)
    expect(sample(list, 10, seeded(4))).not.toEqual(chosen)
  })

  test('a tar archive is read, long names included', () => {
    const header = (name: string, size: number, type: string): Buffer => {
      const block = Buffer.alloc(512)
      block.write(name, 0)
      block.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
      block.write(type, 156)
      return block
    }
    const padded = (text: string): Buffer =>
      Buffer.concat([Buffer.from(text), Buffer.alloc((512 - (text.length % 512)) % 512)])
    const long = 'd/'.repeat(80)
    const archive = Buffer.concat([
      header('dir/', 0, '5'),
      header('a', 3, '0'),
      padded('abc'),
      header('././@LongLink', long.length, 'L'),
      padded(long),
      header('cut', 1, '0'),
      padded('x'),
      Buffer.alloc(1024),
    ])
    expect(readTar(archive).map(({ name, bytes }) => [name, bytes.toString()])).toEqual([
      ['a', 'abc'],
      [long, 'x'],
    ])
  })
})

describe('trees', () => {
  const part = '("text" "plain" ("charset" "utf-8" "name" "x") NIL NIL "7bit" 10 1 NIL ("inline" NIL) NIL NIL)'

  test('case and order matter only where the RFC says so', () => {
    const other = '("TEXT" "Plain" ("NAME" "x" "Charset" "utf-8") NIL NIL "7BIT" 10 1 NIL ("INLINE" NIL) NIL NIL)'
    expect(bodyDifferences(read(part), read(other))).toEqual([])
    expect(bodyDifferences(read(part), read(part.replace('"utf-8"', '"UTF-8"')))).toEqual([
      'body parameters: other value',
    ])
    expect(bodyDifferences(read(part), read(part.replace('"utf-8"', '{5}\r\nutf-8')))).toEqual([])
  })

  test('every difference has a kind', () => {
    expect(bodyDifferences(read(part), read(part.replace(' 10 1', ' 11 1')))).toEqual(['body size: other value'])
    expect(bodyDifferences(read(part), read(part.replace(' 10 1', ' 10 2')))).toEqual(['body lines: other value'])
    expect(bodyDifferences(read(part), read(`(${part} "mixed" NIL NIL NIL NIL)`))).toEqual([
      'body: single part there, multipart here',
    ])
    expect(
      bodyDifferences(read(`(${part}${part} "mixed" NIL NIL NIL NIL)`), read(`(${part} "mixed" NIL NIL NIL NIL)`)),
    ).toEqual(['body: fewer parts here'])
    expect(bodyDifferences(read(part), read(part.replace(' NIL NIL)', ')')))).not.toEqual([])
  })

  test('envelopes are compared field by field, NIL and the empty string apart', () => {
    const envelope = '("date" "subject" (("A" NIL "a" "b")) NIL NIL NIL NIL NIL NIL "<id>")'
    expect(envelopeDifferences(read(envelope), read(envelope))).toEqual([])
    expect(envelopeDifferences(read(envelope), read(envelope.replace('"subject"', 'NIL')))).toEqual([
      'envelope subject: present there, NIL here',
    ])
    expect(envelopeDifferences(read(envelope), read(envelope.replace('"A" NIL', '"A" ""')))).toEqual([
      'envelope from: other value',
    ])
    expect(envelopeDifferences(read(envelope), read('("date" "subject")'))).toEqual(['envelope: shape'])
  })
})
