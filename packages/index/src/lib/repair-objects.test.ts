/** A repair where nobody can lock: others may write until it begins, and may not until they have read what it made. */
import type { Fs, FsWriteOptions } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { build, damageOf, filesOf, path, readAll, type Readable, repair } from '../../test/damaged-store.ts'
import { OBJECTS } from '../../test/image-fs.ts'
import { createBoxAndInbox } from '../../test/schema.ts'
import { intercepted } from '../../test/intercept.ts'
import { type Index, openIndex } from '../index.ts'
import { readFrameHeader } from './frame.ts'
import type { RepairRecord } from './repair-record.ts'
import { readSegmentHeader, SEGMENT_HEADER, segmentName, segmentOfName } from './segment.ts'

async function deliver(index: Index): Promise<number> {
  await using tx = index.begin()
  const row = tx.append('inbox', {})
  await tx.commit()
  return row.uid
}

/** A store with damage that takes more than a new control file: the page of a snapshot that the list names. */
async function damaged(fs: Fs, seed = 1): Promise<void> {
  await build(fs, seed)
  const file = `${path}/tables/box.snap`
  const bytes = Uint8Array.from(await fs.readFile(file))
  bytes[140]! ^= 4
  await fs.writeFile(file, bytes)
  expect(await damageOf(fs)).not.toEqual([])
}

/** Repairs a store with a segment that is cut so many bytes after the payload of its frame. */
async function cutAfterPayload(more: number): Promise<{
  readonly fs: Fs
  readonly file: string
  readonly truth: ReadonlyMap<string, Readable>
  readonly losses: readonly RepairRecord[]
}> {
  const fs = memoryFs(OBJECTS)
  {
    await using index = await openIndex(fs, path, { create: true })
    await using tx = index.begin()
    createBoxAndInbox(tx)
    await tx.commit()
    for (let n = 0; n < 6; n++) await deliver(index)
  }
  const truth = await readAll(fs)
  const file = `${path}/log/${segmentName(4)}`
  const bytes = await fs.readFile(file)
  const { headerLength, payloadLength } = readFrameHeader(bytes, SEGMENT_HEADER, readSegmentHeader(bytes)!.salt)!
  await fs.writeFile(file, bytes.subarray(0, SEGMENT_HEADER + headerLength + payloadLength + more))
  const losses = (await repair(fs)).filter(({ kind }) => kind === 'lost')
  expect(await damageOf(fs)).toEqual([])
  return { fs, file, truth, losses }
}

/** Does something else before, or after, the first write of a path. */
function interrupted(
  fs: Fs,
  is: (path: string, options: FsWriteOptions | undefined) => boolean,
  when: 'before' | 'after',
  what: () => Promise<unknown>,
): Fs {
  let waiting = true
  return intercepted(fs, {
    writeFile: async (disk, name, data, options) => {
      const now = waiting && is(name, options)
      if (now) waiting = false
      if (now && when === 'before') await what()
      const stat = await disk.writeFile(name, data, options)
      if (now && when === 'after') await what()
      return stat
    },
  })
}

const isLog = (name: string): boolean => name.endsWith('.log') && !name.includes('/repair-')
const isSnapshot = (name: string): boolean => name.endsWith('.snap') && !name.includes('/repair-')
const isList = (name: string): boolean => name === `${path}/tables/directory`

async function segmentsOf(fs: Fs): Promise<number[]> {
  return (await filesOf(fs, `${path}/log`)).map((name) => segmentOfName(name.slice(name.lastIndexOf('/') + 1)))
}

describe('a repair of a log in objects', () => {
  test('takes a frame whose trailer is cut off', async () => {
    const { fs, truth, losses } = await cutAfterPayload(3)
    expect(losses).toEqual([])
    expect(await readAll(fs)).toEqual(truth)
  })

  test('names the frame, and its rows, of which only the header is left', async () => {
    const { fs, file, losses } = await cutAfterPayload(-1)
    expect(losses.map((one) => `${one.file} ${one.table} ${one.message}`)).toContain(
      `${file} inbox frame 4 is damaged, and with it the rows 2 to 2`,
    )
    expect([...(await readAll(fs)).get('inbox')!.rows.keys()]).toEqual([1, 3, 4, 5, 6])
  })

  test('is planned again where somebody commits before it begins the log anew, and loses nothing of that', async () => {
    const fs = memoryFs(OBJECTS)
    await damaged(fs)
    const index = await openIndex(fs, path)
    const uid = await deliver(index).catch(() => 0)
    let second = 0
    const records = await repair(
      interrupted(fs, isLog, 'before', async () => {
        second = await deliver(index)
      }),
    )
    expect(second).toBeGreaterThan(uid)
    expect(records.filter(({ kind }) => kind === 'remains')).toEqual([])
    expect(await damageOf(fs)).toEqual([])
    expect([...(await readAll(fs)).get('inbox')!.rows.keys()]).toContain(second)
  })

  test('is planned again where somebody makes a checkpoint meanwhile', async () => {
    for (const [is, when] of [
      [isLog, 'before'],
      [isSnapshot, 'before'],
      [isList, 'before'],
    ] as const) {
      const fs = memoryFs(OBJECTS)
      await damaged(fs)
      const index = await openIndex(fs, path)
      const truth = await readAll(fs)
      let made = false
      const other = interrupted(fs, isList, 'before', async () => {
        // A checkpoint that had read everything, and replaces the list only now.
        await repair(interrupted(fs, is, when, async () => void (made = true)))
      })
      const late = await openIndex(other, path)
      await late.checkpoint()
      expect(made).toBe(true)
      await repair(fs)
      expect(await damageOf(fs)).toEqual([])
      for (const [id, { rows }] of truth)
        expect([...(await readAll(fs)).get(id)!.rows.keys()], id).toEqual([...rows.keys()])
      await index[Symbol.asyncDispose]()
    }
  })

  test('lets nobody write from when it begins until it has ended; who has it open reads everything anew then', async () => {
    for (const [is, when] of [
      [isLog, 'after'],
      [isSnapshot, 'after'],
      [isList, 'before'],
    ] as const) {
      const fs = memoryFs(OBJECTS)
      await damaged(fs, 2)
      const index = await openIndex(fs, path)
      const before = index.info('inbox')!
      const refused: unknown[] = []
      const during = async (): Promise<void> => {
        refused.push(await deliver(index).catch((error: unknown) => (error as { code: string }).code))
        const fresh = await openIndex(fs, path)
        // Everything that was readable is.
        expect(fresh.info('inbox')).toEqual(before)
        refused.push(await deliver(fresh).catch((error: unknown) => (error as { code: string }).code))
        await fresh.checkpoint().catch(() => {})
        await fresh[Symbol.asyncDispose]()
      }
      await repair(interrupted(fs, is, when, during))
      expect(refused).toEqual(['INDEX_CORRUPT', 'INDEX_LOCKED'])
      expect(await damageOf(fs)).toEqual([])
      expect(await deliver(index)).toBe(before.uidNext)
      expect((await segmentsOf(fs)).length).toBe(2)
      expect(await damageOf(fs)).toEqual([])
    }
  })

  test('that was stopped lets nobody write until it is made again', async () => {
    const fs = memoryFs(OBJECTS)
    await damaged(fs, 3)
    const stopped = new Error('stopped')
    await expect(
      repair(
        interrupted(fs, isSnapshot, 'before', async () => {
          throw stopped
        }),
      ),
    ).rejects.toBe(stopped)
    const index = await openIndex(fs, path)
    await expect(deliver(index)).rejects.toMatchObject({ code: 'INDEX_LOCKED' })
    await index[Symbol.asyncDispose]()
    expect((await damageOf(fs)).join()).toContain('repair-unfinished')
    await repair(fs)
    expect(await damageOf(fs)).toEqual([])
    await using again = await openIndex(fs, path)
    await deliver(again)
  })

  test('gives up with INDEX_LOCKED where others go on writing', async () => {
    const fs = memoryFs(OBJECTS)
    await damaged(fs)
    const index = await openIndex(fs, path)
    const busy = intercepted(fs, {
      writeFile: async (disk, name, data, options) => {
        if (isLog(name)) await deliver(index)
        return disk.writeFile(name, data, options)
      },
    })
    const before = (await filesOf(fs)).filter((name) => !name.includes('/log/'))
    await expect(repair(busy)).rejects.toMatchObject({ code: 'INDEX_LOCKED' })
    // Nothing but copies was written.
    expect((await filesOf(fs)).filter((name) => !name.includes('/log/') && !name.includes('/repair-'))).toEqual(before)
    await deliver(index)
  })

  test('is refused before anything is written where nothing keeps two writers apart', async () => {
    const whole = memoryFs(OBJECTS)
    await damaged(whole)
    for (const supports of [
      { ...OBJECTS, conditional: false },
      { lock: false, conditional: false },
      { overwrite: false, conditional: false },
    ]) {
      const disk = memoryFs(supports)
      for (const file of await filesOf(whole)) await disk.writeFile(file, await whole.readFile(file))
      let writes = 0
      const fs = intercepted(disk, {
        writeFile: async (below, name, data, options) => {
          writes++
          return below.writeFile(name, data, options)
        },
      })
      await expect(repair(fs)).rejects.toMatchObject({ code: 'FS_UNSUPPORTED' })
      expect(writes).toBe(0)
    }
  })
})
