import { mkdtempSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { posixFs } from '@mailstead/fs/posix'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { depth, say } from '../../../../tests/support/depth.ts'
import { Acl } from './acl.ts'
import { ACL_FILE_MAX, FINDINGS_MAX, parseAclFile } from './acl-file.ts'
import { GlobalAcl } from './global-acl.ts'
import { openGlobalAcl } from './global-file.ts'
import { MatchedName } from './pattern.ts'
import { formatRights } from './rights.ts'
import { subjectOf } from './subject.ts'

function globalAcl(text: string): GlobalAcl {
  return new GlobalAcl(Buffer.from(text))
}

/** Letters of a user in a mailbox of which only the global file says something, and of its own list if given. */
function rights(file: GlobalAcl | string, mailbox: string, user: string, local = '', owner?: string): string {
  const global = (typeof file === 'string' ? globalAcl(file) : file).layersFor(mailbox)
  const acl = new Acl({ owner, global, local: parseAclFile(Buffer.from(local)).list })
  return formatRights(acl.rightsFor(subjectOf(user, ['g'])))
}

/** The same by trying everything. */
function matchesSlowly(pattern: string, name: string): boolean {
  const [first] = Array.from(pattern)
  const rest = pattern.slice(first?.length)
  const characters = Array.from(name)
  if (first === undefined) return name === ''
  if (first === '*')
    return matchesSlowly(rest, name) || (name !== '' && matchesSlowly(pattern, characters.slice(1).join('')))
  return (
    characters[0] !== undefined &&
    (first === '?' || first === characters[0]) &&
    matchesSlowly(rest, characters.slice(1).join(''))
  )
}

describe('a pattern', () => {
  test('matches as if everything were tried', () => {
    const text = (letters: string[], maxLength: number): fc.Arbitrary<string> =>
      fc.array(fc.constantFrom(...letters), { maxLength }).map((list) => list.join(''))
    fc.assert(
      fc.property(text(['a', 'b', '/', '*', '?', '😀'], 8), text(['a', 'b', '/', '*', '😀'], 10), (pattern, name) => {
        expect(new MatchedName(name).matches(pattern)).toBe(matchesSlowly(pattern, name))
      }),
      { numRuns: depth() === 'normal' ? 5000 : 100_000 },
    )
  })

  test('matches names of any length, across words of bits', () => {
    for (let length = 0; length < 200; length++) {
      const name = `${'ab'.repeat(length)}`.slice(0, length)
      const matched = new MatchedName(name)
      for (const [pattern, expected] of [
        ['*', true],
        [name, true],
        [`${name}?`, false],
        ['?'.repeat(length), true],
        ['?'.repeat(length + 1), false],
        [`*${name.slice(3)}`, true],
        [`${name.slice(0, -1)}*`, true],
        [`*${name}*c`, false],
      ] as const)
        expect([pattern, matched.matches(pattern)]).toEqual([pattern, expected])
    }
  })
})

describe('the global file', () => {
  test('says of several names what it says of each', () => {
    const part = fc.constantFrom('a', 'b', 'ab', '*', '?', '%u', '%d', '%%u')
    const pattern = fc.array(part, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'))
    const line = fc.tuple(pattern, fc.constantFrom('anyone l', 'user=%u r', 'group=%u-%d w', 'user=x i @3', 'nonsense'))
    const name = fc
      .array(fc.constantFrom('a', 'b', 'ab', '%u'), { minLength: 1, maxLength: 3 })
      .map((parts) => parts.join('/'))
    fc.assert(
      fc.property(fc.array(line, { maxLength: 8 }), fc.array(name, { maxLength: 4 }), (lines, names) => {
        const file = globalAcl(lines.map((parts) => `${parts.join(' ')}\n`).join(''))
        const said = (...of: readonly string[]): string[] =>
          file
            .layersFor(...of)
            .flatMap(({ label, list }) => [
              ...list.entries.map((entry) => `${label} ${entry.kind} ${entry.name} ${entry.rights} ${entry.origin}`),
              ...list.broken.map(({ text, origin }) => `${label} broken ${text} ${origin}`),
            ])
        // Entries of one identifier are put together: which lines they are of is told in one text.
        const lineNumbers = (all: readonly string[]): string[] =>
          [...new Set(all.flatMap((one) => one.match(/:\d+/g) ?? []))].toSorted()
        expect(lineNumbers(said(...names))).toEqual(lineNumbers(names.flatMap((one) => said(one))))
        expect(said(...names).toSorted()).toEqual(said(...names, ...names).toSorted())
        expect(said(...names).toSorted()).toEqual(said(...names.toReversed()).toSorted())
      }),
      { numRuns: depth() === 'normal' ? 500 : 10_000 },
    )
  })
  test('applies to a mailbox by all its names, each line once', () => {
    const file = globalAcl(
      'Work user=bob r\nshared/alice/* user=bob l\n* user=bob w\nshared/%u/* user=%u-aide i\n%u/* user=%u-aide s\n',
    )
    const layers = file.layersFor('Work', 'shared/alice/Work', 'people/alice/Work')
    const acl = new Acl({ global: layers })
    const of = (user: string): string => formatRights(acl.rightsFor(subjectOf(user, [])))
    expect([of('bob'), of('alice-aide'), of('shared-aide'), of('people-aide')]).toEqual(['lrw', 'i', 's', 's'])
    expect(layers.length).toBe(1)
    expect(layers[0]!.list.entries.length).toBe(4)
    // Whatever the order, and whether or not a name comes twice.
    const again = new Acl({ global: file.layersFor('people/alice/Work', 'Work', 'shared/alice/Work', 'Work') })
    for (const user of ['bob', 'alice-aide', 'shared-aide'])
      expect(again.rightsFor(subjectOf(user, []))).toBe(acl.rightsFor(subjectOf(user, [])))
    expect(new Set(['a\n', 'a\n', 'b\n'].map((text) => globalAcl(text).digest)).size).toBe(2)
  })
  test('applies all lines whose pattern matches, and beats what mailboxes say', () => {
    const file =
      '# who may what\nPublic/* anyone lr\n"Public/Our News*" user=bob ws\nPublic/? user=bob i\n* -user=eve r\n'
    expect(rights(file, 'Public/x', 'bob')).toBe('i')
    expect(rights(file, 'Public/Our News/2026', 'bob')).toBe('ws')
    expect(rights(file, 'Public/Our News/2026', 'dan', 'user=dan lrwst\n-user=dan l')).toBe('lr')
    expect(rights(file, 'Public/x', 'eve')).toBe('l')
    expect(rights(file, 'INBOX', 'ann', '', 'ann')).toBe('lrwstipekxa')
    expect(rights(file, 'Public/x', 'ann', '', 'ann')).toBe('lr')
    expect(rights(file, 'public/x', 'bob')).toBe('')
  })

  test('takes names with wildcards in them as they are', () => {
    const file = 'a*b user=bob l\n"a\\*c" user=bob l\n[x] user=bob l\n'
    expect(rights(file, 'a*b', 'bob')).toBe('l')
    expect(rights(file, 'axb', 'bob')).toBe('l')
    expect(rights(file, 'a*c', 'bob')).toBe('l')
    expect(rights(file, '[x]', 'bob')).toBe('l')
    expect(rights(file, 'x', 'bob')).toBe('')
    // A plain name with a wildcard in it is no pattern.
    expect(rights('axb user=bob l', 'a*b', 'bob')).toBe('')
  })

  test('has precedence by number, and lines below zero for mailboxes that say nothing else', () => {
    const file = '* user=bob lr\n* user=bob w @2\n* -user=bob w @1\n* user=dan lr @-1\n* anyone l @-2\nx user=a@b lr\n'
    expect(rights(file, 'x', 'bob')).toBe('w')
    expect(rights(file, 'x', 'dan')).toBe('lr')
    expect(rights(file, 'x', 'dan', 'user=dan i')).toBe('i')
    expect(rights(file, 'x', 'eve')).toBe('l')
    expect(rights(file, 'x', 'ann', '', 'ann')).toBe('lrwstipekxa')
    expect(rights(file, 'x', 'a@b')).toBe('lr')
    expect(globalAcl(file).findings).toEqual([])
  })

  test('has levels that stand for users and domains', () => {
    const file = globalAcl(
      'Public/%d/* domain=%d lr\nPublic/%d/%n/* user=%n@%d lrwst @1\nHome/%u user=%u l\nHome/%u group=team-%u r\nPublic/* user=%u x\nPublic/%d/* user=%n@%d x\n',
    )
    expect(file.findings.map(({ line, problem, kind }) => [line, kind, problem])).toEqual([
      [5, 'odd', '%u is no level of the pattern, and part of the name here'],
      [6, 'odd', '%n is no level of the pattern, and part of the name here'],
    ])
    expect(rights(file, 'Public/x.org/news', 'bob@X.org')).toBe('lr')
    expect(rights(file, 'Public/x.org/news', 'bob@y.org')).toBe('')
    expect(rights(file, 'Public/x.org/bob/a/b', 'bob@x.org')).toBe('lrwst')
    expect(rights(file, 'Public/x.org/bob/a/b', 'dan@x.org')).toBe('lr')
    expect(rights(file, 'Public/x.org', 'bob@x.org')).toBe('')
    expect(rights(file, 'Home/bob', 'bob')).toBe('l')
    expect(rights(file, 'Home/bob/x', 'bob')).toBe('')
    expect(rights(file, 'Home/', '')).toBe('')
    expect(rights(globalAcl('Home/%u group=%u r'), 'Home/g', 'bob')).toBe('r')
    expect(rights(globalAcl('%d/%%u domain=%d r'), 'x.org/%u', 'bob@x.org')).toBe('r')
    expect(rights(globalAcl('%d/%%u domain=%d r'), 'x.org/bob', 'bob@x.org')).toBe('')
    // Without a level that is a variable, `%` is only a character.
    expect(rights('50%u user=%u l', '50%u', '%u')).toBe('l')
  })

  test('with broken lines denies where they may apply, and says which they are', () => {
    const base = '* anyone lr\n'
    const both = (line: string, ...names: string[]): string[] =>
      names.map((name) => `${name}: ${rights(base + line, name, 'bob')} ${rights(base + line, name, 'dan')}`)
    expect(both('x/* user=bob lQ', 'x/y', 'y')).toEqual(['x/y:  lr', 'y: lr lr'])
    expect(both('x/* bob l', 'x/y', 'y')).toEqual(['x/y: l l', 'y: lr lr'])
    expect(both('x/*', 'x/y', 'y')).toEqual(['x/y:  ', 'y: lr lr'])
    expect(both('"x/y z user=bob l', 'x/y', 'x/yy', 'y')).toEqual(['x/y:  ', 'x/yy:  ', 'y: lr lr'])
    expect(both('x/*\tuser=bob l', 'x/y', 'y')).toEqual(['x/y:  ', 'y: lr lr'])
    expect(both(' x user=bob l', 'x', 'y')).toEqual(['x:  ', 'y: lr lr'])
    expect(both('x user=bob l @high\nx user=bob lr @9', 'x', 'y')).toEqual(['x:  lr', 'y: lr lr'])
    expect(both('a/%u authenticated l', 'a/bob', 'y')).toEqual(['a/bob:  ', 'y: lr lr'])
    expect(both('*/%u user=%u l', 'a/bob', 'y')).toEqual(['a/bob:  ', 'y:  '])
    expect(both('x \ud800', 'x', 'y')).toEqual(['x:  ', 'y: lr lr'])
    expect(rights(`${base}x/*`, 'x/y', 'ann', '', 'ann')).toBe('lr')
    const { findings } = globalAcl('x user=bob lQ\nx user=bob\tl\n"x\nx owner l')
    expect(findings).toMatchObject([
      { line: 1, text: 'x user=bob lQ', kind: 'broken' },
      { line: 2, kind: 'odd' },
      { line: 3, kind: 'broken' },
    ])
  })

  test('of any bytes is read, and lets nobody do more than its whole lines', () => {
    const pieces = fc.oneof(
      fc.constantFrom(
        'x',
        'x/*',
        '*',
        '%u',
        'user=bob',
        'user=%u',
        'anyone',
        '-',
        '"',
        '\\',
        ' ',
        '\t',
        'lr',
        'Q',
        '\n',
        '@1',
        '@',
        '/',
      ),
      fc.uint8Array({ maxLength: 3 }),
    )
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 40 }), (list) => {
        const bytes = Buffer.concat(list.map((piece) => (typeof piece === 'string' ? Buffer.from(piece) : piece)))
        const file = new GlobalAcl(bytes)
        const bad = new Set(file.findings.filter(({ kind }) => kind === 'broken').map(({ line }) => line))
        const whole = bytes
          .toString('latin1')
          .split('\n')
          .map((line, at) => (bad.has(at + 1) ? '' : line))
        const without = new GlobalAcl(Buffer.from(whole.join('\n'), 'latin1'))
        expect(without.findings.every(({ kind }) => kind === 'odd')).toBe(true)
        for (const name of ['x', 'x/y', 'INBOX', 'bob']) {
          const [a, b] = [file, without].map((one) => new Acl({ global: one.layersFor(name) })) as [Acl, Acl]
          for (const subject of [subjectOf(''), subjectOf('bob', ['g'])])
            expect(a.rightsFor(subject) & ~b.rightsFor(subject)).toBe(0)
        }
      }),
      { numRuns: depth() === 'normal' ? 1000 : 20_000 },
    )
  })

  test('of a hundred thousand lines is bounded, whatever its patterns', () => {
    const lines = 100_000
    const name = 'ab'.repeat(500)
    const measured: string[] = []
    for (const [kind, make] of [
      ['plain names', (at: number) => `Public/${at} user=bob lr`],
      ['prefixes', (at: number) => `Public/${at}/* user=bob lr`],
      ['one for all', (at: number) => `* user=u${at} lr`],
      ['hostile', (at: number) => `${'*a'.repeat(8)}*b*${at}? anyone lr @${at % 1000}`],
    ] as const) {
      let started = performance.now()
      const file = globalAcl(Array.from({ length: lines }, (_, at) => make(at)).join('\n'))
      const parsed = performance.now() - started
      expect(file.size).toBe(lines)
      started = performance.now()
      const names = kind === 'one for all' ? [name] : [name, 'Public/99999', 'Public/99999/x', 'INBOX']
      const found = names.map((one) => file.layersFor(one).reduce((sum, { list }) => sum + list.entries.length, 0))
      expect(found).toEqual(
        kind === 'plain names'
          ? [0, 1, 0, 0]
          : kind === 'prefixes'
            ? [0, 0, 1, 0]
            : kind === 'hostile'
              ? [0, 0, 0, 0]
              : [lines],
      )
      measured.push(`${kind} ${Math.round(parsed)} + ${Math.round(performance.now() - started)} ms`)
    }
    say(`global files of ${lines} lines, read and asked: ${measured.join(', ')}`)
    const broken = globalAcl('x user=bob lQ\n'.repeat(lines))
    expect(broken.findings.length).toBe(FINDINGS_MAX)
    expect(rights(broken, 'x', 'bob')).toBe('')
  })

  test('that is longer than is read denies everything but to owners', () => {
    const file = globalAcl(`x anyone lr @999\n${'#23456789\n'.repeat(ACL_FILE_MAX / 10)}x -anyone r`)
    expect(rights(file, 'x', 'bob')).toBe('')
    expect(rights(file, 'y', 'ann', '', 'ann')).toBe('lrwstipekxa')
  })

  test('says the same of mailboxes to which the same lines apply, with the same lists', () => {
    const file = globalAcl('Public/* anyone lr\nPublic/a* user=bob lr')
    expect(file.layersFor('Public/x')).toBe(file.layersFor('Public/y'))
    expect(file.layersFor('Public/a')).not.toBe(file.layersFor('Public/y'))
    expect(file.layersFor('INBOX')).toEqual([])
  })
})

describe('the global file on disk', () => {
  test('is read again when it is another one, and goes on to apply when it cannot be read', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-acl-'))
    try {
      await using fs = await posixFs(directory)
      const path = join(directory, 'acl')
      let now = Date.now()
      const write = (text: string, ageMs: number): void => {
        writeFileSync(`${path}.new`, text)
        utimesSync(`${path}.new`, (now - ageMs) / 1000, (now - ageMs) / 1000)
        renameSync(`${path}.new`, path)
      }
      await expect(openGlobalAcl(fs, 'acl')).rejects.toMatchObject({ code: 'FS_NOT_FOUND' })
      write('x anyone l\n', 60_000)
      const file = await openGlobalAcl(fs, 'acl', { now: () => now })
      const first = file.current
      expect(rights(first, 'x', 'bob')).toBe('l')
      expect(await file.refresh()).toBe('unchanged')
      expect(file.current).toBe(first)
      write('x anyone lr\n', 60_000)
      expect(await file.refresh()).toBe('changed')
      expect(rights(file.current, 'x', 'bob')).toBe('lr')
      rmSync(path)
      expect(await file.refresh()).toBe('kept')
      expect(file.problem).toMatchObject({ code: 'FS_NOT_FOUND' })
      expect(rights(file.current, 'x', 'bob')).toBe('lr')
      write('x anyone lr\n', 60_000)
      expect(await file.refresh()).toBe('unchanged')
      expect(file.problem).toBeUndefined()
      // In the same moment, of the same size, in the same place: only reading it again tells.
      write('x anyone lw\n', 0)
      expect(await file.refresh()).toBe('changed')
      const at = now / 1000
      writeFileSync(path, 'x anyone li\n')
      utimesSync(path, at, at)
      expect(await file.refresh()).toBe('changed')
      expect(rights(file.current, 'x', 'bob')).toBe('li')
      now += 60_000
      expect(await file.refresh()).toBe('unchanged')
      expect(await Promise.all([file.refresh(), file.refresh()])).toEqual(['unchanged', 'unchanged'])
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})
