import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Fs, FsError, type FsLock } from '@mailstead/fs'
import { posixFs } from '@mailstead/fs/posix'
import { faultPlan, faultyFs } from '@mailstead/fs/faults'
import { afterAll, expect, test } from 'vitest'
import { LockTurns } from './lock-turns.ts'

const directory = mkdtempSync(join(tmpdir(), 'mailstead-turns-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** One of several that share a lock as processes do: each has its own file system. */
class Party implements AsyncDisposable {
  readonly turns: LockTurns
  readonly lock: FsLock
  readonly fs: Fs

  constructor(fs: Fs, lock: FsLock) {
    this.fs = fs
    this.lock = lock
    this.turns = new LockTurns(fs, 'lock', 'turn.lock')
  }

  wait(): Promise<void> {
    return this.turns.wait(this.lock, 'exclusive', 60_000)
  }

  pass(): void {
    this.lock.release()
    this.turns.knock()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.turns[Symbol.asyncDispose]()
    await this.lock[Symbol.asyncDispose]()
    await this.fs[Symbol.asyncDispose]()
  }
}

async function party(change: (fs: Fs) => Fs = (fs) => fs): Promise<Party> {
  const fs = change(await posixFs(directory))
  return new Party(fs, await fs.lock('lock'))
}

/** Until somebody has the turn. */
async function turnIsTaken(): Promise<void> {
  await using fs = await posixFs(directory)
  await using turn = await fs.lock('turn.lock')
  while (turn.tryAcquire('shared')) {
    turn.release()
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

test('whoever waits has the lock when it is passed on', async () => {
  await using a = await party()
  await using b = await party()
  for (let n = 0; n < 20; n++) {
    const [has, waits] = n % 2 === 0 ? [a, b] : [b, a]
    expect(has.lock.held === 'exclusive' || has.turns.tryAcquire(has.lock, 'exclusive')).toBe(true)
    const waiting = waits.wait()
    has.pass()
    await waiting
    expect(waits.lock.held).toBe('exclusive')
  }
})

test('who waited long goes before those who only come', async () => {
  await using a = await party()
  await using b = await party()
  await using c = await party()
  a.lock.tryAcquire('exclusive')
  // It had to wait before: so it knows that others do.
  const first = c.wait()
  a.pass()
  await first
  c.pass()
  await a.wait()
  const waiting = b.wait()
  await turnIsTaken()
  a.pass()
  // Long after it had to wait it asks for no turn; nothing here may take that long, but for a busy machine.
  if (c.turns.isBusy) expect(c.turns.tryAcquire(c.lock, 'exclusive')).toBe(false)
  await waiting
  expect(b.lock.held).toBe('exclusive')
  b.pass()
  expect(c.turns.tryAcquire(c.lock, 'exclusive')).toBe(true)
})

test('who is passed over takes the turn before the lock is passed on again', async () => {
  await using a = await party()
  await using b = await party()
  await using c = await party()
  a.lock.tryAcquire('exclusive')
  const first = b.wait()
  await turnIsTaken()
  const second = c.wait()
  // Its own time to take the turn comes while it cannot.
  await new Promise((resolve) => setTimeout(resolve, 20))
  a.pass()
  // The turn is a hint: who has it is next unless the other looks just then by itself.
  await Promise.race([first, second])
  const has = b.lock.held === 'exclusive' ? b : c
  await turnIsTaken()
  has.pass()
  await Promise.all([first, second])
  expect([a, b, c].map(({ lock }) => lock.held)).toEqual([
    undefined,
    ...(has === b ? [undefined, 'exclusive'] : ['exclusive', undefined]),
  ])
})

test('nobody waits for longer than is allowed, and the turn is given back', async () => {
  await using a = await party()
  await using b = await party()
  a.lock.tryAcquire('exclusive')
  await expect(b.turns.wait(b.lock, 'shared', 30)).rejects.toMatchObject({ code: 'FS_LOCKED' })
  await using turn = await a.fs.lock('turn.lock')
  expect(turn.tryAcquire('exclusive')).toBe(true)
})

test('where the turn cannot be had, the lock can', async () => {
  await using a = await party()
  await using b = await party((fs) =>
    faultyFs(fs, faultPlan({ operation: 'lock', path: 'turn.lock', fault: 'ENOSPC' })),
  )
  a.lock.tryAcquire('exclusive')
  const waiting = b.wait()
  a.pass()
  await waiting
  expect(b.lock.held).toBe('exclusive')
})

test('who cannot give its turn back has not got the lock either', async () => {
  await using a = await party()
  let isBroken = false
  /** Does something else instead of one method. */
  const instead = <T extends object>(of: T, method: keyof T, done: () => unknown): T =>
    new Proxy(of, {
      get(target, name) {
        const value: unknown = name === method ? done : Reflect.get(target, name, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  await using b = await party((fs) => {
    const lock = async (path: string): Promise<FsLock> => {
      const below = await fs.lock(path)
      return instead(below, 'release', () => {
        below.release()
        if (isBroken && path === 'turn.lock') throw new FsError('FS_IO', 'made up')
      })
    }
    return instead(fs, 'lock', lock as () => unknown)
  })
  a.lock.tryAcquire('exclusive')
  const waiting = b.wait()
  a.pass()
  await waiting
  b.lock.release()
  // It has just waited, and so asks for its turn, unless that is long ago on a busy machine.
  isBroken = b.turns.isBusy
  if (isBroken) expect(() => b.turns.tryAcquire(b.lock, 'exclusive')).toThrow('made up')
  isBroken = false
  expect(b.lock.held).toBeUndefined()
  a.lock.tryAcquire('exclusive')
  const again = b.wait()
  await turnIsTaken()
  isBroken = true
  a.pass()
  await expect(again).rejects.toThrow('made up')
  isBroken = false
  expect(b.lock.held).toBeUndefined()
})
