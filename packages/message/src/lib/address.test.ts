import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseAddressList, parseAnyList, parsePlainList } from './address.ts'

/** Name, route, mailbox and host of each element, `-` for none. */
const read = (value: string): string[] =>
  parseAddressList(value).map(({ name, route, mailbox, host }) =>
    [name, route, mailbox, host].map((each) => each ?? '-').join(' | '),
  )

describe('address list', () => {
  test('the forms of RFC 5322', () => {
    expect(read('a@b')).toEqual(['- | - | a | b'])
    expect(read('Joe Q. Public <john.q.public@example.com>')).toEqual([
      'Joe Q. Public | - | john.q.public | example.com',
    ])
    expect(read('"Giant; \\"Big\\" Box" <sysservices@example.net>')).toEqual([
      'Giant; "Big" Box | - | sysservices | example.net',
    ])
    expect(read('Mary <@node.test,@b : mary@example.net>, , jdoe@test . example')).toEqual([
      'Mary | @node.test,@b | mary | example.net',
      '- | - | MISSING_MAILBOX | MISSING_DOMAIN',
      '- | - | jdoe | test.example',
    ])
    expect(read('pete(his account)@silly.test(his host)')).toEqual(['his host | - | pete | silly.test'])
    expect(read('"much more" @[192.0.2.1]')).toEqual(['- | - | much more | [192.0.2.1]'])
  })

  test('groups have a beginning and an end', () => {
    expect(read('A Group:Ed Jones <joe@where.test>,john@jdoe.one;, x@y')).toEqual([
      '- | - | A Group | -',
      'Ed Jones | - | joe | where.test',
      '- | - | john | jdoe.one',
      '- | - | - | -',
      '- | - | x | y',
    ])
    expect(read('undisclosed-recipients:;')).toEqual(['- | - | undisclosed-recipients | -', '- | - | - | -'])
    expect(parseAddressList('g: a@b;').map(({ kind }) => kind)).toEqual(['group-start', 'address', 'group-end'])
  })

  test('what is missing is named', () => {
    expect(read('user')).toEqual(['- | - | user | MISSING_DOMAIN'])
    expect(read('"user"')).toEqual(['user | - | MISSING_MAILBOX | MISSING_DOMAIN'])
    expect(read('John Doe')).toEqual(['John Doe | - | MISSING_MAILBOX | MISSING_DOMAIN'])
    expect(read('Name <>')).toEqual(['Name | - | MISSING_MAILBOX | MISSING_DOMAIN'])
    expect(read('Name <a@b')).toEqual(['Name | - | a | SYNTAX_ERROR'])
    expect(read('<@broken a@b>')).toEqual(['- | INVALID_ROUTE | a | b'])
  })

  test('mailboxes with odd dots are mailboxes', () => {
    expect(read('.a..b.@c')).toEqual(['- | - | .a..b. | c'])
  })

  test('8-bit names and encoded words are as written', () => {
    expect(read('J\xf6rg <j@x>, =?utf-8?q?J=C3=B6rg?= <j@x>')).toEqual([
      'J\xf6rg | - | j | x',
      '=?utf-8?q?J=C3=B6rg?= | - | j | x',
    ])
  })

  test('well-formed lists are read as they were written', () => {
    const atom = fc.stringMatching(/^[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,8}$/)
    const name = fc.stringMatching(/^[a-z \\",<>@:;()[\]]{1,12}$/)
    const one = fc.record({ name: fc.option(name, { nil: undefined }), mailbox: atom, host: atom })
    fc.assert(
      fc.property(fc.array(one, { maxLength: 5 }), (list) => {
        const text = list.map(({ name, mailbox, host }) =>
          name === undefined ? `${mailbox}@${host}` : `"${name.replace(/[\\"]/g, '\\$&')}" <${mailbox}@${host}>`,
        )
        const expected = list.map((each) => ({ kind: 'address', route: undefined, ...each }))
        expect(parseAddressList(text.join(', '))).toEqual(expected)
      }),
    )
  })

  test('any text is read, in linear time', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary-ascii' }), (text) => void parseAddressList(text)))
    for (const piece of ['(', '"', '<', '@', ',', 'a@b,', 'a:', ';', '\\', '(a', '<@', 'a.', '[', '"a" ']) {
      const begin = performance.now()
      parseAddressList(piece.repeat(100_000))
      expect(performance.now() - begin).toBeLessThan(2000)
    }
  })
})

describe('the short way', () => {
  test('of an address list is that of any address list', () => {
    const piece = fc.oneof(
      {
        weight: 3,
        arbitrary: fc.constantFrom('a@b', 'Ann Lee <ann.lee@x.org>', '"Lee, Ann" <a@b>', ', ', ',', '<', '>', '@'),
      },
      fc.constantFrom(
        'a',
        'b.c',
        '.',
        ' ',
        '\t',
        '\r\n ',
        '"',
        '""',
        '"q"',
        '\\',
        '(c)',
        ':',
        ';',
        '[1]',
        '\xe9',
        '\0',
        'é',
        '€',
      ),
    )
    let plain = 0
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        const text = pieces.join('')
        const list = parsePlainList(text)
        if (list === undefined) return
        if (list.length > 0) plain++
        expect(list).toEqual(parseAnyList(text))
      }),
      { numRuns: process.env['MAILSTEAD_DEPTH'] === undefined ? 5000 : 50_000 },
    )
    expect(plain).toBeGreaterThan(100)
    expect(parsePlainList(' Ann "B. Lee" c <a.b@x.org>,\r\n d@e')).toEqual(
      parseAnyList('Ann "B. Lee" c <a.b@x.org>, d@e'),
    )
    expect(parsePlainList('a@b, (c) d@e')).toBe(undefined)
  })
})
