import { describe, expect, it, test } from 'vitest'
import { type CrashableFs, crashableFs, imageOf, recordedFs } from '../faults.ts'
import { memoryFs } from '../memory.ts'
import { fsConformance } from '../testing.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 5000 : depth === 'ci' ? 200 : 20

describe('crashable, without a crash', () => {
  fsConformance({ describe, it }, { create: async () => crashableFs(), modelRuns })
})
describe('crashable, opened after a crash', () => {
  fsConformance({ describe, it }, { create: async () => crashableFs().crash(1), modelRuns: 5 })
})
describe('recorded', () => {
  fsConformance({ describe, it }, { create: async () => recordedFs(memoryFs()), modelRuns })
})

const bytes = (text: string): Uint8Array => Buffer.from(text)
/** What a file may hold after a power cut now; `-` where it is missing. */
function contents(fs: CrashableFs, path: string): string[] {
  const found = new Set<string>()
  for (const state of fs.states()) {
    const shown = state.image().get(path)
    found.add(shown === undefined ? '-' : Buffer.from(shown as Uint8Array).toString())
    expect(fs.isPossible(state.image()), state.description).toBeUndefined()
  }
  return [...found].sort()
}

describe('a power cut', () => {
  test('takes a name without a directory flush, content without a sync, and neither after both', async () => {
    await using fs = crashableFs()
    await using file = await fs.open('log', 'append')
    await file.append([bytes('ab')])
    expect(fs.volatile()).toEqual(['open log', 'write log @0+2'])
    expect(contents(fs, 'log')).toEqual(expect.arrayContaining(['', '-', 'ab']))
    await file.sync()
    expect(contents(fs, 'log')).toEqual(['-', 'ab'])
    await fs.syncDirectory('')
    expect(contents(fs, 'log')).toEqual(['ab'])
    await file.append([bytes('c')])
    expect(contents(fs, 'log')).toEqual(expect.arrayContaining(['ab', 'abc']))
    expect(contents(fs, 'log').every((text) => text.startsWith('ab'))).toBe(true)
  })
  test('while a writeFile is under way leaves the old content or the new', async () => {
    const seen: string[][] = []
    await using fs = crashableFs({ onChange: (now) => seen.push(contents(now, 'file')) })
    await fs.writeFile('file', bytes('old'))
    await fs.writeFile('file', bytes('new'))
    expect(seen).toEqual([['-', 'old'], ['old'], ['new', 'old'], ['new']])
  })
  test('leaves a rename whole or not at all, across directories too', async () => {
    await using fs = crashableFs()
    await fs.writeFile('a/x', bytes('X'))
    await fs.writeFile('b/y', bytes('Y'))
    await fs.rename('a/x', 'b/y')
    const trees = (): string[] =>
      [...fs.states()].map((state) => [...state.image().keys()].filter((path) => path.length > 1).join()).sort()
    expect(trees()).toEqual(['a/x,b/y', 'b/y'])
    await fs.syncDirectory('b')
    expect(trees()).toEqual(['a/x,b/y', 'b/y'])
    await fs.syncDirectory('a')
    expect(trees()).toEqual(['b/y'])
  })
  test('knows a file by itself, not by its name: links, renames while open, and removals', async () => {
    await using fs = crashableFs()
    await using file = await fs.open('one', 'append')
    await file.append([bytes('data')])
    await fs.link('one', 'two')
    await fs.rename('one', 'three')
    await fs.syncDirectory('')
    await file.sync()
    expect([contents(fs, 'one'), contents(fs, 'two'), contents(fs, 'three')]).toEqual([['-'], ['data'], ['data']])
    await fs.remove('two')
    expect(contents(fs, 'two')).toEqual(['-', 'data'])
  })
  test('may undo a truncation, and show old bytes behind it', async () => {
    await using fs = crashableFs()
    await fs.writeFile('file', bytes('0123456789'))
    await using file = await fs.open('file', 'write')
    await file.truncate(4)
    // The rest of the last block is cleared first.
    expect(contents(fs, 'file')).toEqual(['0123', '0123\0\0\0\0\0\0', '0123456789'])
    await file.append([bytes('XY')])
    expect(contents(fs, 'file')).toEqual(expect.arrayContaining(['0123', '0123XY', '0123XY6789', '0123456789']))
    await file.sync()
    expect(contents(fs, 'file')).toEqual(['0123XY'])
  })
  test('keeps directories that were made, and those made on the way, once that has resolved', async () => {
    await using fs = crashableFs()
    await fs.makeDirectory('a/b')
    const file = await fs.open('c/d/e', 'append')
    await file[Symbol.asyncDispose]()
    for (const state of fs.states())
      expect([...state.image().keys()]).toEqual(expect.arrayContaining(['a', 'a/b', 'c', 'c/d']))
  })
  test('a sync covers what was written before it was asked for, not what came during it', async () => {
    await using fs = crashableFs()
    await using file = await fs.open('log', 'append')
    await fs.syncDirectory('')
    await file.append([bytes('a')])
    const flushed = file.sync()
    file.appendSync!([bytes('b')])
    await flushed
    expect(contents(fs, 'log')).toEqual(expect.arrayContaining(['a', 'ab']))
    expect(contents(fs, 'log')).not.toContain('')
  })
  test('ext4-ordered loses names from the end only, and shows zeros instead of old bytes', async () => {
    await using fs = crashableFs({ profile: 'ext4-ordered' })
    for (const name of ['a', 'b', 'c']) await (await fs.open(name, 'append'))[Symbol.asyncDispose]()
    const trees = [...fs.states()].map((state) => [...state.image().keys()].join('')).sort()
    expect(trees).toEqual(['', 'a', 'ab', 'abc'])
    await using minimum = crashableFs()
    for (const name of ['a', 'b', 'c']) await (await minimum.open(name, 'append'))[Symbol.asyncDispose]()
    expect([...minimum.states()]).toHaveLength(8)
  })
  test('the state goes on as a file system of its own, which can crash again', async () => {
    await using fs = crashableFs()
    await fs.writeFile('kept', bytes('kept'), { metadata: { kind: 'test' } })
    const [state] = [...fs.states()]
    await using after = state!.open()
    expect((await after.stat('kept'))?.metadata).toEqual({ kind: 'test' })
    await using file = await after.open('kept', 'write')
    await file.write(bytes('K'), 0)
    await file.truncate(2)
    expect(contents(after, 'kept')).toEqual(expect.arrayContaining(['Ke', 'kept', 'Kept', 'ke']))
    expect(Buffer.from(await fs.readFile('kept')).toString()).toBe('kept')
    expect(Buffer.from(state!.image().get('kept') as Uint8Array).toString()).toBe('kept')
    await using again = after.crash(3)
    expect((await imageOf(again)).size).toBe(1)
  })
  test('the same seed leaves the same disk', async () => {
    await using fs = crashableFs()
    for (const name of 'abcdefghijklmnop') {
      const file = await fs.open(name, 'append')
      await file.append([bytes(name.repeat(900))])
      await file[Symbol.asyncDispose]()
    }
    const hashes = (seed: number): string[] => [...fs.states({ seed })].map((state) => state.hash)
    expect(hashes(1)).toEqual(hashes(1))
    expect(hashes(1)).not.toEqual(hashes(2))
    expect(new Set(hashes(1)).size).toBe(hashes(1).length)
    expect(await imageOf(fs.crash(5))).toEqual(await imageOf(fs.crash(5)))
  })
})
