import { type Fs, FsError, type FsErrorCode } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { depth, say } from '../../../../tests/support/depth.ts'
import { Acl } from './acl.ts'
import {
  ACL_FILE_MAX,
  BROKEN_LINES_MAX,
  changeAclFile,
  FINDINGS_MAX,
  formatAclFile,
  parseAclFile,
  readAclFile,
  writeAclFile,
} from './acl-file.ts'
import { type AclEntry, type AclList, aclList, changeAcl, EMPTY_ACL, inheritedAcl, withoutBroken } from './list.ts'
import { ALL_RIGHTS, formatRights, parseRights } from './rights.ts'
import { ANONYMOUS, subjectOf } from './subject.ts'

function parse(text: string): ReturnType<typeof parseAclFile> {
  return parseAclFile(Buffer.from(text))
}

function format(list: AclList): string {
  return Buffer.from(formatAclFile(list)).toString()
}

function rights(text: string, user: string, groups: readonly string[] = [], owner?: string): string {
  return formatRights(new Acl({ owner, local: parse(text).list }).rightsFor(subjectOf(user, groups)))
}

describe('a dovecot-acl file', () => {
  test('is read as Dovecot reads it', () => {
    const one = (text: string): Partial<AclEntry> | undefined => {
      const { list, findings } = parse(text)
      expect(findings.filter(({ kind }) => kind === 'broken')).toEqual([])
      return list.entries[0]
    }
    const lr = parseRights('lr')
    expect(one('user=bob lr')).toMatchObject({ kind: 'user', name: 'bob', rights: lr })
    expect(one('-user=bob lr')).toEqual({ kind: 'user', name: 'bob', denied: lr, origin: 'dovecot-acl:1' })
    expect(one('"-group=a \\"b\\" \\\\c" lr')).toMatchObject({ kind: 'group', name: 'a "b" \\c', denied: lr })
    expect(one('user=bob')).toMatchObject({ name: 'bob', rights: 0 })
    expect(one('user=bob   lr \t ')).toMatchObject({ rights: lr })
    expect(one('user=bob :lookup,read\tlookup')).toMatchObject({ rights: lr, otherRights: undefined })
    expect(one('user=bob l:read foo')).toMatchObject({ rights: lr, otherRights: ['foo'] })
    expect(one('anonymous lr')).toMatchObject({ kind: 'anyone', name: '' })
    expect(one('user=a"b lr')).toMatchObject({ name: 'a"b', rights: lr })
    // Only a space ends an identifier.
    expect(one('user=bob\tlr')).toMatchObject({ name: 'bob\tlr', rights: 0 })
    expect(parse('user=bob\tlr').findings).toMatchObject([{ line: 1, kind: 'odd' }])
    expect(parse('# user=bob lr\n\nanyone l\r\nowner r').list.entries).toMatchObject([
      { kind: 'anyone', origin: 'dovecot-acl:3' },
      { kind: 'owner', origin: 'dovecot-acl:4' },
    ])
    expect(parse('user=b l\nuser=b r\n-user=b w').list.entries).toMatchObject([
      { rights: lr, denied: parseRights('w'), origin: 'dovecot-acl:1, dovecot-acl:2, dovecot-acl:3' },
    ])
  })

  test('is written as Dovecot writes it', () => {
    const written =
      'anyone l\nauthenticated \ngroup=x r :bar foo\nowner akxeilprwts\n"user=a b\\"c\\\'" l\nuser=bob lr\n-user=bob wts\n'
    expect(format(parse(written).list)).toBe(written)
    const shuffled = written.trimEnd().split('\n').toReversed().join('\r\n')
    expect(format(parse(shuffled).list)).toBe(written)
  })

  test('with broken lines stays usable, and says which they are', () => {
    const { list, findings } = parse('anyone lr\nuser=bob lrQ\n-user=eve w\nuser=dan l r\n user=x l\n')
    expect(findings).toMatchObject([
      { line: 2, text: 'user=bob lrQ', problem: '"Q" is no right', kind: 'broken' },
      { line: 4, problem: 'something follows its rights' },
      { line: 5, problem: 'it does not say whom it means' },
    ])
    expect(list.entries.length).toBe(2)
    // Kept as they were, so that what they deny stays denied until somebody repairs them.
    expect(format(list)).toBe('anyone lr\n-user=eve w\nuser=bob lrQ\nuser=dan l r\n user=x l\n')
    expect(withoutBroken(list).broken).toEqual([])
  })

  test('denies what a broken line may have denied, and no more where it says whom it means', () => {
    const file = 'anyone lr\ngroup=g lrw\nuser=eve lrws\n'
    for (const [line, bob, eve, dan] of [
      ['', 'lrw', 'lrws', 'lr'],
      ['user=bob lrQ', '', 'lrws', 'lr'],
      ['user=bob l r', '', 'lrws', 'lr'],
      ['user=bob lr # a remark', '', 'lrws', 'lr'],
      ['-user=bob Q', '', 'lrws', 'lr'],
      // Another line of the same group gives what this one may have given, and more.
      ['group=g Q', 'lrw', 'lrws', 'lr'],
      ['anyone Q', 'lrw', 'lrws', 'lr'],
      ['authenticated Q', 'lrw', 'lrws', ''],
      ['-anyone Q', '', '', ''],
      ['user=bob :read \0', '', 'lrws', 'lr'],
      // Whom it means is not legible, what it says is.
      ['bob lr', 'lr', 'lr', 'lr'],
      ['User=bob l', 'l', 'l', 'l'],
      ['-bob r', 'lw', 'lws', 'l'],
      ['user=b\ufffd lr', 'lr', 'lr', 'lr'],
      // Nor is that.
      ['"user=bob lr', '', '', ''],
      ['bob Q', '', '', ''],
      ['\u2013user=bob r', '', '', ''],
    ] as const) {
      const text = `${file}${line}\n`
      expect([line, rights(text, 'bob', ['g']), rights(text, 'eve'), rights(text, 'dan')]).toEqual([
        line,
        bob,
        eve,
        dan,
      ])
      expect(rights(text, 'ann', [], 'ann')).toBe('lrwstipekxa')
    }
  })

  test('that is repaired by a change of the same identifier is whole again', () => {
    const { list } = parse('user=bob lrQ\nusr=eve l\n')
    const repaired = changeAcl(list, { identifier: { kind: 'user', name: 'bob' }, mode: 'replace', rights: 3 })
    expect(format(repaired)).toBe('user=bob lr\nusr=eve l\n')
  })

  test('of any bytes is read, reported, and gives no more than its whole lines say', () => {
    const pieces = fc.oneof(
      fc.constantFrom(
        'user=bob',
        'anyone',
        '-',
        '"',
        '\\',
        ' ',
        '\t',
        ':',
        'lr',
        'Q',
        '\n',
        '\r\n',
        '#',
        '\0',
        'group=g',
        '*',
      ),
      fc.uint8Array({ maxLength: 4 }),
    )
    const subjects = [ANONYMOUS, subjectOf('bob', ['g']), subjectOf('ann')]
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 30 }), (list) => {
        const bytes = Buffer.concat(list.map((piece) => (typeof piece === 'string' ? Buffer.from(piece) : piece)))
        const content = parseAclFile(bytes)
        const broken = content.findings.filter(({ kind }) => kind === 'broken')
        expect(broken.length).toBe(content.list.broken.length)
        const acl = new Acl({ owner: 'ann', local: content.list })
        const whole = new Acl({ owner: 'ann', local: withoutBroken(content.list) })
        for (const subject of subjects) expect(acl.rightsFor(subject) & ~whole.rightsFor(subject)).toBe(0)
        // What is written is read again as the same.
        const again = parseAclFile(formatAclFile(content.list))
        expect(format(again.list)).toBe(format(content.list))
        for (const subject of subjects)
          expect(new Acl({ owner: 'ann', local: again.list }).rightsFor(subject)).toBe(acl.rightsFor(subject))
      }),
      { numRuns: depth() === 'normal' ? 1000 : 20_000 },
    )
  })

  test('of a hundred thousand lines is bounded, good or broken', () => {
    const lines = 100_000
    const started = performance.now()
    const good = parse(Array.from({ length: lines }, (_, at) => `user=u${(at * 7919) % lines} lr`).join('\n'))
    expect(good.list.entries.length).toBe(lines)
    expect(formatRights(new Acl({ local: good.list }).rightsFor(subjectOf('u99999')))).toBe('lr')
    const bad = parse(`anyone lr\n${'group=g Q\n'.repeat(lines)}user=bob lr`)
    expect(bad.findings.length).toBe(FINDINGS_MAX)
    expect(bad.list.broken.length).toBe(BROKEN_LINES_MAX + 1)
    const acl = new Acl({ owner: 'ann', local: bad.list })
    expect([acl.rightsFor(subjectOf('bob')), acl.rightsFor(subjectOf('ann'))]).toEqual([0, ALL_RIGHTS])
    say(`access list files: two of ${lines} lines in ${Math.round(performance.now() - started)} ms`)
  })

  test('that is too long, or has too long a line, denies what was not read', () => {
    const line = `user=bob lr :${'x'.repeat(9000)}`
    expect(parse(line).findings).toMatchObject([{ problem: 'it is too long', kind: 'broken' }])
    expect(rights(`anyone lr\n${line}`, 'bob')).toBe('')
    expect(rights(`anyone lr\n${line}`, 'eve')).toBe('lr')
    const long = parse(`anyone lr\n${'# nothing\n'.repeat(ACL_FILE_MAX / 10)}-user=bob r\n`)
    expect(long.findings).toMatchObject([{ line: 0, kind: 'broken' }])
    expect(new Acl({ local: long.list }).rightsFor(subjectOf('bob'))).toBe(0)
  })
})

describe('a change of a list', () => {
  const bob = { kind: 'user', name: 'bob' } as const

  test('is what SETACL and DELETEACL ask for', () => {
    let list = EMPTY_ACL
    const change = (text: string, mode: 'replace' | 'add' | 'remove' | 'clear', negative = false): string => {
      list = changeAcl(list, { identifier: bob, mode, rights: parseRights(text), negative })
      return format(list)
    }
    expect(change('lr', 'replace')).toBe('user=bob lr\n')
    expect(change('w', 'replace', true)).toBe('user=bob lr\n-user=bob w\n')
    expect(change('ws', 'add')).toBe('user=bob lrws\n-user=bob w\n')
    expect(change('lrws', 'remove')).toBe('user=bob \n-user=bob w\n')
    expect(change('', 'clear')).toBe('-user=bob w\n')
    expect(change('l', 'remove')).toBe('-user=bob w\n')
    expect(change('', 'clear', true)).toBe('')
    // It takes away what others have by less.
    expect(change('', 'replace')).toBe('user=bob \n')
  })

  test('keeps names of rights that are unknown until they are replaced', () => {
    const { list } = parse('user=bob l :foo\n')
    const add = changeAcl(list, { identifier: bob, mode: 'add', rights: 2 })
    expect(format(add)).toBe('user=bob lr :foo\n')
    expect(format(changeAcl(add, { identifier: bob, mode: 'replace', rights: 2 }))).toBe('user=bob r\n')
  })

  test('of a name that no file can hold is refused', () => {
    for (const name of ['a\nb', 'a\0', 'x'.repeat(2000), '\ud800'])
      expect(() => changeAcl(EMPTY_ACL, { identifier: { kind: 'user', name }, mode: 'replace' })).toThrow(
        expect.objectContaining({ code: 'ACL_BAD_IDENTIFIER' }),
      )
    expect(() => aclList([{ kind: 'user', name: 'a', rights: 4096 }])).toThrow(RangeError)
  })

  test('new mailboxes begin with what the nearest ancestor has, or the default mailbox', () => {
    const parent = parse('user=bob lr').list
    const defaults = parse('anyone l').list
    expect(inheritedAcl(parent, defaults)).toBe(parent)
    expect(inheritedAcl(EMPTY_ACL, defaults)).toBe(EMPTY_ACL)
    expect(inheritedAcl(undefined, defaults)).toBe(defaults)
    expect(inheritedAcl(undefined)).toBe(EMPTY_ACL)
  })
})

describe('on a file system', () => {
  test('a file is written, read and changed, by many at once', async () => {
    await using fs = memoryFs()
    expect(await readAclFile(fs, 'box/dovecot-acl')).toBeUndefined()
    await writeAclFile(fs, 'box/dovecot-acl', parse('user=bob lr').list)
    const users = Array.from({ length: 10 }, (_, at) => `u${at}`)
    await Promise.all(
      users.map((name) =>
        changeAclFile(fs, 'box/dovecot-acl', { identifier: { kind: 'user', name }, mode: 'replace', rights: 1 }),
      ),
    )
    const { list, findings } = (await readAclFile(fs, 'box/dovecot-acl'))!
    expect(list.entries.map(({ name }) => name)).toEqual(['bob', ...users])
    expect(findings).toEqual([])
    await changeAclFile(fs, 'new/dovecot-acl', { identifier: { kind: 'anyone', name: '' }, mode: 'add', rights: 1 })
    expect(Buffer.from(await fs.readFile('new/dovecot-acl')).toString()).toBe('anyone l\n')
  })

  test('one that may not be read takes everything from everybody, and any other failure is told', async () => {
    await using fs = memoryFs()
    await fs.writeFile('dovecot-acl', Buffer.from('anyone lr'))
    const { list, findings } = (await readAclFile(failing(fs, 'FS_DENIED'), 'dovecot-acl'))!
    expect(findings).toMatchObject([{ line: 0, kind: 'broken' }])
    const acl = new Acl({ owner: 'ann', local: list, defaults: new Acl({ local: parse('anyone lr').list }) })
    expect([acl.rightsFor(ANONYMOUS), acl.rightsFor(subjectOf('ann'))]).toEqual([0, 0])
    for (const code of ['FS_UNAVAILABLE', 'FS_IO'] as const)
      await expect(readAclFile(failing(fs, code), 'dovecot-acl')).rejects.toMatchObject({ code })
    const change = { identifier: { kind: 'anyone', name: '' }, mode: 'clear' } as const
    await expect(changeAclFile(failing(fs, 'FS_DENIED'), 'dovecot-acl', change)).rejects.toMatchObject({
      code: 'FS_DENIED',
    })
  })
})

/** The same file system, on which nothing can be read. */
function failing(fs: Fs, code: FsErrorCode): Fs {
  return new Proxy(fs, {
    get(target, key) {
      if (key === 'readFile') return async (path: string) => Promise.reject(new FsError(code, `no ${path}`, { path }))
      const value: unknown = Reflect.get(target, key)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}
