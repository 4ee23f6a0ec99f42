import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeBody } from './body.ts'
import { decodeText, isKnownCharset } from './charset.ts'
import { parseAnyDate, parseDate, parsePlainDate } from './date.ts'
import { decodeEncodedWords } from './encoded-words.ts'
import { idAt, messageIds } from './message-ids.ts'
import { parseContentType, parseDisposition } from './parameters.ts'
import { tidyBlanks } from './structure.ts'
import { baseSubject } from './subject.ts'
import { Cursor } from './tokens.ts'

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1')

describe('body encodings', () => {
  test('base64 of anything, in lines of any length, is decoded', () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.integer({ min: 1, max: 90 }), (bytes, width) => {
        const text = Buffer.from(bytes)
          .toString('base64')
          .replace(new RegExp(`.{${width}}`, 'g'), '$&\r\n')
        expect(Buffer.from(decodeBody(Buffer.from(text), 'BASE64'))).toEqual(Buffer.from(bytes))
      }),
    )
  })

  test('base64 joined after its padding, without padding, and with junk in it', () => {
    expect(latin1(decodeBody(Buffer.from('YQ==YmM=ZGVm'), 'base64'))).toBe('abcdef')
    expect(latin1(decodeBody(Buffer.from('YW*J'), 'base64'))).toBe('ab')
    expect(latin1(decodeBody(Buffer.from('Y'), 'base64'))).toBe('')
  })

  test('quoted-printable of anything is decoded', () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.boolean(), (bytes, soft) => {
        let text = ''
        for (const byte of bytes) {
          text +=
            byte > 32 && byte < 127 && byte !== 0x3d ? String.fromCharCode(byte) : `=${Buffer.of(byte).toString('hex')}`
          if (soft) text += '=\r\n'
        }
        expect(Buffer.from(decodeBody(Buffer.from(text), 'quoted-printable'))).toEqual(Buffer.from(bytes))
      }),
    )
  })

  test('quoted-printable: blanks at the end of a line are padding, a lone = is itself', () => {
    expect(latin1(decodeBody(Buffer.from('a \t\r\nb=20 \n=ZZ c= \r\nd ='), 'quoted-printable'))).toBe(
      'a\r\nb \n=ZZ cd ',
    )
  })
})

describe('charsets', () => {
  test('names of the web, of mail, and UTF-7', () => {
    expect(decodeText(Buffer.of(0xe4), 'ISO-8859-1')).toBe('ä')
    expect(decodeText(Buffer.of(0x82, 0xa0), 'cp932')).toBe('あ')
    expect(decodeText(Buffer.from('Hi Mom -+Jjo--!'), 'utf-7')).toBe('Hi Mom -☺-!')
    expect(decodeText(Buffer.from('1 +- 1'), 'UTF-7')).toBe('1 + 1')
  })

  test('what is unknown is UTF-8 if it can be, else windows-1252', () => {
    expect(decodeText(Buffer.from('ä'), 'x-nonsense')).toBe('ä')
    expect(decodeText(Buffer.of(0xe4, 0x80), undefined)).toBe('ä€')
    expect([isKnownCharset('x-nonsense'), isKnownCharset('Shift_JIS'), isKnownCharset('us-ascii')]).toEqual([
      false,
      true,
      true,
    ])
  })
})

describe('encoded words', () => {
  test('the examples of RFC 2047 §8', () => {
    expect(decodeEncodedWords('(=?ISO-8859-1?Q?a?=)')).toBe('(a)')
    expect(decodeEncodedWords('(=?ISO-8859-1?Q?a?= b)')).toBe('(a b)')
    expect(decodeEncodedWords('(=?ISO-8859-1?Q?a?=  =?ISO-8859-1?Q?b?=)')).toBe('(ab)')
    expect(decodeEncodedWords('=?ISO-8859-1?Q?a_b?= x')).toBe('a b x')
  })

  test('a character split between two words, a language, raw bytes, and what is no word', () => {
    expect(decodeEncodedWords('=?utf-8?B?w6Q=?= =?UTF-8*de?Q?=C3?=\t=?utf-8?q?=BC?=')).toBe('äü')
    expect(decodeEncodedWords('\xc3\xa4 =?x')).toBe('ä =?x')
    expect(decodeEncodedWords('=?utf-8?z?x?=')).toBe('=?utf-8?z?x?=')
  })

  test('any text in UTF-8 words comes back', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: 'grapheme', minLength: 1 }), { minLength: 1 }), (texts) => {
        const words = texts.map((text) => `=?utf-8?b?${Buffer.from(text).toString('base64')}?=`)
        expect(decodeEncodedWords(words.join('\t'))).toBe(Buffer.from(texts.join('')).toString())
      }),
    )
  })
})

describe('content fields', () => {
  test('parameters with quotes, comments, blanks and continuations', () => {
    const read = parseContentType(
      'Text/HTML (c) ; Charset = "u\\"8" (x); name*1=b; name*0="a "; t*=utf-8\'\'%20; z=1; junk',
    )
    expect([read.type, read.subtype]).toEqual(['Text', 'HTML'])
    expect(read.parameters).toEqual([
      ['Charset', 'u"8'],
      ['z', '1'],
      ['name', 'a b'],
      ['t*', "utf-8''%20"],
    ])
    expect(parseContentType('nonsense; a=b')).toEqual({ type: '', subtype: '', parameters: [], valid: false })
    expect(parseContentType('text')).toMatchObject({ type: 'text', subtype: '' })
  })

  test('encoded and plain pieces of one parameter are joined as encoded', () => {
    expect(parseDisposition('attachment; f*0*=utf-8\'\'%41; f*1="b%c"')?.parameters).toEqual([
      ['f*', "utf-8''%41b%25c"],
    ])
    expect(parseDisposition('attachment; f*1=x; g=y')?.parameters).toEqual([
      ['g', 'y'],
      ['f*1', 'x'],
    ])
  })

  test('pathological fields take linear time', () => {
    for (const piece of ['(', '"', ';', ';a=', ';a*0=', '\\', ';(', '=', ';a="']) {
      const begin = performance.now()
      parseContentType(`a/b${piece.repeat(100_000)}`)
      expect(performance.now() - begin).toBeLessThan(2000)
    }
  })
})

describe('dates', () => {
  const read = (value: string): string | undefined => {
    const date = parseDate(value)
    return date === undefined ? undefined : `${new Date(date.timeMs).toISOString()} ${date.offsetMinutes}`
  }
  test('RFC 5322, its obsolete forms, and asctime', () => {
    expect(read('Fri, 21 Nov 1997 09:55:06 -0600')).toBe('1997-11-21T15:55:06.000Z -360')
    expect(read('21 Nov 97 09:55 GMT (comment)')).toBe('1997-11-21T09:55:00.000Z 0')
    expect(read('Fri, 21 Nov 02 9:5:6 EST')).toBe('2002-11-21T14:05:06.000Z -300')
    expect(read('Mon, 05 Aug 0102 17:27:19 +0000')).toBe('2002-08-05T17:27:19.000Z 0')
    expect(read('Tue Aug  6 00:29:18 2002')).toBe('2002-08-06T00:29:18.000Z 0')
  })
  test('what is no date is none', () => {
    for (const value of ['', 'tomorrow', '31 Feb 2002 00:00 +0000', '1 Foo 2002 00:00', '1 Jan 2002 25:00']) {
      expect(parseDate(value)).toBeUndefined()
    }
  })
  test('any text is looked at in bounded time', () => {
    fc.assert(fc.property(fc.string(), (text) => void parseDate(text)))
    for (const piece of [' ', 'a ', '1 ', '(', '1 Jan ']) parseDate(piece.repeat(1_000_000))
  })
})

describe('subjects', () => {
  test('replies, forwards, tags and trailers come off (RFC 5256 §2.1)', () => {
    const base = (subject: string): string => baseSubject(subject).base
    expect(base('Re: Fwd: [list] Re[2]: hello (fwd) (FWD)')).toBe('hello')
    expect(base('[Fwd: Re: hello]')).toBe('hello')
    expect(base('[PATCH]')).toBe('[PATCH]')
    expect(base('  a   b ')).toBe('a b')
    expect(base('Response: x')).toBe('Response: x')
    expect(base('[a] [b] x')).toBe('x')
    expect(base('Re:')).toBe('')
  })
  test('only what was taken off makes it a reply', () => {
    expect(baseSubject('Re: x').isReplyOrForward).toBe(true)
    expect(baseSubject('x (fwd)').isReplyOrForward).toBe(true)
    expect(baseSubject('[fwd: x]').isReplyOrForward).toBe(true)
    expect(baseSubject('[list] x').isReplyOrForward).toBe(false)
  })
  test('a base subject is its own base', () => {
    const piece = fc.constantFrom('re', 'Fwd', 'fw', ':', ' ', '[x]', '[', ']', '(fwd)', 'word', '[fwd:')
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const { base } = baseSubject(pieces.join(''))
        expect(baseSubject(base)).toEqual({ base, isReplyOrForward: false })
      }),
    )
  })
})

describe('message ids', () => {
  test('equal ids are equal strings (RFC 5256)', () => {
    expect(messageIds('<01KF8JCEOCBS0045PS@xxx.yyy.com>')).toEqual(messageIds('<"01KF8JCEOCBS0045PS"@xxx.yyy.com>'))
    expect(messageIds('your mail <a@b> of Monday\r\n\t<c . d@[1.2] > <broken> <e@f>')).toEqual([
      'a@b',
      'c.d@[1.2]',
      'e@f',
    ])
  })
  test('any text is read in bounded time', () => {
    for (const piece of ['<', '<(', '<"', '<a@', '<a@b>', '<a.']) {
      const begin = performance.now()
      messageIds(piece.repeat(200_000))
      expect(performance.now() - begin).toBeLessThan(3000)
    }
  })
})

test('blanks are tidied', () => {
  expect(tidyBlanks('  a\t\r\n b  c ')).toBe('a b c')
  expect(tidyBlanks('a b')).toBe('a b')
})

describe('the short way', () => {
  const numRuns = process.env['MAILSTEAD_DEPTH'] === undefined ? 2000 : 20_000

  test('of a date is that of any date', () => {
    const two = fc.constantFrom('00', '01', '9', '23', '24', '28', '29', '30', '31', '59', '60', '61', 'x1', '4x', '99')
    const date = fc.tuple(
      fc.constantFrom('Mon, ', 'Thu, ', 'Xyz, ', 'Mon ', '', 'Mo, ', 'M1n, ', 'Mon,', ' ', '(x) '),
      two,
      fc.constantFrom(' Jan ', ' feb ', ' FEB ', ' Apr ', ' Jux ', ' June ', '-Feb-', '  Sep '),
      fc.constantFrom('2020', '2019', '2000', '1900', '1000', '0999', '20', '102', '9999', '202o', '20200'),
      fc.constantFrom(' ', '  ', ', '),
      two,
      fc.constantFrom(':', ':', ' : ', '.'),
      two,
      fc.constantFrom(':', ':', ''),
      two,
      fc.constantFrom(
        ' +0000',
        ' -0730',
        ' +9999',
        ' GMT',
        '',
        ' +01:00',
        ' -000',
        ' 0000',
        '+0100',
        ' +0200 (CEST)',
        ' -0000x(',
      ),
      fc.constantFrom('', '', '', '0', ' (a\\) b', '\r\n'),
    )
    let plain = 0
    fc.assert(
      fc.property(date, (pieces) => {
        const text = pieces.join('')
        const short = parsePlainDate(text)
        if (short === undefined) return
        plain++
        expect(short).toEqual(parseAnyDate(text))
      }),
      { numRuns: numRuns * 10 },
    )
    expect(plain).toBeGreaterThan(0)
    fc.assert(
      fc.property(
        fc.date({ min: new Date(Date.UTC(1000, 0)), max: new Date(Date.UTC(9999, 11)), noInvalidDate: true }),
        (when) => {
          const text = when.toUTCString().replace('GMT', '-0330')
          expect(parsePlainDate(text)).toEqual(parseAnyDate(text))
          expect(parsePlainDate(text)).toBeDefined()
        },
      ),
      { numRuns },
    )
  })

  test('of a message id is that of any message id', () => {
    const piece = fc.constantFrom(
      '<',
      '>',
      '@',
      '.',
      'a',
      'b.c',
      ' ',
      '"q"',
      '[1]',
      '\\',
      '(c)',
      '\xe9',
      '\r\n ',
      '<a.b@c>',
      '<a@b',
    )
    const slowly = (text: string): string[] => {
      const ids: string[] = []
      const cursor = new Cursor(text)
      for (let open = text.indexOf('<'); open >= 0; open = text.indexOf('<', cursor.at)) {
        cursor.at = open
        const id = idAt(cursor)
        if (id === undefined) cursor.at = open + 1
        else ids.push(id)
      }
      return ids
    }
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), (pieces) => {
        const text = pieces.join('')
        expect(messageIds(text)).toEqual(slowly(text))
      }),
      { numRuns },
    )
  })

  test('of tidy blanks is that of any blanks', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(' ', '\t', '\r\n', 'a', '\0', '\xa0'), { maxLength: 6 }), (pieces) => {
        const text = pieces.join('')
        expect(tidyBlanks(text)).toBe(text.replace(/[ \t\r\n]+/g, ' ').replace(/^ | $/g, ''))
      }),
      { numRuns },
    )
  })
})
