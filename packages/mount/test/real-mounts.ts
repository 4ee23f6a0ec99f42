/**
 * Real mounts, in a mount namespace of its own: run by `unshare --mount`, as root, with the name of a scenario and a directory to
 * work in. Ends with 0 if all was as it must be. What is mounted goes with the process.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Fs, initRoot, readRoot } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { answers, type Guard, guardedFs, markerGuard, mountGuard, openRegistry, systemProbe } from '../src/index.ts'

const [scenario = '', base = ''] = process.argv.slice(2)
const AT = join(base, 'mail')
const unavailable = { code: 'FS_UNAVAILABLE' }
const bytes = (text: string): Uint8Array => Buffer.from(text)

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim()

/** A device with a new ext4 in it. */
function image(name: string): string {
  const file = join(base, name)
  run('truncate', '--size=8M', file)
  run('mkfs.ext4', '-q', file)
  return file
}

type Proof = 'mounts' | 'identity' | 'both' | 'any driver'

/** Every change and every absence, refused; nothing under the mount point. */
async function expectOutage(fs: Fs): Promise<void> {
  const before = readdirSync(AT).length
  await assert.rejects(fs.stat('nothing'), unavailable)
  await assert.rejects(fs.readFile('nothing'), unavailable)
  await assert.rejects(fs.writeFile('a/b/new', bytes('x')), unavailable)
  await assert.rejects(fs.open('a/b/new', 'append'), unavailable)
  await assert.rejects(fs.open('new', 'create'), unavailable)
  await assert.rejects(fs.makeDirectory('a/b'), unavailable)
  await assert.rejects(fs.remove('file'), unavailable)
  await assert.rejects(fs.rename('file', 'other'), unavailable)
  await assert.rejects(fs.lock('lock'), unavailable)
  await assert.rejects(Array.fromAsync(fs.list('')), unavailable)
  assert.equal(readdirSync(AT).length, before)
}

const scenarios: Readonly<Record<string, () => Promise<void>>> = {
  /** The device, its number and the inode of its root are the same for both volumes. */
  async 'swapped volumes'() {
    const [a, b] = [image('a'), image('b')]
    const loop = run('losetup', '--find', '--show', a)
    try {
      const attach = (file: string): void => {
        run('losetup', '--detach', loop)
        // It is let go of by the kernel a moment later.
        for (;;)
          try {
            run('losetup', loop, file)
            break
          } catch {
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
          }
        run('mount', loop, AT)
      }
      run('mount', loop, AT)
      const first = statSync(AT)
      await using marked = await posixFs(AT)
      const { uuid } = await initRoot(marked, 'data')
      await marked.writeFile('file', bytes('first'))
      await using probe = systemProbe()
      await using registry = await openRegistry({ probe })
      await registry.add(AT)
      const guards: Record<Proof, Guard> = {
        mounts: mountGuard({ path: AT, registry, probe }),
        identity: mountGuard({ path: AT, root: { uuid, role: 'data' }, probe }),
        both: mountGuard({ path: AT, registry, root: { uuid, role: 'data' }, probe }),
        'any driver': markerGuard(marked, { uuid, role: 'data' }),
      }
      for (const [proof, guard] of Object.entries(guards)) {
        // Opened by each anew, as by a process that starts.
        await using fs = guardedFs(await posixFs(AT), guard)
        assert.equal(Buffer.from(await fs.readFile('file')).toString(), 'first', proof)
        await fs.writeFile(`by ${proof}`, bytes('x'))
        run('umount', AT)
        await expectOutage(fs)
        assert.deepEqual(readdirSync(AT), [], proof)
        attach(b)
        const second = statSync(AT)
        assert.deepEqual([second.dev, second.ino], [first.dev, first.ino])
        await expectOutage(fs)
        assert.deepEqual(readdirSync(AT), ['lost+found'], proof)
        run('umount', AT)
        attach(a)
        assert.equal(Buffer.from(await fs.readFile('file')).toString(), 'first', proof)
        assert.equal(await fs.stat('nothing'), undefined)
        await fs.writeFile('after', bytes('y'))
      }
      run('umount', AT)
    } finally {
      run('losetup', '--detach', loop)
    }
  },

  /** A bind mount of a directory of the same file system, seen by the table alone. */
  async 'bind mounts and mounts above'() {
    const real = join(base, 'real')
    mkdirSync(real)
    await using probe = systemProbe()
    await using registry = await openRegistry({ probe })
    await registry.add(AT)
    await using guard = mountGuard({ path: AT, registry, probe })
    await using fs = guardedFs(await posixFs(AT), guard)
    await expectOutage(fs)
    run('mount', '--bind', real, AT)
    {
      await using bound = guardedFs(await posixFs(AT), guard)
      await bound.writeFile('file', bytes('x'))
      run('umount', AT)
      await expectOutage(bound)
      // Another directory of the same file system.
      mkdirSync(join(base, 'wrong'))
      run('mount', '--bind', join(base, 'wrong'), AT)
      await expectOutage(bound)
      assert.equal((await registry.observe(AT)).observed, 'changed')
      run('umount', AT)
      run('mount', '--bind', real, AT)
      assert.equal((await registry.observe(AT)).observed, 'mounted')
      // Something mounted over all of it.
      run('mount', '-t', 'tmpfs', 'over', base)
      assert.equal((await registry.observe(AT)).observed, 'absent')
      mkdirSync(AT)
      await expectOutage(bound)
      run('umount', base)
      assert.equal(Buffer.from(await bound.readFile('file')).toString(), 'x')
      run('umount', AT)
    }
  },

  async 'a lazy unmount under an open file, and a new tmpfs in its place'() {
    const loop = run('losetup', '--find', '--show', image('a'))
    try {
      run('mount', loop, AT)
      await using probe = systemProbe()
      await using registry = await openRegistry({ probe })
      await registry.add(AT)
      await using guard = mountGuard({ path: AT, registry, probe })
      await using fs = guardedFs(await posixFs(AT), guard)
      {
        await using file = await fs.open('log', 'append')
        await file.append([bytes('one ')])
        run('umount', '--lazy', AT)
        await expectOutage(fs)
        await file.append([bytes('two ')])
        await file.sync()
        run('mount', loop, AT)
        await file.append([bytes('three')])
        assert.equal(Buffer.from(await fs.readFile('log')).toString(), 'one two three')
      }
      run('umount', AT)
      run('mount', '-t', 'tmpfs', 'none', AT)
      await expectOutage(fs)
      assert.deepEqual(readdirSync(AT), [])
      run('umount', AT)
      // A tmpfs that was added is another one after a remount.
      run('mount', '-t', 'tmpfs', 'none', AT)
      await registry.accept(AT)
      {
        await using volatile = guardedFs(await posixFs(AT), guard)
        await volatile.writeFile('file', bytes('x'))
      }
      run('umount', AT)
      run('mount', '-t', 'tmpfs', 'none', AT)
      await expectOutage(guardedFs(await posixFs(AT), guard))
      run('umount', AT)
    } finally {
      run('losetup', '--detach', loop)
    }
  },

  /** A FUSE file system whose program never answers: whoever touches it hangs. */
  async 'a mount that hangs'() {
    await using probe = systemProbe({ deadlineMs: 200, livenessMs: 0 })
    await using registry = await openRegistry({ probe, roots: [AT] })
    run('mount', '-t', 'tmpfs', 'good', AT)
    await registry.add(AT)
    await using guard = mountGuard({ path: AT, registry, probe })
    await using fs = guardedFs(await posixFs(AT), guard)
    await fs.writeFile('file', bytes('x'))
    const fuse = openSync('/dev/fuse', 'r+')
    try {
      const options = 'fd=3,rootmode=40000,user_id=0,group_id=0'
      await new Promise<void>((resolve, reject) => {
        const child = spawn('mount', ['-i', '-t', 'fuse', 'dead', AT, '-o', options], {
          stdio: ['ignore', 'ignore', 'inherit', fuse],
        })
        child.on('close', (code) => (code === 0 ? resolve() : reject(new Error(`mount ended with ${code}`))))
      })
      const began = performance.now()
      assert.equal((await registry.observe(AT)).observed, 'absent')
      assert.match((await registry.observe(AT)).why, /does not answer/)
      await assert.rejects(registry.add(join(AT, 'below')), /does not answer/)
      const notices = await registry.start()
      assert.ok(notices.every(({ kind }) => kind !== 'damaged'))
      // Nor by a link that leads there.
      const link = join(base, 'link')
      symlinkSync(join(AT, 'below'), link)
      await assert.rejects(answers(probe, join(link, 'mail')), unavailable)
      await assert.rejects(registry.add(join(link, 'mail')), /does not answer/)
      await using linked = await openRegistry({ probe, roots: [join(link, 'mail')] })
      await linked.start()
      await using listed = mountGuard({ path: join(link, 'mail'), registry: linked, probe })
      await assert.rejects(async () => listed.check(''), unavailable)
      await using marked = mountGuard({ path: link, root: { role: 'data' }, probe })
      await assert.rejects(async () => marked.check(''), unavailable)
      // Known to hang: at once.
      for (let i = 0; i < 1000; i++) await assert.rejects(async () => guard.check('x'), unavailable)
      await assert.rejects(fs.stat('file'), unavailable)
      await assert.rejects(Array.fromAsync(fs.list('')), unavailable)
      console.log(`a thousand refusals, and all before, in ${Math.round(performance.now() - began)} ms`)
      run('umount', '--lazy', AT)
    } finally {
      closeSync(fuse)
    }
    for (let tries = 0; ; tries++)
      try {
        await fs.stat('file')
        break
      } catch (error) {
        assert.ok(tries < 1000, String(error))
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    assert.equal(Buffer.from(await fs.readFile('file')).toString(), 'x')
  },

  async 'two hundred odd mounts'() {
    const mounted: string[] = []
    const commands: string[] = []
    const mount = (path: string, ...args: readonly string[]): void => {
      const at = join(base, path)
      mkdirSync(at, { recursive: true })
      mounted.push(at)
      commands.push(['mount', ...args, at].map((arg) => `'${arg}'`).join(' '))
    }
    // overlay needs layers that are no overlay themselves.
    mount('layers', '-t', 'tmpfs', 'layers')
    for (let i = 0; i < 60; i++) {
      mount(`containers/${i}/shm`, '-t', 'tmpfs', `shm${i}`)
      const [lower, upper, work] = ['lower', 'upper', 'work'].map((name) => join(base, 'layers', `${i}`, name))
      commands.push(`mkdir -p '${lower}' '${upper}' '${work}'`)
      mount(`merged/${i}`, '-t', 'overlay', 'overlay', '-o', `lowerdir=${lower},upperdir=${upper},workdir=${work}`)
    }
    for (let i = 0; i < 40; i++) mount(`pods/${i}/proc`, '-t', 'proc', 'proc')
    for (let i = 0; i < 40; i++) mount(`binds/with space ${i}`, '--bind', join(base, 'pods'))
    run('sh', '-ec', commands.join('\n'))
    writeFileSync(join(base, 'hosts'), '')
    writeFileSync(join(base, 'target'), '')
    run('mount', '--bind', join(base, 'hosts'), join(base, 'target'))
    run('mount', '-t', 'tmpfs', 'good', AT)
    mkdirSync(join(AT, 'data'))
    await using state = await posixFs(join(base, 'state'), { create: true })
    {
      await using registry = await openRegistry({ fs: state, roots: [join(AT, 'data')] })
      await registry.add(AT)
      const began = performance.now()
      assert.deepEqual(await registry.start(), [])
      console.log(
        `${registry.list().length} mounts at the start, no warning, ${Math.round(performance.now() - began)} ms`,
      )
      assert.ok(registry.list().length > 200)
      assert.deepEqual(await registry.refresh(), [])
    }
    run('umount', '--lazy', ...mounted.reverse())
    await using registry = await openRegistry({ fs: state, roots: [join(AT, 'data')] })
    assert.deepEqual(await registry.start(), [])
    run('umount', AT)
    assert.deepEqual(
      (await registry.refresh()).map(({ kind, path }) => `${kind} ${path}`),
      [`missing ${AT}`],
    )
  },

  /** By strace: each operation between two marks, on the driver alone and guarded. */
  async cost() {
    run('mount', '-t', 'tmpfs', 'good', AT)
    await using marked = await posixFs(AT)
    const { uuid } = await initRoot(marked, 'data')
    await using probe = systemProbe()
    await using registry = await openRegistry({ probe })
    await registry.add(AT)
    const root = { uuid, role: 'data' } as const
    const guards = {
      driver: undefined,
      mounts: mountGuard({ path: AT, registry, probe }),
      identity: mountGuard({ path: AT, root, probe }),
      both: mountGuard({ path: AT, registry, root, probe }),
    }
    for (const [proof, guard] of Object.entries(guards)) {
      const plain = await posixFs(AT)
      await using fs = guard === undefined ? plain : guardedFs(plain, guard)
      await fs.writeFile('there', bytes('content'))
      await fs.makeDirectory('directory')
      await using file = await fs.open('there', 'append')
      const into = new Uint8Array(4)
      const operations: readonly (readonly [string, () => unknown])[] = [
        ['readSync', () => file.readSync!(into, 0)],
        ['read', () => file.read(into, 0)],
        ['append', () => file.append([into])],
        ['appendSync', () => file.appendSync!([into])],
        ['sync', () => file.sync()],
        ['stat', () => fs.stat('there')],
        ['readFile', () => fs.readFile('there')],
        ['open read', async () => (await fs.open('there', 'read'))[Symbol.asyncDispose]()],
        ['not found', () => fs.stat('nothing')],
        ['open append', async () => (await fs.open('there', 'append'))[Symbol.asyncDispose]()],
        ['create', async () => (await fs.open('new', 'create'))[Symbol.asyncDispose]()],
        ['writeFile', () => fs.writeFile('new', into)],
        ['link', () => fs.link('new', 'second')],
        ['rename', () => fs.rename('second', 'third')],
        ['remove', () => fs.remove('third')],
        ['remove again', () => fs.remove('new')],
        ['list', () => Array.fromAsync(fs.list('directory'))],
        ['makeDirectory', () => fs.makeDirectory('directory')],
        ['syncDirectory', () => fs.syncDirectory('')],
      ]
      for (const [name, operation] of operations) {
        statSync(`/mark/${proof}/${name}`, { throwIfNoEntry: false })
        await operation()
        statSync('/mark', { throwIfNoEntry: false })
      }
    }
    assert.ok(await readRoot(marked))
  },
}

mkdirSync(AT, { recursive: true })
await scenarios[scenario]!()
