import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { crashableFs } from '@mailstead/fs/faults'
import { posixFs } from '@mailstead/fs/posix'
import { afterAll, describe, expect, test } from 'vitest'
import { say } from '../../../../tests/support/depth.ts'
import { oddMountinfo } from '../../test/odd-mounts.ts'
import { AT, World } from '../../test/world.ts'
import type { MountRegistry } from './contract.ts'
import { Far } from './far.ts'
import { mountGuard } from './guard.ts'
import { parseMountinfo } from './mountinfo.ts'
import type { Look, MountProbe } from './probe.ts'
import { openRegistry } from './registry.ts'

const base = mkdtempSync(join(tmpdir(), 'mailstead-mounts-'))
afterAll(() => rmSync(base, { recursive: true, force: true }))

const observedAt = (registry: MountRegistry, path = AT): string | undefined => registry.find(path)?.observed
const kinds = (notices: readonly { kind: string; path: string }[]): string[] =>
  notices.map(({ kind, path }) => `${kind} ${path}`)

describe('the list of mounts', () => {
  test('sees what is mounted, absent and changed, tells it once, and takes what is accepted', async () => {
    const world = new World()
    const [a, b] = [await world.volume('a'), await world.volume('b')]
    let now = 1000
    await using registry = await openRegistry({ probe: world.probe, now: () => now })
    expect(await registry.add(AT)).toMatchObject({ observed: 'absent', origin: 'added', state: 'online', mail: true })
    world.mount(a)
    expect(kinds(await registry.refresh())).toEqual([`back ${AT}`])
    now = 2000
    expect(await registry.observe(AT)).toMatchObject({ observed: 'mounted', sinceMs: 1000, why: '' })
    world.unmount()
    expect(kinds(await registry.refresh())).toEqual([`missing ${AT}`])
    expect(kinds(await registry.refresh())).toEqual([])
    expect(registry.find(`${AT}/anna`)).toMatchObject({ observed: 'absent', sinceMs: 2000 })
    await expect(registry.accept(AT)).rejects.toMatchObject({ code: 'MOUNT_ABSENT' })
    world.mount(b)
    expect(kinds(await registry.refresh())).toEqual([`changed ${AT}`])
    expect(observedAt(registry)).toBe('changed')
    expect(await registry.accept(AT)).toMatchObject({ observed: 'mounted' })
    world.mount(a)
    expect(await registry.observe(AT)).toMatchObject({ observed: 'changed' })
  })
  test('keeps states and file systems for the next process; what was seen is seen anew at a start', async () => {
    const world = new World()
    const fs = memoryFs()
    world.mount(await world.volume('a'))
    {
      await using registry = await openRegistry({ fs, probe: world.probe })
      await registry.add(AT)
      expect(await registry.setState(AT, 'failover')).toMatchObject({ state: 'failover', observed: 'mounted' })
    }
    world.mount(await world.volume('b'))
    await using next = await openRegistry({ fs, probe: world.probe })
    expect(next.find(AT)).toMatchObject({ state: 'failover', observed: 'mounted' })
    // It is not to be missed: nobody is warned.
    expect(await next.start()).toEqual([])
    expect(observedAt(next)).toBe('changed')
    await next.setState(AT, 'ignore')
    expect(observedAt(next)).toBe('unguarded')
    expect(await next.refresh()).toEqual([])
    await next.remove(AT)
    expect(next.list()).toEqual([])
    await expect(next.remove(AT)).rejects.toMatchObject({ code: 'MOUNT_UNKNOWN' })
    await expect(next.setState(AT, 'online')).rejects.toMatchObject({ code: 'MOUNT_UNKNOWN' })
    await expect(next.observe(AT)).rejects.toMatchObject({ code: 'MOUNT_UNKNOWN' })
    await expect(next.setState(AT, 'gone' as 'online')).rejects.toThrow(TypeError)
  })
  test('states rule the guard: away on purpose is away although mounted, ignored is not guarded', async () => {
    const world = new World()
    world.mount(await world.volume('a'))
    await using registry = await openRegistry({ probe: world.probe })
    await registry.add(AT)
    const guard = mountGuard({ path: `${AT}/anna`, registry, probe: world.probe })
    await guard.check('')
    for (const state of ['offline', 'failover'] as const) {
      await registry.setState(AT, state)
      expect(() => guard.check('x')).toThrow(expect.objectContaining({ code: 'FS_UNAVAILABLE' }))
    }
    world.unmount()
    await registry.setState(AT, 'ignore')
    expect(guard.check('x')).toBeUndefined()
    await registry.setState(AT, 'online')
    await expect(guard.check('x')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    await registry.remove(AT)
    expect(guard.check('x')).toBeUndefined()
  })
  test('a mount below what is guarded is guarded by itself, and what holds it is not renamed while it is away', async () => {
    const world = new World()
    world.mount(await world.volume('a'))
    await using registry = await openRegistry({ probe: world.probe })
    await registry.add(AT)
    const guard = mountGuard({ path: '/', registry, probe: world.probe })
    await guard.check('srv/mail/anna')
    world.unmount()
    expect(guard.check('srv/other')).toBeUndefined()
    expect(guard.check('srv/mailbox')).toBeUndefined()
    await expect(guard.check('srv/mail/anna')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    await expect(guard.check('srv/mail')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    await expect(guard.check('other', { to: 'srv/mail/x' })).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    expect(guard.check('srv')).toBeUndefined()
    await expect(guard.check('srv', { below: true })).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
  })
  test('what one process changes, another sees', async () => {
    const world = new World()
    const fs = memoryFs()
    await using one = await openRegistry({ fs, probe: world.probe })
    await using two = await openRegistry({ fs, probe: world.probe })
    await one.add(AT)
    await expect.poll(() => two.find(AT)?.state, { timeout: 600_000 }).toBe('online')
    await two.setState(AT, 'offline')
    await expect.poll(() => one.find(AT)?.state, { timeout: 600_000 }).toBe('offline')
  })
})

describe('the files of the list of mounts', () => {
  async function listed(): Promise<{ world: World; fs: Fs }> {
    const world = new World()
    const fs = memoryFs()
    world.mount(await world.volume('a'))
    await using registry = await openRegistry({ fs, probe: world.probe })
    await registry.add(AT)
    return { world, fs }
  }
  const damages = (bytes: Uint8Array): Uint8Array[] => [
    ...Array.from(bytes, (_, at) => bytes.slice(0, at)),
    ...Array.from({ length: bytes.length * 8 }, (_, bit) => {
      const flipped = Uint8Array.from(bytes)
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      return flipped
    }),
  ]
  test('a list that is cut anywhere, or has any bit turned, is named, and its copy used', async () => {
    const { world, fs } = await listed()
    const bytes = await fs.readFile('mounts')
    let count = 0
    for (const damaged of damages(bytes)) {
      await fs.writeFile('mounts', damaged)
      await using registry = await openRegistry({ fs, probe: world.probe })
      expect(registry.problems).toMatchObject([{ code: 'MOUNT_DAMAGED', path: 'mounts' }])
      expect(registry.find(AT)).toMatchObject({ state: 'online', origin: 'added', volume: { fsid: 'a' } })
      count++
    }
    expect(count).toBe(bytes.length * 9)
    await using registry = await openRegistry({ fs, probe: world.probe })
    expect(kinds(await registry.start())).toEqual(['damaged mounts'])
    // The start has written it again.
    expect(await fs.readFile('mounts')).toEqual(bytes)
    expect(kinds(await registry.refresh())).toEqual([])
  })
  test('a copy that is damaged is named; what was seen is not missed', async () => {
    const { world, fs } = await listed()
    await fs.writeFile('mounts.copy', Buffer.from('x'))
    await fs.writeFile('mounts.seen', Buffer.from('x'))
    await using registry = await openRegistry({ fs, probe: world.probe })
    expect(registry.problems).toMatchObject([{ code: 'MOUNT_DAMAGED', path: 'mounts.copy' }])
    expect(await registry.observe(AT)).toMatchObject({ observed: 'mounted' })
    await registry.setState(AT, 'online')
    expect((await registry.refresh()).length).toBe(0)
    expect(await fs.readFile('mounts.copy')).toEqual(await fs.readFile('mounts'))
  })
  test('a list that is lost is that of its copy; when both are damaged nobody starts, and who runs goes on', async () => {
    const { world, fs } = await listed()
    await using running = await openRegistry({ fs, probe: world.probe })
    await fs.remove('mounts')
    {
      await using registry = await openRegistry({ fs, probe: world.probe })
      expect(registry.find(AT)).toBeDefined()
      expect(registry.problems).toHaveLength(1)
    }
    await fs.writeFile('mounts', Buffer.from('x'))
    await fs.writeFile('mounts.copy', Buffer.from('y'))
    await expect(openRegistry({ fs, probe: world.probe })).rejects.toMatchObject({ code: 'MOUNT_DAMAGED' })
    expect(kinds(await running.refresh())).toEqual(['damaged mounts'])
    expect(observedAt(running)).toBe('mounted')
    await running.setState(AT, 'offline')
    await using registry = await openRegistry({ fs, probe: world.probe })
    expect(registry.find(AT)).toMatchObject({ state: 'offline' })
  })
  test('that cannot be written keep nobody from looking, nor from knowing what was seen first', async () => {
    const unwritable = new World()
    const empty = memoryFs()
    {
      await using registry = await openRegistry({ fs: empty, probe: unwritable.probe })
      await registry.add(AT)
    }
    await using first = await openRegistry({
      fs: { ...empty, writeFile: () => Promise.reject(new Error('the disk is full')) },
      probe: unwritable.probe,
    })
    unwritable.mount(await unwritable.volume('a'))
    expect(await first.observe(AT)).toMatchObject({ observed: 'mounted' })
    unwritable.mount(await unwritable.volume('b'))
    expect(await first.observe(AT)).toMatchObject({ observed: 'changed' })

    const { world, fs } = await listed()
    await using registry = await openRegistry({
      fs: { ...fs, writeFile: () => Promise.reject(new Error('the disk is full')) },
      probe: world.probe,
    })
    world.unmount()
    expect(await registry.observe(AT)).toMatchObject({ observed: 'absent' })
    await expect(registry.remove(AT)).rejects.toThrow('the disk is full')
    expect(registry.find(AT)).toBeDefined()
  })
  test('hold the list before a change or after it, wherever the power goes', async () => {
    const world = new World()
    world.mount(await world.volume('a'))
    const fs = crashableFs()
    const changes: number[] = []
    {
      await using registry = await openRegistry({ fs, probe: world.probe })
      await registry.add(AT)
      changes.push(fs.tick)
      await registry.setState(AT, 'offline')
      changes.push(fs.tick)
      await registry.remove(AT)
      changes.push(fs.tick)
    }
    const lists = [undefined, 'online', 'offline', undefined]
    let states = 0
    for (const state of fs.everyState()) {
      await using disk = state.open()
      await using registry = await openRegistry({ fs: disk, probe: world.probe })
      const done = changes.filter((tick) => tick <= state.tick).length
      expect([lists[done], lists[done + 1]], state.description).toContain(registry.find(AT)?.state)
      expect(registry.problems, state.description).toEqual([])
      states++
    }
    say(`list of mounts: ${states} states after power cuts`)
  })
  test('lose nothing while several processes add at once', async () => {
    const state = join(base, 'several')
    mkdirSync(state)
    const here = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href)
    const program = `
      import { mkdirSync } from 'node:fs'
      import { posixFs } from ${here('../../../fs/src/posix.ts')}
      import { openRegistry } from ${here('./registry.ts')}
      await using fs = await posixFs(${JSON.stringify(state)})
      await using registry = await openRegistry({ fs })
      for (let i = 0; i < 8; i++) {
        const path = ${JSON.stringify(state)} + '/mount-' + process.argv[1] + '-' + i
        mkdirSync(path)
        await registry.add(path)
      }`
    const children = ['a', 'b', 'c'].map((name) =>
      spawn(process.execPath, ['--conditions=@mailstead/source', '--input-type=module', '-e', program, name], {
        stdio: ['ignore', 'inherit', 'inherit'],
      }),
    )
    const ended = (child: ChildProcess): Promise<unknown> => new Promise((resolve) => child.on('close', resolve))
    expect(await Promise.all(children.map(ended))).toEqual([0, 0, 0])
    await using fs = await posixFs(state)
    await using registry = await openRegistry({ fs })
    expect(registry.list()).toHaveLength(24)
    expect(registry.problems).toEqual([])
  })
})

describe('what cannot be a mount point', () => {
  test('is refused by a clear error, and nothing is listed', async () => {
    const links = join(base, 'links')
    mkdirSync(links)
    symlinkSync('b', join(links, 'a'))
    symlinkSync('a', join(links, 'b'))
    writeFileSync(join(links, 'file'), '')
    await using registry = await openRegistry()
    for (const [path, why] of [
      ['relative/path', 'no absolute path'],
      ['', 'no absolute path'],
      ['.', 'no absolute path'],
      ['/with\0nul', 'no absolute path'],
      [join(links, 'nothing'), 'not there'],
      [join(links, 'file'), 'no directory'],
      [join(links, 'file', 'below'), 'not there'],
      [join(links, 'a'), 'loop'],
      [join(links, 'a', 'below'), 'loop'],
      [`/${'x'.repeat(300)}`, 'cannot be a mount point'],
    ] as const) {
      await expect(registry.add(path), path).rejects.toMatchObject({ code: 'MOUNT_PATH' })
      await expect(registry.add(path), path).rejects.toThrow(why)
      await expect(registry.remove(path), path).rejects.toMatchObject({ name: 'MountError' })
      await expect(registry.accept(path), path).rejects.toMatchObject({ name: 'MountError' })
    }
    expect(registry.list()).toEqual([])
    expect(() => mountGuard({ path: 'relative', registry })).toThrow(TypeError)
    expect(() => mountGuard({ path: '/' })).toThrow(TypeError)
    expect(() => mountGuard({ path: '/', root: { uuid: new Uint8Array(3) } })).toThrow(TypeError)
    await expect(openRegistry({ roots: ['relative'] })).rejects.toThrow(TypeError)
  })
  test('a directory by a link, or with a slash too many, is listed by its real path', async () => {
    const real = join(base, 'real')
    mkdirSync(real)
    symlinkSync('real', join(base, 'link'))
    await using registry = await openRegistry()
    await registry.add(`${join(base, 'link')}/`)
    expect(registry.list().map(({ path }) => path)).toEqual([real])
    // A guard of the link is a guard of the directory.
    await using guard = mountGuard({ path: join(base, 'link'), registry })
    await expect(guard.check('')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    await registry.remove(join(base, 'link'))
    expect(registry.list()).toEqual([])
  })
  test('a link to where nothing is mounted leads nowhere, and is an outage', async () => {
    mkdirSync(join(base, 'disk'))
    symlinkSync(join(base, 'disk', 'mail'), join(base, 'mail'))
    await using registry = await openRegistry()
    await registry.add(join(base, 'disk'))
    await using guard = mountGuard({ path: join(base, 'mail'), registry })
    await expect(guard.check('')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
  })
})

test('what holds a root is guarded whatever its type, but not what is only below one', async () => {
  const world = new World()
  world.mount(await world.volume('a'))
  world.type = 'tmpfs'
  world.rows = [{ id: 3, parent: 1, root: '/', path: '/srv/cache', type: 'tmpfs', source: 'tmpfs' }]
  await using below = await openRegistry({ probe: world.probe, roots: ['/srv'] })
  expect(await below.start()).toEqual([])
  await using registry = await openRegistry({ probe: world.probe, roots: [`${AT}/data`] })
  expect(kinds(await registry.start())).toEqual([`new ${AT}`])
  world.unmount()
  expect(kinds(await registry.refresh())).toEqual([`missing ${AT}`])
})

describe('a host with two hundred odd mounts', () => {
  const mail = ['/srv/mail', '/srv/alternate']
  /** Every path of the table is a directory, but those that containers have as files. */
  function probeOf(text: string, unmounted: ReadonlySet<string> = new Set()): MountProbe {
    const rows = parseMountinfo(text).filter(({ path }) => !unmounted.has(path))
    const devices = new Map(rows.map((row, i) => [row.path, 100 + i]))
    return {
      table: async () => rows,
      look: (path): Look | undefined => {
        if (path.endsWith('mailstead-root')) return undefined
        let at = path
        while (at !== '/' && !devices.has(at)) at = at.slice(0, Math.max(1, at.lastIndexOf('/')))
        const directory = !path.startsWith('/etc/')
        return { device: devices.get(at)!, inode: 2, directory, size: 0, modifiedMs: 0, changedMs: 0, bornMs: 0 }
      },
      realPath: (path) => path,
      read: () => undefined,
      facts: async (path) => ({ uuid: '', fsid: path }),
      alive: () => undefined,
    }
  }
  const roots = ['/srv/mail/data', '/srv/alternate']

  test('starts without a warning, and without one when all that holds no mail has gone or changed', async () => {
    const text = oddMountinfo(mail)
    expect(parseMountinfo(text).length).toBeGreaterThan(200)
    const fs = memoryFs()
    {
      await using registry = await openRegistry({ fs, probe: probeOf(text), roots })
      expect(kinds(await registry.start())).toEqual(mail.map((path) => `new ${path}`))
      expect(await registry.refresh()).toEqual([])
      const online = registry.list().filter(({ state }) => state === 'online')
      // What might be for mail is known, and only what has a root is missed.
      expect(online.map(({ path }) => path).sort()).toEqual(['/home', '/srv/alternate', '/srv/mail', '/srv/www'])
    }
    const others = parseMountinfo(text).filter(({ path }) => path !== '/' && !mail.includes(path))
    {
      await using registry = await openRegistry({
        fs,
        probe: probeOf(text, new Set(others.map(({ path }) => path))),
        roots,
      })
      expect(await registry.start()).toEqual([])
      expect(registry.list().map(({ path }) => path)).toEqual(mail.toSorted())
    }
    {
      // Other containers, other images, another boot.
      await using registry = await openRegistry({
        fs,
        probe: probeOf(text.replaceAll(/[0-9a-f]{12}/g, 'abcdef012345')),
        roots,
      })
      expect(await registry.start()).toEqual([])
    }
  })
  test('warns of the one that holds mail, also when it was away before the process began', async () => {
    const text = oddMountinfo(mail)
    const fs = memoryFs()
    {
      await using registry = await openRegistry({ fs, probe: probeOf(text), roots })
      await registry.start()
    }
    await using registry = await openRegistry({ fs, probe: probeOf(text, new Set(['/srv/mail'])), roots })
    expect(kinds(await registry.start())).toEqual(['missing /srv/mail'])
    const guard = mountGuard({ path: '/srv/mail/data', registry, probe: probeOf(text, new Set(['/srv/mail'])) })
    await expect(guard.check('')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
  })
  test('an explicit add outranks what the type says', async () => {
    await using registry = await openRegistry({ probe: probeOf(oddMountinfo(mail)), roots })
    await registry.start()
    expect(registry.find('/dev/shm')).toMatchObject({ state: 'ignore', observed: 'unguarded' })
    expect(await registry.add('/dev/shm')).toMatchObject({ state: 'online', observed: 'mounted' })
    await registry.start()
    expect(registry.find('/dev/shm')).toMatchObject({ state: 'online', origin: 'added' })
  })
})

describe('a mount that does not answer', () => {
  test('is given up after its deadline, then at once; and is there again when it answers', async () => {
    // A child that answers only once a file is there.
    const told = join(base, 'told')
    const program = `process.stdin.once('data', () => setInterval(() => {
      if (require('node:fs').existsSync(${JSON.stringify(told)})) process.stdout.write('true\\n')
    }, 5))`
    let started = 0
    using far = new Far({
      deadlineMs: 50,
      livenessMs: 60_000,
      start() {
        started++
        return spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'pipe', 'ignore'] })
      },
    })
    await expect(far.alive('/far')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    await expect(far.alive('/far')).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    writeFileSync(told, '')
    const answers = (): boolean => {
      const waiting = far.alive('/far')
      waiting?.catch(() => {})
      return waiting === undefined
    }
    await expect.poll(answers, { timeout: 600_000 }).toBe(true)
    expect(started).toBe(1)
  })
  test('a child that dies is started again', async () => {
    let started = 0
    using far = new Far({
      deadlineMs: 10_000,
      livenessMs: 60_000,
      start: (program) => {
        const first = ++started === 1
        return spawn(process.execPath, ['-e', first ? 'process.exit(1)' : program], {
          stdio: ['pipe', 'pipe', 'ignore'],
        })
      },
    })
    await expect(far.alive(base)).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    await far.alive(base)
    expect(far.alive(base)).toBeUndefined()
    // What answers that there is nothing has answered.
    await far.alive(join(base, 'nothing'))
    expect(started).toBe(3)
  })
})
