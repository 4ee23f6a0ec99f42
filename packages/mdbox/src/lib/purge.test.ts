import { randomBytes } from 'node:crypto'
import type { Box, BoxRef } from '@mailstead/box'
import { type MemoryProcess, memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import { Pace } from './pace.ts'
import { COLUMNS } from './place.ts'

const MESSAGE = 1000

interface Subject {
  readonly fs: Fs
  readonly box: Box
  readonly proc: MemoryProcess
  /** References of each file's messages. */
  readonly files: BoxRef[][]
  /** Pauses that were asked for, in milliseconds. */
  readonly pauses: number[]
  nowMs: number
}

/** Files of ten messages, of which the i-th has `dead[i]` without uses. */
async function subjectOf(dead: readonly number[], onPause: () => void = () => {}): Promise<Subject> {
  const fs = memoryFs()
  const proc = memoryTable(COLUMNS).process()
  const subject = { fs, proc, files: [] as BoxRef[][], pauses: [] as number[], nowMs: 1_700_000_000_000 }
  const box = await mdbox(fs, 'storage', {
    rotateBytes: 10 * MESSAGE,
    now: () => subject.nowMs,
    pause: (ms) => {
      subject.pauses.push(ms)
      subject.nowMs += ms
      onPause()
      return Promise.resolve()
    },
  }).open(proc.host)
  for (const count of dead) {
    await using batch = box.begin()
    const saved = []
    for (let i = 0; i < 10; i++)
      saved.push(await batch.save(randomBytes(MESSAGE), { guid: randomBytes(16), receivedMs: 0 }))
    await batch.flush()
    const refs = await proc.keep(...saved)
    subject.files.push(refs)
    await proc.setUses(refs.slice(0, count), 0)
  }
  return Object.assign(subject, { box })
}

/** Which of the files are still there. */
async function left({ fs, files }: Subject): Promise<boolean[]> {
  const there = await Promise.all(files.map((_, i) => fs.stat(`storage/m.${1 + 16 * i}`)))
  return there.map((stat) => stat !== undefined)
}

describe('a purge with a budget', () => {
  test('takes the file first of which most is dead, and says what is left', async () => {
    const subject = await subjectOf([3, 10, 9, 5, 1])
    await using box = subject.box
    const first = await box.purge({ copyMaxBytes: 2 * MESSAGE })
    expect(first).toMatchObject({ files: 2, messages: 19, skipped: 0, left: { files: 2 } })
    expect(first.left!.bytes).toBeGreaterThan(8 * MESSAGE)
    expect(await left(subject)).toEqual([true, false, false, true, true])
    // One file at least, whatever the budget is.
    expect(await box.purge({ copyMaxBytes: 1 })).toMatchObject({ files: 1, messages: 5, left: { files: 1 } })
    expect(await left(subject)).toEqual([true, false, false, false, true])
    const last = await box.purge({ copyMaxBytes: 100 * MESSAGE })
    expect(last).toMatchObject({ files: 1, messages: 3 })
    expect(last.left).toBeUndefined()
    // One in ten is not worth it.
    expect(await left(subject)).toEqual([false, false, false, false, true])
    expect((await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
  })

  test('keeps its rate by pauses, and stops when its time is up or it is asked to', async () => {
    const subject = await subjectOf([5, 5, 5, 5])
    await using box = subject.box
    const report = await box.purge({ bytesPerSecond: 10 * MESSAGE, timeMaxMs: 900 })
    expect(report).toMatchObject({ files: 2, left: { files: 2 } })
    expect(subject.pauses.length).toBe(2)
    for (const ms of subject.pauses) expect(ms).toBeGreaterThan(450)
    const stop = new AbortController()
    const others = await subjectOf([5, 5, 5], () => stop.abort())
    await using other = others.box
    expect(await other.purge({ bytesPerSecond: MESSAGE, signal: stop.signal })).toMatchObject({
      files: 1,
      left: { files: 2 },
    })
    expect(others.pauses.length).toBe(1)
  })

  test('refuses a budget of nothing', async () => {
    const { box: held } = await subjectOf([])
    await using box = held
    for (const budget of [{ copyMaxBytes: 0 }, { timeMaxMs: -1 }, { bytesPerSecond: Number.NaN }])
      expect(() => new Pace(budget, { now: Date.now, pause: () => Promise.resolve() })).toThrow(TypeError)
    await expect(box.purge({ copyMaxBytes: 0 })).rejects.toThrow(TypeError)
  })

  test('copies a message to where it was moved meanwhile no second time', async () => {
    const subject = await subjectOf([5, 5])
    await using box = subject.box
    const [one, two] = await Promise.all([box.purge(), box.purge()])
    expect(one).toEqual(two)
    expect(one).toMatchObject({ files: 2, messages: 10 })
  })

  test('what a purge condemned that died, and nobody has any more, is written down no longer', async () => {
    const subject = await subjectOf([10])
    {
      await using box = subject.box
      await subject.proc.commit((tx) => tx.setValue?.('box', 'condemned', Uint8Array.of(33, 0, 0, 0)))
      await box.purge()
      expect(subject.proc.host.table.view.values?.get('condemned')).toBeUndefined()
    }
  })
})
