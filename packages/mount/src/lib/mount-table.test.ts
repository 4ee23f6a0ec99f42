import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseMountOutput } from './mount-output.ts'
import { MountTable } from './mount-table.ts'
import { parseMountinfo } from './mountinfo.ts'
import type { MountRow } from './probe.ts'

const escaped = (text: string): string =>
  text.replaceAll(/[ \t\n\\#]/g, (each) => `\\${each.charCodeAt(0).toString(8).padStart(3, '0')}`)
const names = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }).filter((name) => !name.includes('\0'))
const paths = fc.array(names, { maxLength: 4 }).map((parts) => `/${parts.join('/')}`)
const words = fc.stringMatching(/^[a-z0-9:.=,]{1,12}$/)
const rows: fc.Arbitrary<MountRow> = fc.record({
  id: fc.nat(),
  parent: fc.nat(),
  root: paths,
  path: paths,
  type: words,
  source: names,
})

describe('mountinfo of Linux', () => {
  test('is read with any names and any number of optional fields', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(rows, fc.array(words, { maxLength: 4 }))), (list) => {
        const text = list
          .map(([{ id, parent, root, path, type, source }, optional]) =>
            [
              id,
              parent,
              '8:1',
              escaped(root),
              escaped(path),
              'rw,noatime',
              ...optional,
              '-',
              type,
              escaped(source),
              'rw',
            ]
              .map((field) => `${field}`)
              .join(' '),
          )
          .join('\n')
        expect(parseMountinfo(`${text}\n`)).toEqual(list.map(([row]) => row))
      }),
    )
  })
  test('of proc(5) is read; lines that are cut or empty are left out', () => {
    const line = '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue'
    expect(parseMountinfo(line)).toEqual([
      { id: 36, parent: 35, root: '/mnt1', path: '/mnt2', type: 'ext3', source: '/dev/root' },
    ])
    expect(parseMountinfo('36 35 98:0 / /a\\040b\\134\\303\\244 rw - ext4 none rw')[0]!.path).toBe('/a b\\ä')
    expect(parseMountinfo('36 35 98:0 / /x rw - ext4  rw')[0]!.source).toBe('')
    for (let cut = 0; cut < line.indexOf(' - ext3') + 4; cut++) expect(parseMountinfo(line.slice(0, cut))).toEqual([])
  })
  test('never fails, whatever the text is', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => void parseMountinfo(text)))
  })
})

describe('what mount prints', () => {
  test('on macOS and the BSDs is read', () => {
    const printed = `/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
//anna@server/share on /Volumes/My Share (2) (smbfs, nodev, nosuid, mounted by anna)
/dev/ada0p2 on /usr (ufs, local, journaled soft-updates)
zroot/mail on /var/mail (zfs, local, noatime, nfsv4acls)
/dev/sd0a on / type ffs (local)
server:/export/mail on /srv/mail type nfs (v3, udp, timeo=100)
ptyfs on /dev/pts type ptyfs (local)

something else`
    expect(parseMountOutput(printed).map(({ source, path, type }) => [source, path, type])).toEqual([
      ['/dev/disk3s1s1', '/', 'apfs'],
      ['devfs', '/dev', 'devfs'],
      ['map auto_home', '/System/Volumes/Data/home', 'autofs'],
      ['//anna@server/share', '/Volumes/My Share (2)', 'smbfs'],
      ['/dev/ada0p2', '/usr', 'ufs'],
      ['zroot/mail', '/var/mail', 'zfs'],
      ['/dev/sd0a', '/', 'ffs'],
      ['server:/export/mail', '/srv/mail', 'nfs'],
      ['ptyfs', '/dev/pts', 'ptyfs'],
    ])
  })
  test('never fails, whatever the text is', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => void parseMountOutput(text)))
  })
})

describe('a mount table', () => {
  const table = (...list: readonly (readonly [number, number, string, string])[]): MountTable =>
    new MountTable(list.map(([id, parent, path, type]) => ({ id, parent, root: '/', path, type, source: type })))

  test('tells what is on top where several are mounted at one path', () => {
    const mounts = table([1, 0, '/', 'ext4'], [2, 1, '/mail', 'xfs'], [3, 2, '/mail', 'nfs'])
    expect(mounts.at('/mail')?.type).toBe('nfs')
    expect(mounts.covering('/mail/anna/box')?.type).toBe('nfs')
    expect(mounts.covering('/mailbox')?.type).toBe('ext4')
  })
  test('does not tell what is hidden by a mount above it', () => {
    const mounts = table([1, 0, '/', 'ext4'], [2, 1, '/srv/mail', 'xfs'], [3, 1, '/srv', 'tmpfs'])
    expect(mounts.at('/srv/mail')).toBeUndefined()
    expect(mounts.covering('/srv/mail/anna')?.type).toBe('tmpfs')
    const again = table(
      [1, 0, '/', 'ext4'],
      [2, 1, '/srv/mail', 'xfs'],
      [3, 1, '/srv', 'tmpfs'],
      [4, 3, '/srv/mail', 'zfs'],
    )
    expect(again.at('/srv/mail')?.type).toBe('zfs')
  })
  test('tells the root that was mounted over, and paths without a mount at the root', () => {
    expect(table([1, 0, '/', 'rootfs'], [2, 1, '/', 'ext4'], [3, 2, '/mail', 'xfs']).at('/mail')?.type).toBe('xfs')
    expect(table([7, 3, '/mail', 'xfs'], [8, 7, '/mail/deep', 'nfs']).covering('/mail/deep/er')?.type).toBe('nfs')
    expect(new MountTable([]).covering('/x')).toBeUndefined()
  })
  test('ends, whatever is mounted on what', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(4), fc.nat(4), fc.constantFrom('/', '/a', '/a/b', '/c'))),
        fc.constantFrom('/', '/a', '/a/b', '/c/d'),
        (list, path) => {
          const mounts = table(...list.map(([id, parent, at]) => [id, parent, at, 'x'] as const))
          mounts.covering(path)
        },
      ),
    )
  })
})
