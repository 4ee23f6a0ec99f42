import type { Fs, FsFile } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { faultyFs } from '@mailstead/fs/faults'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { FLAG_ANSWERED, FLAG_FLAGGED, type Index, type IndexFinding, type IndexOptions } from './contract.ts'
import { readControl } from './control.ts'
import { openIndex } from './open-index.ts'
import { segmentName } from './segment.ts'
import { readTableList } from './table-list.ts'

const columns = [
  { name: 'guid', bytes: 16 },
  { name: 'size', bytes: 4, summed: true },
]

async function create(fs: Fs, options: IndexOptions = {}, ids: readonly string[] = ['inbox', 'other']): Promise<Index> {
  const index = await openIndex(fs, 's', { create: true, ...options })
  await using tx = index.begin()
  for (const id of ids) tx.createTable({ id, uidValidity: 1, columns })
  await tx.commit()
  return index
}

async function add(index: Index, id: string, count = 1): Promise<number> {
  await using tx = index.begin()
  const rows = Array.from({ length: count }, () => tx.append(id, { columns: { size: 5 } }))
  await tx.commit()
  return rows.at(-1)!.uid
}

async function flag(index: Index, id: string, uids: UidSet, bits: number, lazy = false): Promise<void> {
  await using tx = index.begin()
  tx.changeFlags(id, uids, { add: bits })
  await tx.commit({ durability: lazy ? 'lazy' : 'flushed' })
}

async function findingsOf(index: Index): Promise<IndexFinding[]> {
  const all: IndexFinding[] = []
  for await (const page of index.check()) all.push(...page)
  return all
}

/** UIDs, flags and sizes of a table. */
async function rowsOf(index: Index, id: string): Promise<string> {
  await using table = (await index.open(id))!
  const { view } = table
  const sizes = view.extension('size')!
  let text = ''
  for (let row = 0; row < view.count; row++)
    text += `${view.uid(row)} ${view.flags(row)} ${view.modSeq(row)} ${sizes.number(row)}\n`
  return text
}

const segment = (n: number): string => `s/log/${segmentName(n)}`

async function abandon(index: Index): Promise<void> {
  await (index as Index & { abandon(): Promise<void> }).abandon()
}

async function segmentsOf(fs: Fs): Promise<string[]> {
  const names: string[] = []
  for await (const page of fs.list('s/log')) names.push(...page.map(({ name }) => name))
  return names.sort()
}

describe('checkpoints', () => {
  // One chunk is written by the attempt that comes to nothing, another one changes after it.
  const grow = async (index: Index): Promise<void> => {
    for (const id of ['inbox', 'other']) await add(index, id, 20)
  }
  const change = async (index: Index, round: number): Promise<void> => {
    for (const id of ['inbox', 'other']) await flag(index, id, UidSet.range(1 + round, 30 + round), 1 << (round % 5))
  }
  test('that fail at any of their steps leave what there is, and what the next ones write', async () => {
    let done = false
    let failures = 0
    for (let step = 1; !done; step++) {
      const inner = memoryFs()
      let left = -1
      const fs = faultyFs(inner, {
        fail: (operation, path) => {
          if (
            left < 0 ||
            !path.startsWith('s/tables') ||
            !['writeFile', 'append', 'sync', 'truncate', 'open'].includes(operation)
          )
            return undefined
          return --left === 0 ? (step % 3 === 0 ? 'FS_UNCERTAIN' : 'FS_NO_SPACE') : undefined
        },
      })
      await using index = await create(fs, { segmentBytes: 2000, checkpointBytes: 1 << 30 })
      await add(index, 'inbox', 2500)
      await add(index, 'other', 2500)
      await index.checkpoint()
      await using first = (await index.open('inbox'))!
      expect(first.view.count).toBe(2500)
      await grow(index)
      left = step
      await index.checkpoint().then(
        () => (done = true),
        () => failures++,
      )
      left = -1
      for (let round = 1; round < 4; round++) {
        await change(index, round)
        await index.checkpoint()
        const expected = await Promise.all(['inbox', 'other'].map((id) => rowsOf(index, id)))
        await using again = await openIndex(inner, 's', { readOnly: true })
        expect(await Promise.all(['inbox', 'other'].map((id) => rowsOf(again, id)))).toEqual(expected)
      }
      expect((await findingsOf(index)).filter((one) => one.severity === 'damage')).toEqual([])
    }
    expect(failures).toBeGreaterThan(6)
  })

  test('of two processes go on from what the list says, whatever either has written', async () => {
    const inner = memoryFs()
    let failing = false
    const fs = faultyFs(inner, {
      fail: (operation, path) =>
        failing && operation === 'writeFile' && path === 's/tables/directory' ? 'FS_IO' : undefined,
    })
    await using one = await create(fs, { segmentBytes: 2000, checkpointBytes: 1 << 30 })
    await using two = await openIndex(inner, 's', { segmentBytes: 2000, checkpointBytes: 1 << 30 })
    await add(one, 'inbox', 2500)
    await add(one, 'other', 2500)
    await one.checkpoint()
    for (let round = 0; round < 6; round++) {
      await grow(one)
      failing = true
      await expect(one.checkpoint()).rejects.toMatchObject({ code: 'FS_IO' })
      failing = false
      await change(two, round + 10)
      await two.checkpoint()
      await change(one, round + 20)
      await one.checkpoint()
      const expected = await rowsOf(one, 'inbox')
      await using again = await openIndex(inner, 's', { readOnly: true })
      expect(await rowsOf(again, 'inbox')).toBe(expected)
    }
    expect((await findingsOf(one)).filter((found) => found.severity === 'damage')).toEqual([])
  })

  test('of another process, found by one that is making its own, do not make a table count as damaged', async () => {
    const inner = memoryFs()
    const options: IndexOptions = { segmentBytes: 1500, checkpointBytes: 1 << 30 }
    await using one = await create(inner, options)
    await add(one, 'inbox', 3)
    await one.checkpoint()
    // Its own new list is held back until the gate opens.
    let reached = (): void => {}
    const isReached = new Promise<void>((resolve) => (reached = resolve))
    let open = (): void => {}
    const gate = new Promise<void>((resolve) => (open = resolve))
    let holding = false
    const fs = new Proxy(inner, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name)
        if (typeof value !== 'function') return value
        if (name !== 'writeFile') return value.bind(target) as unknown
        return async (...args: readonly unknown[]): Promise<unknown> => {
          if (holding && args[0] === 's/tables/directory') {
            reached()
            await gate
          }
          return Reflect.apply(value, target, args) as unknown
        }
      },
    })
    await using two = await openIndex(fs, 's', options)
    for (let n = 0; n < 30; n++) await add(one, 'inbox')
    await two.refresh()
    await one.checkpoint()
    await one.checkpoint()
    expect((await segmentsOf(inner))[0]).not.toBe(segment(1).slice(6))
    // Something to read, so that what was dropped is let go of.
    await add(one, 'other')
    holding = true
    const checkpointing = two.checkpoint()
    await isReached
    const opening = two.open('inbox').finally(open)
    await Promise.allSettled([opening, checkpointing])
    await using table = (await opening)!
    expect(table.view.count).toBe(33)
    await checkpointing
    holding = false
    expect(await add(two, 'inbox')).toBe(34)
    expect(await findingsOf(two)).toEqual([])
  })
})

describe('a damaged table', () => {
  test('keeps its snapshot and its part of the log, while the others get new ones', async () => {
    for (const snapshots of [false, true]) {
      const fs = memoryFs()
      const options = { segmentBytes: 1500, checkpointBytes: 1 << 30 }
      const index = await create(fs, options)
      await add(index, 'other')
      if (snapshots) await index.checkpoint()
      for (let n = 0; n < 3; n++) await add(index, 'other')
      // In the payload of a frame of "other" alone.
      const log = Buffer.from(await fs.readFile(segment(1)))
      const last = log.lastIndexOf(Buffer.from('4d534672', 'hex'))
      const at = last + log.readUInt32LE(last + 4)
      await add(index, 'inbox')
      await abandon(index)
      const flip = async (): Promise<void> => {
        await using file = await fs.open(segment(1), 'write')
        const byte = new Uint8Array(1)
        await file.read(byte, at)
        byte[0]! ^= 1
        await file.write(byte, at)
      }
      await flip()
      for (let round = 1; round < 4; round++) {
        await using again = await openIndex(fs, 's', options)
        for (let n = 0; n < 20; n++) await add(again, 'inbox')
        await again.checkpoint()
        for (let n = 0; n < 20; n++) await add(again, 'inbox')
        expect(again.info('inbox')!.count).toBe(40 * round + 1)
        await expect(again.open('other')).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'other' })
        await expect(add(again, 'other')).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
        await again.checkpoint()
        const list = readTableList(await fs.readFile('s/tables/directory'))
        expect(list?.generation).toBeGreaterThanOrEqual(2 * round)
      }
      expect((await segmentsOf(fs))[0]).toBe(segment(1).slice(6))
      // Given back what it lacked, it is what it was, and the log need not be kept.
      await flip()
      await using again = await openIndex(fs, 's', options)
      expect(await add(again, 'other')).toBe(5)
      await again.checkpoint()
      await again.checkpoint()
      expect((await segmentsOf(fs))[0]).not.toBe(segment(1).slice(6))
      expect(await findingsOf(again)).toEqual([])
    }
  })

  test('that is dropped leaves checkpoints that are made, though the header of a segment kept for it is lost', async () => {
    const fs = memoryFs()
    const events: string[] = []
    const options: IndexOptions = {
      segmentBytes: 1500,
      checkpointBytes: 1 << 30,
      onEvent: ({ kind, message }) => events.push(`${kind} ${message}`),
    }
    const index = await create(fs, options)
    await add(index, 'other')
    const log = Buffer.from(await fs.readFile(segment(1)))
    const last = log.lastIndexOf(Buffer.from('4d534672', 'hex'))
    const at = last + log.readUInt32LE(last + 4)
    for (let n = 0; n < 40; n++) await add(index, 'inbox')
    await abandon(index)
    log[at]! ^= 1
    {
      await using file = await fs.open(segment(1), 'write')
      await file.write(log.subarray(at, at + 1), at)
    }
    const numbers = (names: readonly string[]): number[] => names.map((name) => Number.parseInt(name.slice(-20), 10))
    {
      await using again = await openIndex(fs, 's', options)
      await again.checkpoint()
      await again.checkpoint()
    }
    const kept = await segmentsOf(fs)
    expect(numbers(kept)[0]).toBe(1)
    expect(kept.length).toBeGreaterThan(4)
    // Every one in turn, but that which is written on.
    for (const name of kept.slice(0, -1)) {
      const copy = memoryFs()
      for (const directory of ['s', 's/log', 's/tables', 's/cache'])
        for await (const page of fs.list(directory))
          for (const entry of page)
            if (entry.kind === 'file')
              await copy.writeFile(`${directory}/${entry.name}`, await fs.readFile(`${directory}/${entry.name}`))
      const damaged = await copy.readFile(`s/log/${name}`)
      damaged.fill(0xff, 0, 256)
      await copy.writeFile(`s/log/${name}`, damaged)
      await using again = await openIndex(copy, 's', options)
      await using tx = again.begin()
      tx.dropTable('other')
      await tx.commit()
      for (let n = 0; n < 3; n++) {
        await add(again, 'inbox')
        await again.checkpoint()
      }
      expect(numbers(await segmentsOf(copy))[0]).toBeGreaterThan(numbers(kept)[0]!)
      expect(again.info('inbox')!.count).toBe(43)
    }
    // Looking for where it begins comes by one of them at least, which is then named.
    expect(events).toContainEqual(expect.stringMatching(/^segment-damaged s\/log\/\d{16}\.log has no valid header/))
  })
})

describe('copies of rows', () => {
  test('have what was acknowledged since their view was taken, in this process or another', async () => {
    const fs = memoryFs()
    await using index = await create(fs)
    await using other = await openIndex(fs, 's')
    await add(index, 'inbox', 3)
    await other.refresh()
    for (const [n, mover] of [index, other].entries()) {
      await using source = (await mover.open('inbox'))!
      const { view } = source
      const uid = n + 1
      {
        await using tx = index.begin()
        tx.changeFlags('inbox', UidSet.of(uid), { add: FLAG_FLAGGED, addKeywords: ['$Important'] })
        tx.setColumn('inbox', 'size', uid, 77)
        await tx.commit()
      }
      await using tx = mover.begin()
      tx.appendFrom('other', view, Uint32Array.of(view.rowOf(uid)))
      tx.expunge('inbox', UidSet.of(uid), { mustExist: true })
      await tx.commit()
      await using copies = (await mover.open('other'))!
      const row = copies.view.count - 1
      expect(copies.view.flags(row)).toBe(FLAG_FLAGGED)
      expect(copies.view.keywordSets[copies.view.keywordSet(row)]!.map((k) => copies.view.keywords[k])).toEqual([
        '$Important',
      ])
      expect(copies.view.extension('size')!.number(row)).toBe(77)
    }
    expect(await findingsOf(index)).toEqual([])
  })

  test('have what the same transaction did before, and of rows that are gone what the view has', async () => {
    await using index = await create(memoryFs())
    await add(index, 'inbox', 3)
    await using source = (await index.open('inbox'))!
    const { view } = source
    {
      await using tx = index.begin()
      tx.expunge('inbox', UidSet.of(2))
      await tx.commit()
    }
    await using tx = index.begin()
    tx.changeFlags('inbox', UidSet.of(3), { add: FLAG_ANSWERED })
    tx.appendFrom('inbox', view, Uint32Array.of(0, 1, 2))
    await tx.commit()
    expect([0, 1, 2, 3, 4].map((row) => [source.view.uid(row), source.view.flags(row)])).toEqual([
      [1, 0],
      [3, FLAG_ANSWERED],
      [4, 0],
      [5, 0],
      [6, FLAG_ANSWERED],
    ])
    expect(await findingsOf(index)).toEqual([])
  })
})

describe('a process that fell behind', () => {
  test('goes on in the log that is there, whatever was dropped since it last looked', async () => {
    for (const ended of [0, 1, 7, 20]) {
      const fs = memoryFs()
      const options = { segmentBytes: 2000, checkpointBytes: 1 << 30 }
      await using index = await create(fs, options)
      await using behind = await openIndex(fs, 's', options)
      await using inbox = (await behind.open('inbox'))!
      for (let n = 0; n < ended; n++) await add(behind, 'inbox')
      for (let round = 0; round < 4; round++) {
        for (let n = 0; n < 20; n++) await add(index, 'inbox')
        await index.checkpoint()
      }
      const before = (await segmentsOf(fs))[0]
      expect(await add(behind, 'inbox')).toBe(ended + 81)
      expect(await add(index, 'inbox')).toBe(ended + 82)
      expect((await segmentsOf(fs))[0]).toBe(before)
      await behind.refresh()
      expect(inbox.view.count).toBe(ended + 82)
      expect(await findingsOf(index)).toEqual([])
    }
  })

  test('closes the log where it ends, not where it last looked', async () => {
    const fs = memoryFs()
    const events: string[] = []
    const options = {
      segmentBytes: 2000,
      checkpointBytes: 1 << 30,
      onEvent: ({ kind }: { kind: string }) => events.push(kind),
    }
    const index = await create(fs, options)
    const behind = await openIndex(fs, 's', options)
    await add(behind, 'inbox')
    for (let round = 0; round < 4; round++) {
      for (let n = 0; n < 20; n++) await add(index, 'inbox')
      await index.checkpoint()
    }
    await behind[Symbol.asyncDispose]()
    await abandon(index)
    expect(events).toEqual([])
    await using again = await openIndex(fs, 's', { readOnly: true })
    expect(again.info('inbox')!.count).toBe(81)
    expect(await findingsOf(again)).toEqual([])
  })

  test('makes no segment where one was removed under it', async () => {
    const fs = memoryFs()
    const index = await create(fs, { segmentBytes: 600 })
    await using other = await openIndex(fs, 's', { segmentBytes: 600 })
    await add(other, 'inbox')
    await fs.remove(segment(1))
    await expect(add(index, 'inbox')).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
    for (let n = 0; n < 8; n++) await expect(add(other, 'inbox')).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
    expect(await segmentsOf(fs)).toEqual([])
    await abandon(index)
  })

  test('shows a table and what is known of it as of one frame, if its snapshot is ahead of it', async () => {
    for (const how of ['open', 'commit']) {
      const fs = memoryFs()
      await using index = await create(fs)
      await add(index, 'inbox', 3000)
      await index.checkpoint()
      await using behind = await openIndex(fs, 's')
      let before = 0
      for (let n = 0; ; n++) {
        await add(index, 'inbox')
        for (const uid of [1, 2500]) await flag(index, 'inbox', UidSet.of(uid), 1 << (n % 5))
        await index.checkpoint()
        const { size } = (await fs.stat('s/tables/inbox.snap'))!
        // Until it was written anew.
        if (size < before) break
        before = size
      }
      const count = index.info('inbox')!.count
      if (how === 'open') {
        await using inbox = (await behind.open('inbox'))!
        expect([inbox.view.count, behind.info('inbox')!.count]).toEqual([count, count])
      }
      expect(await add(behind, 'inbox')).toBe(count + 1)
      await behind.refresh()
      expect(await add(behind, 'inbox')).toBe(count + 2)
      expect(await add(index, 'inbox')).toBe(count + 3)
      expect(await findingsOf(index)).toEqual([])
    }
  })
})

describe('a flush that failed', () => {
  /** Fails what is asked for, and remembers what is done. */
  const watched = (inner: Fs, fails: (operation: string, path: string) => boolean): { fs: Fs; done: string[] } => {
    const done: string[] = []
    const fs = faultyFs(inner, {
      fail: (operation, path) => {
        if (['sync', 'append', 'write', 'truncate', 'writeFile', 'syncDirectory'].includes(operation))
          done.push(`${operation} ${path.slice(2)}`)
        return fails(operation, path) ? (operation === 'writeFile' ? 'FS_UNCERTAIN' : 'FS_IO') : undefined
      },
    })
    return { fs, done }
  }

  test('of the control file is made up for before anything is appended', async () => {
    const inner = memoryFs()
    {
      await using index = await create(inner)
      await add(index, 'inbox')
    }
    const sealed = await inner.readFile('s/control')
    let failing = 2
    const { fs, done } = watched(
      inner,
      (operation, path) => operation === 'sync' && path === 's/control' && --failing >= 0,
    )
    const index = await openIndex(fs, 's')
    await expect(add(index, 'inbox')).rejects.toMatchObject({ code: 'INDEX_WRITE_FAILED', cause: { code: 'FS_IO' } })
    // What another process reads there says "open", and so would this one.
    await expect(add(index, 'inbox')).rejects.toMatchObject({ code: 'INDEX_WRITE_FAILED', cause: { code: 'FS_IO' } })
    expect(done.filter((one) => one.startsWith('append'))).toEqual([])
    done.length = 0
    await add(index, 'inbox')
    expect(done.slice(0, 4)).toEqual(['write control', 'sync control', 'write control', 'sync control'])
    // The first one is flushed, with a ceiling for those that follow.
    await flag(index, 'inbox', UidSet.of(1), FLAG_FLAGGED, true)
    await flag(index, 'inbox', UidSet.of(1), FLAG_ANSWERED, true)
    const shown = index.info('inbox')!
    await abandon(index)
    // Where nothing helped, the log itself says that it goes on.
    await inner.writeFile('s/control', sealed)
    const log = await inner.readFile(segment(1))
    await inner.writeFile(segment(1), log.slice(0, log.length - 10))
    await using again = await openIndex(inner, 's')
    expect(again.info('inbox')!.highestModSeq).toBeGreaterThanOrEqual(shown.highestModSeq)
    expect(again.info('inbox')!.count).toBe(2)
    expect((await findingsOf(again)).filter((one) => one.severity === 'damage')).toEqual([])
  })

  test('of a directory, or none, leaves no segment in use whose name is not durable', async () => {
    const inner = memoryFs()
    let failing = false
    const { fs, done } = watched(
      inner,
      (operation, path) => failing && operation === 'writeFile' && path === segment(2),
    )
    await using index = await create(fs, { segmentBytes: 600 })
    failing = true
    while ((await segmentsOf(inner)).length < 2) await add(index, 'inbox').catch(() => {})
    failing = false
    done.length = 0
    await add(index, 'inbox')
    expect(done.indexOf('syncDirectory log')).toBeGreaterThanOrEqual(0)
    expect(done.indexOf('syncDirectory log')).toBeLessThan(done.indexOf(`append ${segment(2).slice(2)}`))
    // Another process cannot know whether the first one came so far.
    const second = watched(inner, () => false)
    await using other = await openIndex(second.fs, 's')
    await add(other, 'inbox')
    await add(other, 'inbox')
    expect(second.done.filter((one) => one === 'syncDirectory log').length).toBe(1)
  })

  test('of what another process wrote is made up for before it is shown or built on', async () => {
    for (const how of ['refresh', 'commit', 'checkpoint'] as const) {
      const inner = memoryFs()
      await using one = await create(inner)
      let failing = false
      const { fs, done } = watched(inner, (operation, path) => {
        if (!failing || operation !== 'sync' || path !== segment(1)) return false
        failing = false
        return true
      })
      await using two = await openIndex(fs, 's')
      const before = (await inner.stat(segment(1)))!.size
      // Stands for: appended, and killed before its flush.
      await add(one, 'inbox')
      const { size } = (await inner.stat(segment(1)))!
      failing = true
      await expect(two.refresh()).rejects.toMatchObject({ code: 'FS_IO' })
      expect(two.info('inbox')!.count).toBe(0)
      done.length = 0
      if (how === 'commit') await add(two, 'inbox')
      else await two[how]()
      const log = done.filter((line) => line.includes('log/'))
      expect(log.slice(0, 2)).toEqual([`write ${segment(1).slice(2)}`, `sync ${segment(1).slice(2)}`])
      expect(log.some((line) => line.startsWith('truncate'))).toBe(false)
      expect(two.info('inbox')!.count).toBe(how === 'commit' ? 2 : 1)
      expect(size).toBeGreaterThan(before)
      expect(await findingsOf(two)).toEqual([])
    }
  })

  test('cuts off its own group, and nothing that another process may have acknowledged', async () => {
    const inner = memoryFs()
    await using one = await create(inner)
    let failing = false
    const { fs, done } = watched(inner, (operation, path) => {
      if (!failing || operation !== 'sync' || path !== segment(1)) return false
      failing = false
      return true
    })
    await using two = await openIndex(fs, 's')
    await add(one, 'inbox')
    const { size } = (await inner.stat(segment(1)))!
    failing = true
    await expect(add(two, 'inbox')).rejects.toMatchObject({ code: 'INDEX_WRITE_FAILED' })
    expect((await inner.stat(segment(1)))!.size).toBe(size)
    expect(done.filter((line) => line.startsWith('truncate')).length).toBe(1)
    expect(await add(two, 'inbox')).toBe(2)
    await one.refresh()
    expect(one.info('inbox')!.count).toBe(2)
    expect(await findingsOf(one)).toEqual([])
  })

  test('with lazy changes that were shown and are lost lets nothing be appended, and says so', async () => {
    const inner = memoryFs()
    let failing = false
    const { fs, done } = watched(
      inner,
      (operation, path) => failing && (operation === 'sync' || operation === 'truncate') && path === segment(1),
    )
    const index = await create(fs)
    await add(index, 'inbox')
    // The first one is flushed, with a ceiling for those that follow.
    await flag(index, 'inbox', UidSet.of(1), FLAG_FLAGGED, true)
    const flushed = await inner.readFile(segment(1))
    await flag(index, 'inbox', UidSet.of(1), FLAG_ANSWERED, true)
    failing = true
    await expect(add(index, 'inbox')).rejects.toMatchObject({ code: 'INDEX_UNCERTAIN' })
    // What the kernel could not write it may forget.
    await inner.writeFile(segment(1), flushed)
    failing = false
    done.length = 0
    for (let n = 0; n < 2; n++) await expect(add(index, 'inbox')).rejects.toMatchObject({ code: 'INDEX_WRITE_FAILED' })
    expect(done.filter((one) => one.startsWith('append'))).toEqual([])
    expect(await inner.readFile(segment(1))).toEqual(flushed)
    await abandon(index)
    await using again = await openIndex(inner, 's')
    expect(await add(again, 'inbox')).toBe(2)
    expect((await findingsOf(again)).filter((one) => one.severity === 'damage')).toEqual([])
  })
})

describe('a log that was closed', () => {
  test('with a bit flipped in its last frame costs at most the table that frame touched', async () => {
    const fs = memoryFs()
    {
      await using index = await create(fs)
      await add(index, 'inbox')
      await add(index, 'other')
    }
    const log = await fs.readFile(segment(1))
    const start = Buffer.from(log).lastIndexOf(Buffer.from('4d534672', 'hex'))
    for (let at = start; at < log.length; at++) {
      const flipped = log.slice()
      flipped[at]! ^= 1 << (at % 8)
      await fs.writeFile(segment(1), flipped)
      await using index = await openIndex(fs, 's', { readOnly: true })
      await using inbox = (await index.open('inbox'))!
      expect(inbox.view.count).toBe(1)
      await index.open('other').then(
        (other) => expect(other!.view.count).toBe(1),
        (error: unknown) => expect(error).toMatchObject({ code: 'INDEX_CORRUPT' }),
      )
      expect((await findingsOf(index)).some((one) => one.severity === 'damage')).toBe(true)
    }
    await fs.writeFile(segment(1), log)
    await using index = await openIndex(fs, 's')
    expect(await findingsOf(index)).toEqual([])
  })

  test('is not written to while it lacks its end', async () => {
    const fs = memoryFs()
    {
      await using index = await create(fs)
      await add(index, 'inbox')
    }
    const log = await fs.readFile(segment(1))
    await fs.writeFile(segment(1), log.slice(0, log.length - 100))
    const control = await fs.readFile('s/control')
    {
      await using index = await openIndex(fs, 's')
      await using tx = index.begin()
      tx.createTable({ id: 'new', uidValidity: 1, columns })
      await expect(tx.commit()).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
    }
    expect((await fs.readFile(segment(1))).length).toBe(log.length - 100)
    expect(await fs.readFile('s/control')).toEqual(control)
    // Given back what it lacked, it is what it was.
    await fs.writeFile(segment(1), log)
    await using index = await openIndex(fs, 's')
    expect(await add(index, 'inbox')).toBe(2)
  })
})

describe('opening', () => {
  test('waits for a writer at work, and shows everything that was acknowledged', async () => {
    const fs = memoryFs()
    {
      await using index = await openIndex(fs, 's', { create: true })
      await using _stays = await openIndex(fs, 's')
      const tx = index.begin()
      tx.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
      await tx.commit()
      // Another process, in the middle of a long flush.
      await using lock = await fs.lock('s/lock')
      expect(lock.tryAcquire()).toBe(true)
      const opening = openIndex(fs, 's')
      const early = await Promise.race([opening, new Promise<void>((resolve) => setTimeout(resolve, 150))])
      expect(early).toBe(undefined)
      lock.release()
      await using again = await opening
      expect(again.tables.map(({ id }) => id)).toEqual(['inbox'])
    }
  })

  test('does what is to be done after a crash, if whoever was about to do it died', async () => {
    const fs = memoryFs()
    const index = await create(fs)
    await add(index, 'inbox')
    await flag(index, 'inbox', UidSet.of(1), FLAG_FLAGGED, true)
    await flag(index, 'inbox', UidSet.of(1), FLAG_ANSWERED, true)
    const { highestModSeq } = index.info('inbox')!
    await abandon(index)
    const dying = await fs.lock('s/open')
    expect(dying.tryAcquire('exclusive')).toBe(true)
    const opening = Promise.all([openIndex(fs, 's'), openIndex(fs, 's')])
    await new Promise((resolve) => setTimeout(resolve, 20))
    await dying[Symbol.asyncDispose]()
    for (const opened of await opening) {
      await opened.refresh()
      expect(opened.info('inbox')!.highestModSeq).toBeGreaterThan(highestModSeq + 10)
      await opened[Symbol.asyncDispose]()
    }
  })

  test('for reading only does not go past the first frames of a transaction whose last one is not there yet', async () => {
    const fs = memoryFs()
    await using index = await create(fs)
    const before = (await fs.stat(segment(1)))!.size
    await using tx = index.begin()
    // More than a frame can hold.
    for (let n = 0; n < 300; n++) tx.setValue('inbox', `key ${n}`, new Uint8Array(65_536).fill(n))
    await tx.commit()
    const log = await fs.readFile(segment(1))
    const size = (1 << 24) + 4096
    expect(log.length).toBeGreaterThan(size)
    await using file = await fs.open(segment(1), 'write')
    await file.truncate(size)
    await using reader = await openIndex(fs, 's', { readOnly: true })
    await using inbox = (await reader.open('inbox'))!
    expect(inbox.view.values.size).toBe(0)
    await reader.refresh()
    await file.append([log.subarray(size)])
    await reader.refresh()
    expect(inbox.view.values.size).toBe(300)
    expect(before).toBeLessThan(size)
  })

  test('keeps no file of the log open that another process has dropped', async () => {
    const inner = memoryFs()
    const options = { segmentBytes: 1000, checkpointBytes: 1 << 30 }
    const opened = new Map<FsFile, string>()
    const fs = new Proxy(inner, {
      get: (target, name) => {
        if (name !== 'open') return Reflect.get(target, name, target) as unknown
        return async (...args: Parameters<Fs['open']>): Promise<FsFile> => {
          const file = await target.open(...args)
          opened.set(file, args[0])
          const close = file[Symbol.asyncDispose].bind(file)
          file[Symbol.asyncDispose] = async () => {
            opened.delete(file)
            await close()
          }
          return file
        }
      },
    })
    await using index = await create(inner, options)
    await using behind = await openIndex(fs, 's', options)
    for (let round = 0; round < 4; round++) {
      for (let n = 0; n < 20; n++) {
        await add(index, 'inbox')
        if (round % 2 === 0) await behind.refresh()
      }
      await index.checkpoint()
      await behind.refresh()
      await behind.refresh()
      const there = new Set((await segmentsOf(inner)).map((name) => `s/log/${name}`))
      const open = [...opened.values()].filter((path) => path.startsWith('s/log/'))
      expect(open.filter((path) => !there.has(path))).toEqual([])
    }
  })
})

describe('a checkpoint of a closed log', () => {
  test('leaves the control file naming the list of tables, and a list that was exchanged is found', async () => {
    const fs = memoryFs()
    {
      await using index = await create(fs)
      await add(index, 'inbox')
      await index.checkpoint()
      await add(index, 'inbox')
    }
    const list = await fs.readFile('s/tables/directory')
    const control = await fs.readFile('s/control')
    {
      await using index = await openIndex(fs, 's')
      await index.checkpoint()
      expect(await findingsOf(index)).toEqual([])
    }
    const reader = await openIndex(fs, 's', { readOnly: true })
    expect(await findingsOf(reader)).toEqual([])
    const newer = await fs.readFile('s/tables/directory')
    const old = await fs.readFile('s/tables/directory.old')
    expect(newer).not.toEqual(list)
    // As a crash leaves it before the control file was told.
    const told = await fs.readFile('s/control')
    await fs.writeFile('s/control', control)
    expect((await findingsOf(reader)).map(({ severity, kind }) => `${severity} ${kind}`)).toEqual([
      'note directory-renewed',
    ])
    await fs.writeFile('s/control', told)
    await fs.writeFile('s/tables/directory', old)
    expect((await findingsOf(reader)).map(({ kind }) => kind)).toContain('directory-replaced')
    await abandon(reader)
  })
})

describe('the last to close', () => {
  const CONTROL = 's/control'
  const stateOf = async (fs: Fs): Promise<string | undefined> => readControl(await fs.readFile(CONTROL))?.state

  test('seals the log, whoever wrote; those who close before it do not', async () => {
    const fs = memoryFs()
    const writer = await openIndex(fs, 's', { create: true })
    const reader = await openIndex(fs, 's')
    const tx = writer.begin()
    tx.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
    await tx.commit()
    await writer[Symbol.asyncDispose]()
    expect(await stateOf(fs)).toBe('open')
    await reader[Symbol.asyncDispose]()
    expect(await stateOf(fs)).toBe('sealed')
    await using again = await openIndex(fs, 's')
    expect(again.tables.map(({ id }) => id)).toEqual(['inbox'])
  })

  test('of several that close at once, one seals', async () => {
    for (let round = 0; round < 50; round++) {
      const fs = memoryFs()
      const all = [await openIndex(fs, 's', { create: true }), await openIndex(fs, 's'), await openIndex(fs, 's')]
      for (const [i, index] of all.entries()) {
        const tx = index.begin()
        tx.createTable({ id: `t${i}`, uidValidity: 1, columns: [] })
        await tx.commit()
      }
      await Promise.all(all.map((index) => index[Symbol.asyncDispose]()))
      expect(await stateOf(fs)).toBe('sealed')
    }
  })
})

describe('a lazy change', () => {
  const withRow = async (fs: Fs): Promise<Index> => {
    const index = await openIndex(fs, 's', { create: true })
    const tx = index.begin()
    tx.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
    tx.append('inbox', {})
    await tx.commit()
    // The first lazy change records how far the next ones may go, and is flushed.
    await flag(index, 1)
    return index
  }
  const flag = async (index: Index, add: number): Promise<void> => {
    const tx = index.begin()
    tx.changeFlags('inbox', UidSet.of(1), { add })
    await tx.commit({ durability: 'lazy' })
  }

  test('is done before commit returns, where nothing stands in its way', async () => {
    await using index = await withRow(memoryFs())
    await using table = (await index.open('inbox'))!
    const committed = flag(index, 4)
    expect(table.view.flags(0)).toBe(5)
    await committed
  })

  test('sees what another has committed, and waits for who has the lock', async () => {
    const fs = memoryFs()
    await using index = await withRow(fs)
    await using other = await openIndex(fs, 's')
    await using mine = (await index.open('inbox'))!
    await using theirs = (await other.open('inbox'))!
    for (let i = 0; i < 20; i++) {
      await flag(i % 2 === 0 ? index : other, 1 << (i % 5))
      await Promise.all([flag(index, 32), flag(other, 64)])
    }
    await index.refresh()
    await other.refresh()
    expect(mine.view.flags(0)).toBe(127)
    expect(theirs.view.flags(0)).toBe(127)
    expect(mine.view.highestModSeq).toBe(theirs.view.highestModSeq)
  })

  test('whose append fails changes nothing, and the next one is done', async () => {
    const inner = memoryFs()
    let broken = false
    const fs = faultyFs(inner, {
      fail: (operation) => (broken && operation === 'append' ? 'short' : undefined),
    })
    await using index = await withRow(fs)
    await using table = (await index.open('inbox'))!
    const { highestModSeq } = table.view
    broken = true
    await expect(flag(index, 4)).rejects.toThrow(expect.objectContaining({ code: 'INDEX_WRITE_FAILED' }))
    expect(table.view.flags(0)).toBe(1)
    expect(table.view.highestModSeq).toBe(highestModSeq)
    broken = false
    await flag(index, 4)
    expect(table.view.flags(0)).toBe(5)
    await using other = await openIndex(inner, 's')
    await using again = (await other.open('inbox'))!
    expect(again.view.flags(0)).toBe(5)
  })

  test('whose append fails is taken back under the lock: nobody is let in before', async () => {
    const inner = memoryFs()
    let broken = false
    const reached = Promise.withResolvers<void>()
    const go = Promise.withResolvers<void>()
    const faulty = faultyFs(inner, {
      fail: (operation) => (broken && operation === 'append' ? 'short' : undefined),
    })
    const fs: Fs = {
      ...faulty,
      async open(path, mode, options) {
        const file = await faulty.open(path, mode, options)
        const stat = file.stat.bind(file)
        file.stat = async () => {
          if (broken) {
            broken = false
            reached.resolve()
            await go.promise
          }
          return stat()
        }
        return file
      },
    }
    await using index = await withRow(fs)
    await using table = (await index.open('inbox'))!
    broken = true
    const failed = flag(index, 4).then(
      () => 'done',
      (error: unknown) => (error as { code: string }).code,
    )
    await reached.promise
    // All of these take the lock, and let go of it.
    const tx = index.begin()
    tx.append('inbox', {})
    const others = Promise.all([tx.commit(), flag(index, 8), index.refresh()])
    const lock = await inner.lock('s/lock')
    for (let turn = 0; turn < 20; turn++) {
      expect(lock.tryAcquire()).toBe(false)
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
    await lock[Symbol.asyncDispose]()
    go.resolve()
    expect(await failed).toBe('INDEX_WRITE_FAILED')
    await others
    expect([table.view.flags(0), table.view.count]).toEqual([9, 2])
    await using other = await openIndex(inner, 's')
    await using again = (await other.open('inbox'))!
    expect([again.view.flags(0), again.view.count]).toEqual([9, 2])
  })

  test('that is long is done like any other', async () => {
    await using index = await openIndex(memoryFs(), 's', { create: true })
    const created = index.begin()
    created.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
    for (let i = 0; i < 20_000; i++) created.append('inbox', {})
    await created.commit()
    await flag(index, 1)
    await using table = (await index.open('inbox'))!
    const even = UidSet.fromSorted(Uint32Array.from({ length: 10_000 }, (_, i) => 2 * (i + 1)))
    const tx = index.begin()
    // Longer than what is appended without a turn of the event loop.
    for (let n = 0; n < 60; n++) tx.changeFlags('inbox', even, n % 2 === 0 ? { add: 2 } : { remove: 2 })
    tx.changeFlags('inbox', even, { add: 4 })
    const { frame } = await tx.commit({ durability: 'lazy' })
    expect(frame).toBe(3)
    expect([0, 1].map((row) => table.view.flags(row))).toEqual([1, 4])
  })
})
