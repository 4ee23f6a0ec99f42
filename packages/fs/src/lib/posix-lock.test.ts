/** Locks between processes: held by one, freed by whatever ends that one. */
import * as nodeFs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { random } from '../../test/block-log/random.ts'
import { type OtherProcess, start } from '../../test/processes.ts'
import { depth } from '../../test/unless.ts'
import type { Fs, FsErrorCode } from '../index.ts'
import { posixFs } from '../posix.ts'
import { kernelLocks } from './posix-lock.ts'

let base: string
let root: string
let fs: Fs
let count = 0
const started: OtherProcess[] = []

beforeAll(() => {
  base = nodeFs.mkdtempSync(join(tmpdir(), 'mailstead-lock-'))
})
beforeEach(async () => {
  root = join(base, `${++count}`)
  fs = await posixFs(root, { create: true })
})
afterEach(async () => {
  for (const one of started.splice(0)) await one.kill()
  await fs[Symbol.asyncDispose]()
})
afterAll(() => nodeFs.rmSync(base, { recursive: true, force: true }))

const error = (code: FsErrorCode): unknown => expect.objectContaining({ name: 'FsError', code })

function run(body: string): OtherProcess {
  const other = start(root, body)
  started.push(other)
  return other
}

/** A process that does what it is told, line by line, and answers. */
function obedient(): OtherProcess & { ask(command: string): Promise<string> } {
  const other = run(`
    import { createInterface } from 'node:readline'
    const lock = await fs.lock('d/lock')
    const commands = {
      exclusive: () => lock.tryAcquire(),
      shared: () => lock.tryAcquire('shared'),
      wait: async () => { console.log('waiting'); await lock.acquire(); return 'held' },
      release: () => lock.release(),
      held: () => lock.held,
      // Another handle of the same file, closed: a lock of the traditional kind would be lost with it.
      other: async () => { await (await fs.lock('d/lock'))[Symbol.asyncDispose](); await fs.readFile('d/lock') },
      child: async () => {
        const { spawn } = await import('node:child_process')
        return spawn('sleep', ['600'], { detached: true, stdio: 'ignore' }).pid
      },
      exit: () => process.exit(),
      throw: () => setImmediate(() => { process.on('uncaughtException', () => process.exit(1)); throw new Error() }),
      dispose: () => fs[Symbol.asyncDispose](),
    }
    for await (const line of createInterface({ input: process.stdin })) console.log(String(await commands[line]()))`)
  return Object.assign(other, {
    ask(command: string) {
      other.child.stdin!.write(`${command}\n`)
      return other.line()
    },
  })
}

describe('a lock held by another process', () => {
  test('is not to be had in any mode, by trying, by waiting for a while, or until a signal', async () => {
    const holder = obedient()
    expect(await holder.ask('exclusive')).toBe('true')
    await using lock = await fs.lock('d/lock')
    expect(lock.tryAcquire()).toBe(false)
    expect(lock.tryAcquire('shared')).toBe(false)
    await expect(lock.acquire({ waitMs: 30 })).rejects.toEqual(error('FS_LOCKED'))
    await expect(lock.acquire({ mode: 'shared', signal: AbortSignal.timeout(30) })).rejects.toThrow(DOMException)
    expect(lock.held).toBeUndefined()
    expect(await holder.ask('release')).toBe('undefined')
    expect(lock.tryAcquire()).toBe(true)
    expect(await holder.ask('exclusive')).toBe('false')
  })

  test('may be shared, is exclusive for nobody meanwhile, and for the last who holds it', async () => {
    const [one, two] = [obedient(), obedient()]
    expect(await one.ask('shared')).toBe('true')
    expect(await two.ask('shared')).toBe('true')
    await using lock = await fs.lock('d/lock')
    expect(lock.tryAcquire('exclusive')).toBe(false)
    expect(lock.tryAcquire('shared')).toBe(true)
    // Whoever shares it and asks for more in vain still shares it.
    expect(await one.ask('exclusive')).toBe('false')
    expect(await one.ask('held')).toBe('shared')
    lock.release()
    await two.kill()
    expect(await one.ask('exclusive')).toBe('true')
    expect(lock.tryAcquire('shared')).toBe(false)
    expect(await one.ask('shared')).toBe('true')
    expect(lock.tryAcquire('shared')).toBe(true)
  })

  test('stays held when its holder opens, reads and closes the same file otherwise', async () => {
    const holder = obedient()
    await holder.ask('exclusive')
    await holder.ask('other')
    await using lock = await fs.lock('d/lock')
    expect(lock.tryAcquire('shared')).toBe(false)
  })

  for (const [what, end] of [
    ['is killed', (holder) => holder.kill()],
    ['exits without releasing', async (holder) => void (holder.child.stdin!.write('exit\n'), await holder.ended)],
    ['dies of an exception', async (holder) => void (holder.child.stdin!.write('throw\n'), await holder.ended)],
    ['disposes the file system', async (holder) => void (await holder.ask('dispose'))],
  ] as const satisfies readonly (readonly [string, (holder: ReturnType<typeof obedient>) => Promise<void>])[])
    test(`is free, at the first try, when its holder ${what}`, async () => {
      const holder = obedient()
      await holder.ask('exclusive')
      await using lock = await fs.lock('d/lock')
      expect(lock.tryAcquire()).toBe(false)
      await end(holder)
      expect(lock.tryAcquire()).toBe(true)
    })

  test('is not inherited by what its holder started', async () => {
    const holder = obedient()
    await holder.ask('exclusive')
    const child = Number(await holder.ask('child'))
    try {
      await holder.kill()
      await using lock = await fs.lock('d/lock')
      expect(lock.tryAcquire()).toBe(true)
      expect(nodeFs.existsSync(`/proc/${child}`)).toBe(true)
    } finally {
      process.kill(child, 'SIGKILL')
    }
  })

  test('leaves nothing behind that must be cleaned up: the file stays, and whoever finds it may have it', async () => {
    const holder = obedient()
    await holder.ask('exclusive')
    await holder.kill()
    expect(nodeFs.readdirSync(join(root, 'd'))).toEqual(['lock'])
    const next = obedient()
    expect(await next.ask('exclusive')).toBe('true')
  })
})

/** Holders that are killed, one after the other. Each has as many locks, since starting it takes longer than all else. */
const holders = { normal: 2, ci: 50, soak: 2000 }[depth]
const LOCKS = 4

test('a lock that the system does not let go of is gone all the same when it is closed', async () => {
  const real = kernelLocks()
  let failing = true
  await using lame = await posixFs(root, {
    fs: nodeFs,
    locks: {
      tryLock: (fd, mode) => real.tryLock(fd, mode),
      unlock(fd) {
        if (failing) throw Object.assign(new Error('Unknown system error -37'), { code: 'UNKNOWN' })
        real.unlock(fd)
      },
    },
  })
  const lock = await lame.lock('lock')
  await lock.acquire()
  expect(() => lock.release()).toThrow(error('FS_UNAVAILABLE'))
  await using other = await fs.lock('lock')
  expect(other.tryAcquire()).toBe(false)
  await lock[Symbol.asyncDispose]()
  expect(other.tryAcquire()).toBe(true)
  failing = false
})

test(`${holders} holders of ${LOCKS} locks are killed, and whoever waits has the lock each time`, async () => {
  const paths = Array.from({ length: LOCKS }, (_, i) => `d/lock-${i}`)
  const holder = (): OtherProcess =>
    run(`
      process.stdin.once('data', async () => {
        for (const path of ${JSON.stringify(paths)}) await (await fs.lock(path)).acquire()
        console.log('held')
      })`)
  const waiters = await Promise.all(paths.flatMap((path) => [fs.lock(path), fs.lock(path)]))
  let next = holder()
  for (let round = 0; round < holders; round++) {
    const current = next
    current.child.stdin!.write('go\n')
    expect(await current.line()).toBe('held')
    // The next one starts while this one dies.
    next = holder()
    expect(waiters.some((lock) => lock.tryAcquire('shared'))).toBe(false)
    const inside = paths.map(() => 0)
    const got = waiters.map(async (lock, i) => {
      const which = i >> 1
      await lock.acquire()
      inside[which]! += 1
      expect(inside[which], paths[which]).toBe(1)
      await sleep(1)
      inside[which]! -= 1
      lock.release()
    })
    await current.kill()
    started.splice(started.indexOf(current), 1)
    await Promise.all(got)
  }
  for (const lock of waiters) await lock[Symbol.asyncDispose]()
})

/**
 * What the processes say while they hold a lock, in the order in which it was said: they enter after they have got it and leave before
 * they let it go, so whoever overlaps here has held it together with another. Returns how often it was held.
 */
function checkEvidence(lines: readonly string[], killed: ReadonlySet<string>): number {
  const inside = new Map<string, string>()
  let held = 0
  for (const [at, line] of lines.entries()) {
    const [who, what, mode] = line.split(' ') as [string, string, string]
    if (what === 'leave') {
      if (!inside.delete(who)) throw new Error(`line ${at}: ${who} leaves without having entered`)
      continue
    }
    held++
    for (const [other, otherMode] of inside) {
      if (other === who || (mode === 'shared' && otherMode === 'shared')) continue
      // Whoever was killed inside holds nothing any more, and says nothing either.
      if (!killed.has(other) || lines.slice(at).some((later) => later.startsWith(`${other} `)))
        throw new Error(`line ${at}: ${who} has it ${mode}, and ${other} ${otherMode}`)
      inside.delete(other)
    }
    inside.set(who, mode)
  }
  return held
}

test('two holders would be noticed', () => {
  expect(
    checkEvidence(['a enter shared', 'b enter shared', 'a leave', 'b leave', 'a enter exclusive'], new Set()),
  ).toBe(3)
  expect(() => checkEvidence(['a enter exclusive', 'b enter exclusive'], new Set())).toThrow('b has it')
  expect(() => checkEvidence(['a enter shared', 'b enter exclusive'], new Set())).toThrow('b has it')
  expect(() => checkEvidence(['a enter exclusive', 'b enter shared'], new Set())).toThrow('b has it')
  expect(checkEvidence(['a enter exclusive', 'b enter exclusive'], new Set(['a']))).toBe(2)
  expect(() => checkEvidence(['a enter exclusive', 'b enter shared', 'a leave'], new Set(['a']))).toThrow('b has it')
})

test('no lock is ever held by two, whoever is killed whenever', async () => {
  const { processes, kills, turns } = {
    normal: { processes: 3, kills: 3, turns: 150 },
    ci: { processes: 4, kills: 30, turns: 3000 },
    soak: { processes: 6, kills: 2000, turns: 100_000 },
  }[depth]
  const evidence = join(root, 'evidence')
  nodeFs.writeFileSync(evidence, '')
  const chance = random(1)
  const body = (seed: number): string => `
    import { appendFileSync, openSync } from 'node:fs'
    import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
    import { random } from ${JSON.stringify(new URL('../../test/block-log/random.ts', import.meta.url).href)}
    const chance = random(${seed})
    const evidence = openSync(${JSON.stringify(evidence)}, 'a')
    const say = (what) => appendFileSync(evidence, process.pid + ' ' + what + '\\n')
    const locks = [await fs.lock('d/lock'), await fs.lock('d/lock')]
    console.log('started')
    for (;;) {
      const lock = chance.pick(locks)
      const mode = chance.pick(['shared', 'exclusive', 'exclusive'])
      if (chance.below(4) > 0) await lock.acquire({ mode })
      else if (!lock.tryAcquire(mode)) continue
      say('enter ' + mode)
      await turn()
      if (mode === 'shared' && lock.tryAcquire('exclusive')) {
        say('enter exclusive')
        await turn()
      }
      say('leave')
      lock.release()
      if (chance.below(3) === 0) await sleep(chance.below(3))
    }`
  const running: OtherProcess[] = []
  const killed = new Set<string>()
  const lines = (): string[] => nodeFs.readFileSync(evidence, 'latin1').split('\n').slice(0, -1)
  for (let i = 0; i < processes; i++) running.push(run(body(i)))
  for (const one of running) expect(await one.line()).toBe('started')
  for (let kill = 0; kill < kills; kill++) {
    const enough = ((kill + 1) * turns) / kills
    while (nodeFs.statSync(evidence).size < enough * 15) await sleep(chance.below(5))
    const victim = chance.below(processes)
    killed.add(`${running[victim]!.child.pid}`)
    await running[victim]!.kill()
    running[victim] = run(body(processes + kill))
    expect(await running[victim]!.line()).toBe('started')
  }
  for (const one of running) {
    killed.add(`${one.child.pid}`)
    await one.kill()
  }
  const said = lines()
  const held = checkEvidence(said, killed)
  expect(held).toBeGreaterThan(turns / 3)
  console.log(`lock: held ${held} times by ${killed.size} processes, each killed, never by two`)
})
