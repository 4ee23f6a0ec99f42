import { describe, expect, test } from 'vitest'
import { scanMessage } from './scanner.ts'
import { parseSection, sectionRange } from './section.ts'

/** The example of RFC 3501 §6.4.5, in small. */
const text = [
  'Subject: top\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\r\none\r\n',
  '--o\r\nContent-Type: message/rfc822\r\n\r\nSubject: two\r\n\r\nplain\r\n',
  '--o\r\nContent-Type: message/rfc822\r\n\r\nSubject: three\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n',
  '--i\r\n\r\nthree.one\r\n--i\r\nContent-Type: image/gif\r\n\r\nthree.two\r\n--i--\r\n--o--\r\n',
].join('')
const structure = scanMessage(Buffer.from(text))
const section = (name: string): string | undefined => {
  const range = sectionRange(structure, name)
  return range === undefined ? undefined : text.slice(range.start, range.end)
}

describe('section', () => {
  test('numbers lead to parts, also inside enclosed messages', () => {
    expect(section('')).toBe(text)
    expect(section('1')).toBe('one')
    expect(section('2')).toBe('Subject: two\r\n\r\nplain')
    expect(section('2.1')).toBe('plain')
    expect(section('3.1')).toBe('three.one')
    expect(section('3.2')).toBe('three.two')
  })

  test('HEADER and TEXT are of a message, MIME of a part', () => {
    expect(section('HEADER')).toBe('Subject: top\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n')
    expect(section('TEXT')).toBe(text.slice(section('HEADER')!.length))
    expect(section('2.HEADER')).toBe('Subject: two\r\n\r\n')
    expect(section('2.TEXT')).toBe('plain')
    expect(section('2.MIME')).toBe('Content-Type: message/rfc822\r\n\r\n')
    expect(section('3.2.mime')).toBe('Content-Type: image/gif\r\n\r\n')
  })

  test('what is not there is not there', () => {
    for (const name of ['4', '1.1', '2.2', '3.3', '1.HEADER', '1.TEXT', '3.1.1']) expect(section(name)).toBeUndefined()
    for (const name of ['0', 'MIME', '1.', '.1', '1.FOO', '1HEADER', '01']) expect(parseSection(name)).toBeUndefined()
  })

  test('a message that is not multipart is its own part 1', () => {
    const plain = scanMessage(Buffer.from('Subject: x\r\n\r\nbody\r\n'))
    expect(sectionRange(plain, '1')).toEqual(sectionRange(plain, 'TEXT'))
    expect(sectionRange(plain, '1.MIME')).toEqual(sectionRange(plain, 'HEADER'))
    expect(sectionRange(plain, '1.1')).toBeUndefined()
  })

  test('a message that is an enclosed message is numbered like a part', () => {
    const inner = 'Subject: in\r\n\r\nbody'
    const outer = 'Content-Type: message/rfc822\r\n\r\n'
    const whole = scanMessage(Buffer.from(outer + inner))
    const read = (name: string): string => {
      const { start, end } = sectionRange(whole, name)!
      return (outer + inner).slice(start, end)
    }
    expect([read('1'), read('1.HEADER'), read('1.1')]).toEqual([inner, 'Subject: in\r\n\r\n', 'body'])
  })
})
