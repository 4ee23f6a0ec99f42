import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type FakeS3, type FakeS3Fault, fakeS3 } from '../../test/fake-s3.ts'
import type { Fs, FsWriteOptions } from './contract.ts'
import { FsError } from './error.ts'
import { randomOf } from './random.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const chaosRuns = depth === 'soak' ? 2000 : depth === 'ci' ? 60 : 6

const failed = { status: 500, code: 'InternalError' }
const gateway = { status: 504, code: 'GatewayTimeout' }
const throttled = { status: 503, code: 'SlowDown' }
/** The fault, and if it is silence, the time after which it is given up, which passes at once. */
function given(answer: FakeS3Fault['answer']): Pick<FakeS3Fault, 'answer' | 'meanwhile'> {
  return answer === 'silence' ? { answer, meanwhile: async () => vi.advanceTimersByTime(GIVE_UP_MS) } : { answer }
}
const GIVE_UP_MS = 1e6
beforeAll(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }))
afterAll(() => void vi.useRealTimers())

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'done'
  } catch (error) {
    if (error instanceof FsError) return error.code
    throw error
  }
}

function contentOf(fake: FakeS3, key = 'file'): string | undefined {
  return fake.objects.get(key)?.body.toString()
}

/** Writes `old`, then `new` on the condition that nobody was faster; `new` meets the fault. */
async function write(
  fake: FakeS3,
  fs: Fs,
  condition: 'ifAbsent' | 'ifMatch' | 'none',
  fault: Omit<FakeS3Fault, 'operation'>,
): Promise<string> {
  let options: FsWriteOptions = condition === 'ifAbsent' ? { ifAbsent: true } : {}
  if (condition === 'ifMatch') options = { ifMatch: (await fs.writeFile('file', Buffer.from('old'))).tag }
  fake.fail({ operation: 'PutObject', ...fault })
  return codeOf(fs.writeFile('file', Buffer.from('new'), options))
}

describe('a write whose answer is lost', () => {
  for (const answer of [failed, gateway, 'reset', 'silence'] as const) {
    const what = typeof answer === 'string' ? answer : `${answer.status}`
    test(`and that happened, is known to have happened (${what})`, async () => {
      for (const condition of ['ifAbsent', 'ifMatch', 'none'] as const) {
        await using fake = await fakeS3()
        await using fs = fake.fs()
        expect(await write(fake, fs, condition, { ...given(answer), effect: 'done' })).toBe('done')
        expect(contentOf(fake)).toBe('new')
        const { tag } = (await fs.stat('file'))!
        expect(await codeOf(fs.writeFile('file', Buffer.from('next'), { ifMatch: tag }))).toBe('done')
      }
    })
    test(`and that did not happen, is uncertain if it creates, and repeated if it replaces (${what})`, async () => {
      for (const [condition, result, content] of [
        ['ifAbsent', 'FS_UNCERTAIN', undefined],
        ['ifMatch', 'done', 'new'],
        ['none', 'done', 'new'],
      ] as const) {
        await using fake = await fakeS3()
        await using fs = fake.fs()
        expect(await write(fake, fs, condition, given(answer))).toBe(result)
        expect(contentOf(fake)).toBe(content)
      }
    })
    test(`and that happens later, is uncertain if it creates, and happens once if it replaces (${what})`, async () => {
      for (const [condition, result, later] of [
        ['ifAbsent', 'FS_UNCERTAIN', 200],
        ['ifMatch', 'done', 412],
      ] as const) {
        await using fake = await fakeS3()
        await using fs = fake.fs()
        expect(await write(fake, fs, condition, { ...given(answer), effect: 'late' })).toBe(result)
        expect(fake.releaseLate()).toEqual([later])
        expect(contentOf(fake)).toBe('new')
      }
    })
    test(`is uncertain if the file cannot be read either (${what})`, async () => {
      for (const effect of ['none', 'done'] as const) {
        await using fake = await fakeS3()
        await using fs = fake.fs({ retries: 1 })
        fake.fail({ operation: 'HeadObject', answer: failed, times: 100 })
        expect(await write(fake, fs, 'ifAbsent', { ...given(answer), effect })).toBe('FS_UNCERTAIN')
      }
    })
  }
  test('because the server has too much to do is repeated, and found if it happened nevertheless', async () => {
    for (const condition of ['ifAbsent', 'ifMatch', 'none'] as const)
      for (const effect of ['none', 'done', 'late'] as const) {
        await using fake = await fakeS3()
        await using fs = fake.fs()
        expect(await write(fake, fs, condition, { answer: throttled, effect, times: 2 })).toBe('done')
        expect(contentOf(fake)).toBe('new')
        if (condition !== 'none') expect(new Set(fake.releaseLate()).has(200)).toBe(false)
      }
  })
  test('again and again, is uncertain in the end, and says so', async () => {
    for (const condition of ['ifMatch', 'none'] as const) {
      await using fake = await fakeS3()
      await using fs = fake.fs({ retries: 2 })
      expect(await write(fake, fs, condition, { answer: failed, times: 100 })).toBe('FS_UNCERTAIN')
      expect(fake.requests.filter(({ operation }) => operation === 'PutObject').length).toBe(
        condition === 'ifMatch' ? 4 : 3,
      )
    }
  })
  test('again and again, but happened the last time, is known to have happened', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs({ retries: 2 })
    expect(await write(fake, fs, 'none', { answer: failed, effect: 'done', times: 100 })).toBe('done')
  })
})

describe('a replacement whose answer is lost', () => {
  /** Others replace the file one after the other, while the answer is on its way. */
  async function overtaken(effect: 'none' | 'done', times: number, how: 'ifMatch' | 'blindly'): Promise<string> {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    await using other = fake.fs()
    const meanwhile = async (): Promise<void> => {
      for (let i = 0; i < times; i++) {
        const { tag } = (await other.stat('file'))!
        await other.writeFile('file', Buffer.from(`${i}`), how === 'ifMatch' ? { ifMatch: tag } : {})
      }
    }
    return await write(fake, fs, 'ifMatch', { answer: failed, effect, meanwhile })
  }
  test('is known to have failed if the history shows who was first', async () => {
    for (const times of [1, 2, 8]) expect(await overtaken('none', times, 'ifMatch')).toBe('FS_CONFLICT')
  })
  test('is known to have worked if the history shows it', async () => {
    for (const times of [1, 2, 8]) expect(await overtaken('done', times, 'ifMatch')).toBe('done')
  })
  test('is uncertain once the history does not reach back', async () => {
    for (const effect of ['none', 'done'] as const) {
      expect(await overtaken(effect, 9, 'ifMatch')).toBe('FS_UNCERTAIN')
      expect(await overtaken(effect, 1, 'blindly')).toBe('FS_UNCERTAIN')
    }
  })
  test('is uncertain if the file is gone', async () => {
    await using fake = await fakeS3()
    await using fs = fake.fs()
    const meanwhile = async (): Promise<unknown> => fake.objects.delete('file')
    expect(await write(fake, fs, 'ifMatch', { answer: 'reset', effect: 'done', meanwhile })).toBe('FS_UNCERTAIN')
  })
})

describe('a creation whose answer is lost', () => {
  test('is known to have failed if the file is older', async () => {
    let nowMs = Date.now() - 60_000
    await using fake = await fakeS3({ now: () => nowMs })
    await using fs = fake.fs()
    await fs.writeFile('file', Buffer.from('old'))
    nowMs = Date.now()
    expect(await write(fake, fs, 'ifAbsent', { answer: failed })).toBe('FS_EXISTS')
    fake.fail({ operation: 'PutObject', answer: 'reset' })
    expect(await codeOf(fs.writeFile('file', Buffer.from('new'), { ifAbsent: true }))).toBe('FS_EXISTS')
    expect(contentOf(fake)).toBe('old')
  })
  test('is uncertain if somebody wrote the file meanwhile', async () => {
    for (const effect of ['none', 'done'] as const) {
      await using fake = await fakeS3()
      await using fs = fake.fs()
      await using other = fake.fs()
      const meanwhile = async (): Promise<unknown> => other.writeFile('file', Buffer.from('theirs'))
      expect(await write(fake, fs, 'ifAbsent', { answer: failed, effect, meanwhile })).toBe('FS_UNCERTAIN')
    }
  })
})

describe('an upload in parts whose completion is lost', () => {
  const partBytes = 5 * 1024 * 1024
  const large = Buffer.alloc(partBytes + 1, 7)
  test('is known to have happened, or happens again', async () => {
    for (const effect of ['none', 'done'] as const)
      for (const options of [{}, { ifAbsent: true }] as const) {
        await using fake = await fakeS3()
        await using fs = fake.fs({ partBytes, conditionalMultipart: true })
        fake.fail({ operation: 'CompleteMultipartUpload', answer: failed, effect })
        const result = await codeOf(fs.writeFile('file', large, options))
        expect(result).toBe(effect === 'none' && 'ifAbsent' in options ? 'FS_UNCERTAIN' : 'done')
        if (result === 'done') expect(fake.objects.get('file')?.body.length).toBe(large.length)
        expect(fake.uploads.size).toBe(0)
      }
  })
})

describe('many writers and a server that fails', () => {
  test('lose no update, and no update happens twice', async () => {
    let [done, uncertain, conflicts] = [0, 0, 0]
    for (let seed = 1; seed <= chaosRuns; seed++) {
      const random = randomOf(seed)
      await using fake = await fakeS3()
      await using first = fake.fs()
      await first.writeFile('file', Buffer.from('0'))
      fake.decide = (operation) => {
        if (operation !== 'PutObject' || random(3) > 0) return undefined
        const answer = ([failed, throttled, 'reset', gateway] as const)[random(4)]!
        return { operation, answer, effect: (['none', 'done', 'late'] as const)[random(3)]! }
      }
      const counts = { done: 0, uncertain: 0 }
      const add = async (): Promise<void> => {
        await using fs = fake.fs()
        for (let i = 0; i < 5; i++) {
          await using file = await fs.open('file', 'read')
          const into = Buffer.alloc(20)
          const { tag, size } = await file.stat()
          const read = await codeOf(file.read(into, 0))
          if (read !== 'done') continue
          const next = Number(into.subarray(0, size).toString()) + 1
          const result = await codeOf(fs.writeFile('file', Buffer.from(`${next}`), { ifMatch: tag }))
          if (result === 'done') counts.done++
          else if (result === 'FS_UNCERTAIN') counts.uncertain++
          else {
            expect(result).toBe('FS_CONFLICT')
            conflicts++
          }
          if (random(2) === 0) fake.releaseLate()
        }
      }
      await Promise.all([add(), add(), add()])
      fake.releaseLate()
      const total = Number(contentOf(fake))
      expect(total, `seed ${seed}`).toBeGreaterThanOrEqual(counts.done)
      expect(total, `seed ${seed}`).toBeLessThanOrEqual(counts.done + counts.uncertain)
      done += counts.done
      uncertain += counts.uncertain
    }
    console.log(`${chaosRuns} runs: ${done} done, ${conflicts} refused, ${uncertain} uncertain`)
    expect(done).toBeGreaterThan(uncertain)
  })
  test('create a file once', async () => {
    for (let seed = 1; seed <= chaosRuns; seed++) {
      const random = randomOf(seed)
      await using fake = await fakeS3()
      fake.decide = (operation) => {
        if (operation !== 'PutObject' || random(3) > 0) return undefined
        const answer = ([failed, throttled, 'reset', gateway] as const)[random(4)]!
        return { operation, answer, effect: (['none', 'done', 'late'] as const)[random(3)]! }
      }
      const results = await Promise.all(
        Array.from({ length: 6 }, async (_, i) => {
          await using fs = fake.fs()
          return await codeOf(fs.writeFile('file', Buffer.from(`${i}`), { ifAbsent: true }))
        }),
      )
      fake.releaseLate()
      const winners = results.flatMap((result, i) => (result === 'done' ? [`${i}`] : []))
      expect(winners.length, `seed ${seed}`).toBeLessThanOrEqual(1)
      if (winners.length === 1) expect(contentOf(fake), `seed ${seed}`).toBe(winners[0])
      else expect(results, `seed ${seed}`).toContain('FS_UNCERTAIN')
    }
  })
})
