import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import { LogReader } from './log-reader.ts'
import { openIndex } from './open-index.ts'
import { scanFrames } from './scan.ts'
import { readSegmentHeader, SEGMENT_HEADER, segmentName } from './segment.ts'

test('frames that follow each other are read together, and of those far apart little more than they are', async () => {
  const fs = memoryFs()
  await using index = await openIndex(fs, 's', { create: true })
  for (let n = 0; n < 1500; n++) {
    await using tx = index.begin()
    if (n === 0) tx.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
    tx.append('inbox', {})
    await tx.commit()
  }
  const path = `s/log/${segmentName(1)}`
  const bytes = await fs.readFile(path)
  const header = readSegmentHeader(bytes)!
  const { frames } = scanFrames(bytes.subarray(SEGMENT_HEADER), {
    base: SEGMENT_HEADER,
    salt: header.salt,
    next: 1,
    unflushed: Number.POSITIVE_INFINITY,
  })
  expect(frames.length).toBe(1500)
  expect(bytes.length).toBeGreaterThan(200 * 1024)
  await using file = await fs.open(path, 'read')
  /** Bytes asked for, and calls, for every `step`-th frame. */
  const cost = async (step: number): Promise<{ asked: number; calls: number }> => {
    let asked = 0
    let calls = 0
    const readSync = (into: Uint8Array, offset: number): number => {
      asked += into.length
      calls++
      return file.readSync!(into, offset)
    }
    const counted = new Proxy(file, {
      get: (target, name) => (name === 'readSync' ? readSync : (Reflect.get(target, name) as unknown)),
    })
    const reader = new LogReader(async () => ({ file: counted, header, writable: false }))
    for (let at = 0; at < frames.length; at += step) {
      const found = await reader.transactionAt(1, frames[at]!.offset)
      expect(found!.header.number).toBe(at + 1)
    }
    return { asked, calls }
  }
  const all = await cost(1)
  expect(all.calls).toBeLessThan(15)
  expect(all.asked).toBeLessThan(5 * bytes.length)
  const few = await cost(150)
  expect(few.asked).toBeLessThanOrEqual(10 * 8 * 1024)
})

test('in a segment that was cut within its header no frame is found', async () => {
  const fs = memoryFs()
  const path = `s/log/${segmentName(1)}`
  {
    await using index = await openIndex(fs, 's', { create: true })
    await using tx = index.begin()
    tx.createTable({ id: 'inbox', uidValidity: 1, columns: [] })
    await tx.commit()
  }
  const bytes = await fs.readFile(path)
  const header = readSegmentHeader(bytes)!
  // One copy of the header may be left, which tells as much.
  for (const length of [0, 128, SEGMENT_HEADER - 1, SEGMENT_HEADER]) {
    await fs.writeFile(path, bytes.subarray(0, length))
    await using file = await fs.open(path, 'read')
    const reader = new LogReader(async () => ({ file, header, writable: false }))
    expect(await reader.transactionAt(1, SEGMENT_HEADER)).toBeUndefined()
  }
})
