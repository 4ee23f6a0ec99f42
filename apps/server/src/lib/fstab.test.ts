import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { initDataDirectory } from './data-directory.ts'
import { fstabMountPoint } from './fstab.ts'
import { openMounts } from './mounts.ts'
import { initRootDirectory } from './roots.ts'

const base = realpathSync(mkdtempSync(join(tmpdir(), 'mailstead-fstab-')))
afterAll(() => rmSync(base, { recursive: true }))

test('the nearest mount point of fstab is found', () => {
  const fstab = [
    '# /dev/sdz /srv/none ext4 defaults 0 0',
    'UUID=1 / ext4 defaults 0 1',
    'UUID=2 none swap sw 0 0',
    '',
    '  UUID=3\t/srv  ext4 defaults 0 2',
    'nas:/mail /srv/mail/ nfs noauto 0 0',
    'UUID=4 /srv/with\\040space ext4',
    'alone',
  ].join('\n')
  for (const [path, point] of [
    ['/srv/mail', '/srv/mail'],
    ['/srv/mail/a/b', '/srv/mail'],
    ['/srv/mailbox', '/srv'],
    ['/srv/none', '/srv'],
    ['/srv/with space/x', '/srv/with space'],
    ['/home/mail', undefined],
    ['/none', undefined],
  ] as const)
    expect(fstabMountPoint(fstab, path), path).toBe(point)
})

test('no root is made in the bare directory of a mount of fstab, by its path or by a link', async () => {
  const point = join(base, 'point')
  const [data, link] = [join(point, 'data'), join(base, 'link')]
  symlinkSync(point, link)
  await using opened = await openMounts(undefined)
  const mounts = { ...opened, fstab: () => `UUID=1 ${point} ext4 defaults 0 2\nproc /proc proc defaults 0 0\n` }
  for (const isThere of [false, true]) {
    if (isThere) mkdirSync(point)
    for (const path of [point, data, link, join(link, 'data')]) {
      await expect(initDataDirectory(path, mounts), path).rejects.toThrow(`mount ${point}`)
      await expect(initRootDirectory(path, 'index', mounts), path).rejects.toMatchObject({ code: 'SERVER_NO_ROOT' })
    }
    expect(existsSync(point) ? readdirSync(point) : []).toEqual([])
  }
  // Somebody uses it as it is.
  writeFileSync(join(point, 'something'), '')
  expect(await initDataDirectory(data, mounts)).toBe('made')
  expect(await initDataDirectory(join(base, 'elsewhere'), mounts)).toBe('made')
})
