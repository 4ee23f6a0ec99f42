import type { Box, BoxHost, BoxRef, BoxSaved } from '@mailstead/box'
import { BoxError } from '@mailstead/box'
import { type MemoryProcess, type MemoryTable, memoryTable } from '@mailstead/box/testing'
import type { Fs, FsErrorCode } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { type FaultyOperation, faultyFs } from '@mailstead/fs/faults'
import { describe, expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import type { MdboxOptions } from './options.ts'
import { COLUMNS } from './place.ts'

type Fault = 'short' | FsErrorCode | undefined

interface Bench {
  readonly inner: Fs
  readonly table: MemoryTable
  /** What was done to the file system, in order. */
  readonly trace: string[]
  /** Decides about each operation from now on. */
  fault: (operation: FaultyOperation, path: string) => Fault
  readonly open: (options?: MdboxOptions) => Promise<{ readonly box: Box; readonly process: MemoryProcess }>
}

function bench(): Bench {
  const inner = memoryFs()
  const table = memoryTable(COLUMNS)
  const trace: string[] = []
  const subject: Bench = {
    inner,
    table,
    trace,
    fault: () => undefined,
    open: async (options) => {
      const fs = faultyFs(inner, {
        fail(operation, path) {
          trace.push(`${operation} ${path}`)
          return subject.fault(operation, path)
        },
      })
      const process = table.process()
      return { box: await mdbox(fs, 'storage', options).open(process.host), process }
    },
  }
  return subject
}

const metadata = { guid: new Uint8Array(16).fill(7), receivedMs: 1_700_000_000_000, mailbox: 'INBOX' }

async function save(box: Box, process: MemoryProcess, ...texts: string[]): Promise<BoxRef[]> {
  await using batch = box.begin()
  const saved: BoxSaved[] = []
  for (const text of texts) saved.push(await batch.save(Buffer.from(text), metadata))
  await batch.flush()
  return await process.keep(...saved)
}

async function text(box: Box, ref: BoxRef): Promise<string> {
  await using message = await box.open(ref)
  const into = Buffer.alloc(message.physicalSize)
  expect(await message.read(into, 0)).toBe(into.length)
  return into.toString()
}

async function damages(box: Box): Promise<unknown[]> {
  return (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
}

async function scanned(box: Box): Promise<string[]> {
  const found = (await Array.fromAsync(box.scan())).flat()
  return found.map(({ file, physicalSize, damage }) => `${file} ${physicalSize} ${damage ?? 'good'}`)
}

async function files(fs: Fs): Promise<string[]> {
  const names = (await Array.fromAsync(fs.list('storage'))).flat().map(({ name }) => name)
  return names.filter((name) => name.startsWith('m.')).toSorted()
}

async function* stream(size: number): AsyncGenerator<Uint8Array> {
  for (let left = size; left > 0; left -= 50_000) yield Buffer.alloc(Math.min(left, 50_000), 'large ')
}

const failed = expect.objectContaining({ code: 'BOX_WRITE_FAILED' })

describe('flush', () => {
  test('is one append and one sync, and once per file a sync of its name', async () => {
    const { trace, open } = bench()
    const { box, process } = await open()
    await save(box, process, 'a', 'b')
    trace.length = 0
    await save(box, process, 'c', 'd', 'e')
    expect(trace).toEqual(['append storage/m.1', 'sync storage/m.1'])
    await box[Symbol.asyncDispose]()
    expect((await open()).box.name).toBe('mdbox')
  })

  test('the name of a file is durable before the first flush in it resolves', async () => {
    const { trace, open } = bench()
    const { box, process } = await open()
    await save(box, process, 'a')
    expect(trace.slice(-4)).toEqual([
      'open storage/m.1',
      'append storage/m.1',
      'sync storage/m.1',
      'syncDirectory storage',
    ])
    trace.length = 0
    await using batch = box.begin()
    await batch.save(stream(2_000_000), metadata)
    await batch.flush()
    expect(trace.at(-2)).toBe('sync storage/m.17')
    expect(trace.at(-1)).toBe('syncDirectory storage')
  })

  test('batches that flush together share writes and flushes', async () => {
    const { trace, open } = bench()
    const { box, process } = await open()
    const refs = await Promise.all(Array.from({ length: 100 }, (_, i) => save(box, process, `message ${i}`)))
    const syncs = trace.filter((line) => line.startsWith('sync ')).length
    expect(syncs).toBeLessThanOrEqual(2)
    expect(trace.filter((line) => line.startsWith('append ')).length).toBe(syncs)
    for (const [i, [ref]] of refs.entries()) expect(await text(box, ref!)).toBe(`message ${i}`)
  })

  test('sixteen that come and go share them too', async () => {
    const { trace, open } = bench()
    const { box, process } = await open()
    await Promise.all(
      Array.from({ length: 16 }, async (_, i) => {
        for (let round = 0; round < 20; round++) await save(box, process, `${i} ${round}`)
      }),
    )
    const syncs = trace.filter((line) => line.startsWith('sync ')).length
    expect(syncs).toBeLessThanOrEqual(80)
    console.log(`320 flushes of 16 writers in ${syncs} syncs`)
  })
})

describe('a failed write', () => {
  for (const [operation, fault] of [
    ['append', 'FS_NO_SPACE'],
    ['append', 'short'],
    ['append', 'FS_UNCERTAIN'],
    ['sync', 'FS_IO'],
    ['syncDirectory', 'FS_IO'],
  ] as const)
    for (const cannotCut of [false, true])
      for (const first of [true, false])
        test(`${operation} ${fault}${cannotCut ? ', and truncate' : ''}${first ? ' in a new file' : ''}: nothing is kept, the next is`, async () => {
          const subject = bench()
          const { box, process } = await subject.open({ rotateBytes: first ? 1 : 1_000_000 })
          const before = await save(box, process, 'before')
          subject.fault = (asked) => {
            if (asked === operation) return fault
            return cannotCut && asked === 'truncate' ? 'FS_IO' : undefined
          }
          // The name of a known file is durable already, so there is nothing to fail.
          const fails = operation !== 'syncDirectory' || first
          const outcomes = await Promise.allSettled(['x', 'y', 'z'].map((body) => save(box, process, body)))
          for (const outcome of outcomes) expect(outcome.status).toBe(fails ? 'rejected' : 'fulfilled')
          if (fails) expect(outcomes).toContainEqual({ status: 'rejected', reason: failed })
          subject.fault = () => undefined
          const after = await save(box, process, 'after')
          expect(await text(box, before[0]!)).toBe('before')
          expect(await text(box, after[0]!)).toBe('after')
          expect(await damages(box)).toEqual([])
          if (fails && !cannotCut) expect((await scanned(box)).map((line) => line.split(' ')[1])).toEqual(['6', '5'])
          await box[Symbol.asyncDispose]()
        })

  test('after a failed sync nothing more is appended to that file', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    await save(box, process, 'before')
    subject.fault = (operation) => (operation === 'sync' ? 'FS_IO' : undefined)
    await expect(save(box, process, 'lost')).rejects.toEqual(failed)
    subject.fault = () => undefined
    subject.trace.length = 0
    await save(box, process, 'after')
    expect(subject.trace).not.toContain('append storage/m.1')
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17'])
  })

  test('the cause is the failure of the file system, which is told apart from damage', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    subject.fault = (operation) => (operation === 'append' ? 'FS_NO_SPACE' : undefined)
    const error: unknown = await save(box, process, 'x').catch((caught: unknown) => caught)
    expect(error).toBeInstanceOf(BoxError)
    expect((error as BoxError).cause).toMatchObject({ code: 'FS_NO_SPACE' })
  })

  test('a large message that cannot be written: the rest of its batch can', async () => {
    for (const operation of ['append', 'write', 'sync'] as const) {
      const subject = bench()
      const { box, process } = await subject.open()
      await save(box, process, 'before')
      await using batch = box.begin()
      let left = operation === 'append' ? 3 : 1
      subject.fault = (asked) => (asked === operation && --left <= 0 ? 'FS_IO' : undefined)
      const attempt = async (): Promise<void> => {
        await batch.save(stream(3_000_000), metadata)
        await batch.flush()
      }
      await expect(attempt()).rejects.toEqual(failed)
      subject.fault = () => undefined
      const saved = await batch.save(Buffer.from('small'), metadata)
      const large = await batch.save(stream(2_000_000), metadata)
      await batch.flush()
      const [ref, second] = await process.keep(saved, large)
      expect(await text(box, ref!)).toBe('small')
      expect((await text(box, second!)).length).toBe(2_000_000)
      expect(await damages(box)).toEqual([])
    }
  })

  test('storage that is away is said so, and is no damage', async () => {
    const subject = bench()
    const opened = await subject.open()
    const [ref] = await save(opened.box, opened.process, 'there')
    await opened.box[Symbol.asyncDispose]()
    const { box } = await subject.open()
    subject.fault = () => 'FS_UNAVAILABLE'
    await expect(box.open(ref!)).rejects.toMatchObject({ name: 'FsError', code: 'FS_UNAVAILABLE' })
    await expect(Array.fromAsync(box.check())).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    subject.fault = () => undefined
    expect(await text(box, ref!)).toBe('there')
  })

  test('a missing file is damage of its messages, named', async () => {
    const subject = bench()
    const { box, process } = await subject.open({ rotateBytes: 1 })
    const refs = [...(await save(box, process, 'one')), ...(await save(box, process, 'two'))]
    await box[Symbol.asyncDispose]()
    await subject.inner.remove('storage/m.1')
    const again = await subject.open()
    await expect(again.box.open(refs[0]!)).rejects.toMatchObject({ code: 'BOX_DAMAGED', ref: refs[0] })
    expect(await text(again.box, refs[1]!)).toBe('two')
    expect(await damages(again.box)).toMatchObject([{ kind: 'file-missing', file: 'm.1', ref: refs[0] }])
    // Its number is not taken again: the row still names it.
    await save(again.box, again.process, 'three')
    expect(await files(subject.inner)).toEqual(['m.17'])
  })
})

describe('files', () => {
  test('begin anew by size and by age', async () => {
    const subject = bench()
    let now = 1_700_000_000_000
    const { box, process } = await subject.open({ rotateBytes: 1000, rotateAgeMs: 60_000, now: () => now })
    await save(box, process, 'x'.repeat(1000))
    await save(box, process, 'y')
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17'])
    now += 59_999
    await save(box, process, 'y')
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17'])
    now += 1
    await save(box, process, 'y')
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17', 'm.33'])
  })

  test('the last one is continued by the next process, if it ends where its last row ends', async () => {
    const subject = bench()
    for (const round of ['a', 'b', 'c']) {
      const { box, process } = await subject.open()
      await save(box, process, round)
      await box[Symbol.asyncDispose]()
    }
    expect(await files(subject.inner)).toEqual(['m.1'])
    {
      const { box } = await subject.open()
      await using batch = box.begin()
      await batch.save(Buffer.from('nobody keeps this'), metadata)
      await batch.flush()
      await box[Symbol.asyncDispose]()
    }
    const { box, process } = await subject.open()
    await save(box, process, 'd')
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17'])
    expect(await damages(box)).toEqual([])
  })

  test('processes side by side never share one', async () => {
    const subject = bench()
    const opened = await Promise.all(Array.from({ length: 3 }, () => subject.open()))
    for (const { box, process } of opened) await save(box, process, 'x')
    expect(await files(subject.inner)).toEqual(['m.1', 'm.2', 'm.3'])
    for (const { box } of opened) await box[Symbol.asyncDispose]()
  })

  test('purge leaves what another process may append to, and takes it when that process is gone', async () => {
    const subject = bench()
    const one = await subject.open()
    const two = await subject.open()
    const [mine] = await save(one.box, one.process, 'x'.repeat(5000))
    const [theirs] = await save(two.box, two.process, 'y'.repeat(5000))
    await one.process.host.refresh()
    await one.process.setUses([mine!, theirs!], 0)
    expect(await one.box.purge()).toMatchObject({ messages: 1, skipped: 1 })
    expect(await files(subject.inner)).toEqual(['m.2'])
    await two.box[Symbol.asyncDispose]()
    expect(await one.box.purge()).toMatchObject({ messages: 1, skipped: 0 })
    expect(await files(subject.inner)).toEqual([])
  })

  test('a file that no row names is left alone, and noted: it may be all there is', async () => {
    const subject = bench()
    {
      const { box, process } = await subject.open()
      await save(box, process, 'the index is lost')
      await box[Symbol.asyncDispose]()
    }
    const table = memoryTable(COLUMNS)
    const process = table.process()
    await using box = await mdbox(subject.inner, 'storage').open(process.host)
    await save(box, process, 'new')
    expect(await box.purge()).toMatchObject({ files: 0 })
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17'])
    const notes = (await Array.fromAsync(box.check())).flat()
    expect(notes).toMatchObject([{ severity: 'note', kind: 'file-unnamed', file: 'm.1' }])
  })

  test('a message whose process died while it was spooled is taken by the next purge', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    await save(box, process, 'kept')
    const batch = box.begin()
    let asked = 0
    async function* endless(): AsyncGenerator<Uint8Array> {
      for (;;) {
        if (++asked > 50) subject.fault = () => 'FS_IO'
        yield Buffer.alloc(100_000, 'x')
      }
    }
    await expect(batch.save(endless(), metadata)).rejects.toEqual(failed)
    await box[Symbol.asyncDispose]()
    subject.fault = () => undefined
    expect(await files(subject.inner)).toEqual(['m.1', 'm.17'])
    const again = await subject.open()
    expect(await again.box.purge()).toMatchObject({ files: 1, skipped: 0 })
    expect(await files(subject.inner)).toEqual(['m.1'])
  })

  test('a purge that is to stop leaves whole files for another time', async () => {
    const { box, process } = await bench().open()
    const [ref] = await save(box, process, 'x'.repeat(5000))
    await process.setUses([ref!], 0)
    expect(await box.purge({ signal: AbortSignal.abort() })).toMatchObject({ files: 0, messages: 0 })
    expect(await box.purge({ signal: new AbortController().signal })).toMatchObject({ files: 1, messages: 1 })
    await box[Symbol.asyncDispose]()
  })
  test('a file with a damaged message is not purged', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    const refs = await save(box, process, 'x'.repeat(5000), 'damaged', 'good')
    await process.setUses([refs[0]!], 0)
    await using file = await subject.inner.open('storage/m.1', 'write')
    const at = Buffer.from(await subject.inner.readFile('storage/m.1')).indexOf('damaged')
    await file.write(Buffer.from('D'), at)
    expect(await box.purge()).toMatchObject({ files: 0, skipped: 1 })
    await expect(box.open(refs[1]!)).rejects.toMatchObject({ code: 'BOX_CORRUPT', ref: refs[1] })
    expect(await text(box, refs[2]!)).toBe('good')
  })

  test('a message that gets a use again while it is purged stays', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    const refs = await save(box, process, 'x'.repeat(5000), 'y'.repeat(5000))
    await process.setUses(refs, 0)
    // Between the plan and the transaction, the row is used again.
    const host = process.host as { transact: BoxHost['transact'] }
    const original = host.transact.bind(host)
    host.transact = async (body) => {
      await process.setUses([refs[1]!], 1)
      await original(body)
    }
    expect(await box.purge()).toMatchObject({ files: 0, skipped: 1 })
    host.transact = original
    expect(await text(box, refs[1]!)).toBe('y'.repeat(5000))
    // Nor would whoever finds it without an index take it for expunged.
    const scanned = (await Array.fromAsync(box.scan())).flat()
    expect(scanned.map(({ expunged }) => expunged)).toEqual([true, false])
    // The other row is gone, and the rest is done by the next purge.
    expect(await box.purge()).toMatchObject({ files: 1 })
    expect(await text(box, refs[1]!)).toBe('y'.repeat(5000))
    expect(await damages(box)).toEqual([])
  })
})

test('a process that dies at any operation leaves what was kept, and nothing else is ever seen', async () => {
  const options = { rotateBytes: 4000, purgeShare: 0.1 }
  let died = 0
  for (let deadline = 1; ; deadline++) {
    const subject = bench()
    let operations = 0
    const mutations = new Set([
      'open',
      'append',
      'write',
      'truncate',
      'sync',
      'remove',
      'syncDirectory',
      'makeDirectory',
    ])
    const dies: Bench['fault'] = (operation) => {
      if (!mutations.has(operation) || ++operations < deadline) return undefined
      return operations === deadline && operation === 'append' ? 'short' : 'FS_IO'
    }
    subject.fault = dies
    subject.table.onTransact = () => {
      if (operations >= deadline) throw new Error('dead')
    }
    const kept = new Map<BoxRef, string>()
    const work = async ({ box, process }: Awaited<ReturnType<Bench['open']>>): Promise<void> => {
      for (let round = 0; round < 5; round++) {
        const bodies = [`round ${round} `.repeat(60), `second ${round} `.repeat(90)]
        const refs = await save(box, process, ...bodies)
        for (const [i, ref] of refs.entries()) kept.set(ref, bodies[i]!)
        await using batch = box.begin()
        const saved = await batch.save(stream(1_100_000), metadata)
        await batch.flush()
        const [large] = await process.keep(saved)
        kept.set(large!, 'large '.repeat(200_000).slice(0, 1_100_000))
        const dead = [...kept.keys()].filter((ref) => ref % 3 === 0)
        for (const ref of dead) kept.delete(ref)
        await process.setUses(dead, 0)
        if (round % 2 === 1) await box.purge()
      }
    }
    const opened = await subject.open(options)
    const outcome = await work(opened).then(
      () => 'done',
      () => 'dead',
    )
    await opened.box[Symbol.asyncDispose]()

    subject.fault = () => undefined
    subject.table.onTransact = undefined
    const { box, process } = await subject.open(options)
    await process.host.refresh()
    expect(await damages(box), `died at operation ${deadline}`).toEqual([])
    for (const [ref, body] of kept) expect((await text(box, ref)) === bodyOf(body), `message ${ref}`).toBe(true)
    const [after] = await save(box, process, 'alive')
    await box.purge()
    for (const [ref, body] of kept) expect((await text(box, ref)) === bodyOf(body), `message ${ref}`).toBe(true)
    expect(await text(box, after!)).toBe('alive')
    expect(await damages(box)).toEqual([])
    await box[Symbol.asyncDispose]()
    if (outcome === 'done') break
    died++
  }
  console.log(`died at ${died} operations`)
  expect(died).toBeGreaterThan(30)
})

/** Streams are cut into pieces that each begin anew. */
function bodyOf(body: string): string {
  if (body.length < 1_000_000) return body
  const piece = 'large '.repeat(10_000).slice(0, 50_000)
  return piece.repeat(body.length / 50_000)
}

describe('a flush while another message is being saved', () => {
  test('makes durable what was saved before, in the same file too', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    await using batch = box.begin()
    const first = await batch.save(stream(2_000_000), metadata)
    let goOn = (): void => {}
    const waiting = new Promise<void>((resolve) => (goOn = resolve))
    async function* slow(): AsyncGenerator<Uint8Array> {
      yield* stream(1_500_000)
      await waiting
      yield* stream(500_000)
    }
    const second = batch.save(slow(), metadata)
    for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(subject.trace.at(-1)).toMatch(/^append storage\/m\./)
    subject.trace.length = 0
    await batch.flush()
    const file = subject.trace.find((line) => line.startsWith('sync storage/m.'))
    expect(file).toBeDefined()
    const [ref] = await process.keep(first)
    goOn()
    const { physicalSize } = await second
    expect(physicalSize).toBe(2_000_000)
    await batch.flush()
    const [other] = await process.keep(await second)
    await batch[Symbol.asyncDispose]()
    expect((await text(box, ref!)).length).toBe(2_000_000)
    expect((await text(box, other!)).length).toBe(2_000_000)
    expect(await damages(box)).toEqual([])
  })

  test('keeps what it flushed when that message is given up', async () => {
    const subject = bench()
    const { box, process } = await subject.open()
    await using batch = box.begin()
    const first = await batch.save(stream(2_000_000), metadata)
    let give = (): void => {}
    const waiting = new Promise<void>((resolve) => (give = resolve))
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield* stream(1_500_000)
      await waiting
      throw new Error('gone')
    }
    const second = batch.save(broken(), metadata)
    const outcome = expect(second).rejects.toThrow('gone')
    for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(subject.trace.at(-1)).toMatch(/^append storage\/m\./)
    await batch.flush()
    const [ref] = await process.keep(first)
    give()
    await outcome
    await batch[Symbol.asyncDispose]()
    expect((await text(box, ref!)).length).toBe(2_000_000)
    expect(await damages(box)).toEqual([])
  })
})

test('a file that a purge emptied and could not remove is removed by a later one, whatever purges come between', async () => {
  const subject = bench()
  const one = await subject.open()
  const [left] = await save(one.box, one.process, 'x'.repeat(5000))
  await one.process.setUses([left!], 0)
  subject.fault = (operation, path) => (operation === 'remove' && path === 'storage/m.1' ? 'FS_IO' : undefined)
  await expect(one.box.purge()).rejects.toThrow('planned failure')
  subject.fault = () => undefined
  await one.box[Symbol.asyncDispose]()
  // Another process has the slot of that file, so that it cannot be touched.
  const holder = await subject.open()
  await save(holder.box, holder.process, 'kept')
  const other = await subject.open()
  const [mine] = await save(other.box, other.process, 'y'.repeat(5000))
  await other.process.setUses([mine!], 0)
  expect(await other.box.purge()).toMatchObject({ messages: 1 })
  await holder.box[Symbol.asyncDispose]()
  await other.box.purge()
  expect((await files(subject.inner)).includes('m.1')).toBe(false)
  // Nothing is remembered that is done: the number may be given again.
  expect(other.process.host.table.view.values?.get('condemned')).toBeUndefined()
  await other.box[Symbol.asyncDispose]()
})
