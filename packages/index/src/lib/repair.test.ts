import { type Fs, FsError } from '@mailstead/fs'
import {
  type CrashableFsOptions,
  type CrashImage,
  type CrashState,
  crashableFs,
  failNth,
  faultyFs,
  imageOf,
} from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { afterAll, describe, expect, test } from 'vitest'
import { FLAG_DELETED, FLAG_FLAGGED, FLAG_SEEN, type Index, type IndexTransaction, type Table } from './contract.ts'
import { IndexError } from './error.ts'
import { openIndex } from './open-index.ts'
import { repairIndex, type RepairOptions } from './repair.ts'
import type { RepairRecord } from './repair-record.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const rounds = depth === 'soak' ? 100_000 : depth === 'ci' ? 20 : 4
const killedRounds = depth === undefined ? 1 : Math.ceil(rounds / 5)
const secondEvery = depth === undefined ? 40 : 15
const damagesEach = depth === undefined ? 3 : 12
const counted = new Map<string, number>()
const count = (what: string): void => void counted.set(what, (counted.get(what) ?? 0) + 1)
afterAll(() => {
  console.log([...counted].map(([what, n]) => `${what} ${n}`).join(', '))
})

const path = 'store'

function randomOf(seed: number): (below: number) => number {
  let state = seed * 7919 + 1
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) % below
  }
}

async function commit(index: Index, build: (tx: IndexTransaction) => void, lazy = false): Promise<void> {
  await using tx = index.begin()
  build(tx)
  await tx.commit(lazy ? { durability: 'lazy' } : {})
}

/** A store with some history: checkpoints, segments, dropped tables, keywords, values, caches. */
async function build(fs: Fs, seed: number, end: 'sealed' | 'open' = 'sealed'): Promise<void> {
  const random = randomOf(seed)
  let index = await openIndex(fs, path, { create: true, segmentBytes: 3000 })
  await commit(index, (tx) => {
    createBoxAndInbox(tx)
    for (const id of ['sent', 'gone', 'tree']) tx.createTable({ id, uidValidity: 9, columns: [] })
  })
  for (let step = 0; step < 40; step++) {
    const n = 1 + random(60)
    switch (random(9)) {
      case 0:
        await commit(index, (tx) => tx.changeFlags('inbox', UidSet.range(n, n + 5), { add: 1 << random(5) }))
        break
      case 1:
        await commit(index, (tx) =>
          tx.changeFlags('inbox', UidSet.of(n), { add: FLAG_SEEN, addKeywords: [`k${random(5)}`] }),
        )
        break
      case 2:
        await commit(index, (tx) => tx.expunge('inbox', UidSet.of(n)))
        break
      case 3:
        await commit(index, (tx) => tx.setValue('tree', `box${random(9)}`, Buffer.from(`${n}`)))
        break
      case 4:
        await index.checkpoint()
        break
      case 5:
        await commit(index, (tx) => tx.changeFlags('inbox', UidSet.of(n), { add: FLAG_FLAGGED }), true)
        break
      default:
        await commit(index, (tx) => {
          const ref = tx.append('box', { columns: { size: n } })
          tx.append('inbox', {
            flags: random(2) === 0 ? FLAG_SEEN : 0,
            keywords: random(4) === 0 ? [`k${random(5)}`] : [],
            columns: { ref, guid: Buffer.alloc(16, step + 1) },
          })
          if (random(2) === 0) tx.append('sent', { flags: FLAG_DELETED })
        })
    }
    if (step === 20 && index.info('gone') !== undefined) await commit(index, (tx) => tx.dropTable('gone'))
    if (random(8) === 0) {
      {
        await using inbox = (await index.open('inbox'))!
        const { view } = inbox
        if (view.count > 0)
          inbox.cacheWrite([
            {
              uid: view.uid(0),
              guid: Uint8Array.from(view.extension('guid')!.value(0)),
              fields: [['a', Buffer.from('b')]],
            },
          ])
      }
      await index[Symbol.asyncDispose]()
      index = await openIndex(fs, path, { segmentBytes: 3000 })
    }
  }
  if (end === 'sealed') await index[Symbol.asyncDispose]()
  else await (index as Index & { abandon(): Promise<void> }).abandon()
}

interface Readable {
  readonly uidNext: number
  readonly highestModSeq: number
  /** By UID: what can be read of the row, by column. */
  readonly rows: ReadonlyMap<number, ReadonlyMap<string, string>>
  readonly values: string
}

/** Everything that can be read of an index, whatever is damaged. */
async function readAll(fs: Fs): Promise<Map<string, Readable>> {
  const found = new Map<string, Readable>()
  let index: Index
  try {
    index = await openIndex(fs, path, { readOnly: true })
  } catch (error) {
    if (!(error instanceof IndexError)) throw error
    return found
  }
  await using opened = index
  for (const { id } of opened.tables) {
    let table: Table | undefined
    try {
      table = await opened.open(id)
    } catch (error) {
      if (!(error instanceof IndexError)) throw error
      continue
    }
    if (table === undefined) continue
    const { view } = table
    const rows = new Map<number, Map<string, string>>()
    for (let row = 0; row < view.count; row++) {
      const keywords = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!)
      const base = [['base', `${view.flags(row)} ${view.modSeq(row)} ${keywords.sort().join(' ')}`]] as const
      rows.set(view.uid(row), new Map(base))
    }
    for (const name of ['guid', 'size'])
      try {
        await view.load([name])
        const column = view.extension(name)
        for (let row = 0; column !== undefined && row < view.count; row++)
          rows.get(view.uid(row))!.set(name, Buffer.from(column.value(row)).toString('hex'))
      } catch (error) {
        if (!(error instanceof IndexError)) throw error
      }
    const values = [...view.values].map(([key, value]) => `${key}=${Buffer.from(value).toString()}`).sort()
    found.set(id, { uidNext: view.uidNext, highestModSeq: view.highestModSeq, rows, values: values.join(' ') })
  }
  return found
}

async function filesOf(fs: Fs, directory = path): Promise<string[]> {
  const files: string[] = []
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      if (kind === 'directory') files.push(...(await filesOf(fs, `${directory}/${name}`)))
      else if (!['lock', 'open', 'checkpoint'].includes(name)) files.push(`${directory}/${name}`)
    }
  return files.sort()
}

async function copyTo(from: Fs, files: readonly string[]): Promise<Fs> {
  const fs = memoryFs()
  for (const file of files) {
    await fs.makeDirectory(file.slice(0, file.lastIndexOf('/')))
    await fs.writeFile(file, await from.readFile(file))
  }
  return fs
}

async function repair(fs: Fs, options: RepairOptions = {}): Promise<RepairRecord[]> {
  const records: RepairRecord[] = []
  for await (const page of repairIndex(fs, path, options)) records.push(...page)
  return records
}

async function damageOf(fs: Fs): Promise<string[]> {
  await using index = await openIndex(fs, path, { readOnly: true })
  const found: string[] = []
  for await (const page of index.check())
    for (const one of page) if (one.severity === 'damage') found.push(`${one.kind} ${one.file} ${one.message}`)
  return found
}

type Damage = 'bit' | 'block' | 'cut' | 'gone' | 'many bits'
const damages: readonly Damage[] = ['bit', 'block', 'cut', 'gone', 'many bits']

async function harm(fs: Fs, file: string, damage: Damage, random: (below: number) => number): Promise<void> {
  const bytes = Uint8Array.from(await fs.readFile(file))
  const at = random(Math.max(1, bytes.length))
  if (damage === 'gone') {
    await fs.remove(file)
    return
  }
  if (damage === 'bit') bytes[at]! ^= 1 << random(8)
  else if (damage === 'many bits') for (let i = 0; i < 6; i++) bytes[random(bytes.length)]! ^= 1 << random(8)
  else if (damage === 'block') bytes.fill(0, at, Math.min(bytes.length, at + 512))
  await fs.writeFile(file, damage === 'cut' ? bytes.subarray(0, at) : bytes)
}

/** What was readable is readable, and is what it was then, or newer, as it was in truth; nothing that was told is taken back. */
function expectKept(
  before: ReadonlyMap<string, Readable>,
  after: ReadonlyMap<string, Readable>,
  truth: ReadonlyMap<string, Readable>,
  lost: readonly (string | undefined)[],
  where: string,
): void {
  for (const [id, table] of before) {
    const now = after.get(id)
    expect(now, `${where}: ${id}`).toBeDefined()
    for (const [uid, row] of table.rows) {
      const found = now!.rows.get(uid)
      const real = truth.get(id)?.rows.get(uid)
      // Expunged where the reader before did not get to.
      if (found === undefined && real === undefined) continue
      for (const [name, value] of row)
        if (found?.get(name) !== real?.get(name)) expect(found?.get(name), `${where}: ${id} ${uid} ${name}`).toBe(value)
    }
    if (now!.values !== truth.get(id)?.values) expect(now!.values, `${where}: ${id}`).toBe(table.values)
  }
  for (const [id, table] of after) {
    const was = truth.get(id)
    // The frame that dropped it may be lost, which is said.
    if (was === undefined) {
      expect(lost, `${where}: ${id} is back`).toContain(id)
      continue
    }
    expect(table.uidNext, `${where}: ${id}`).toBeGreaterThanOrEqual(was.uidNext)
    expect(table.highestModSeq, `${where}: ${id}`).toBeGreaterThanOrEqual(was.highestModSeq)
  }
}

describe('repair', () => {
  test('damage of any file is repaired: nothing readable is lost, the check is clean, and the second repair has nothing to do', async () => {
    for (let seed = 1; seed <= rounds; seed++) {
      const whole = memoryFs()
      await build(whole, seed)
      const files = await filesOf(whole)
      const truth = await readAll(whole)
      const random = randomOf(seed + 1000)
      for (const file of files)
        for (let n = 0; n < damagesEach; n++) {
          const damage = damages[random(damages.length)]!
          const fs = await copyTo(whole, files)
          await harm(fs, file, damage, random)
          const second = n % 4 === 3 ? files[random(files.length)]! : file
          if (second !== file) await harm(fs, second, 'bit', random)
          // Without the seal nothing tells that the end of the log is gone.
          const unsealed = second !== file && [file, second].some((one) => one.endsWith('/control'))
          const where = `seed ${seed}, try ${n}: ${damage} of ${file}${second === file ? '' : `, bit of ${second}`}`
          const before = await readAll(fs)
          const planned = await repair(fs, { dryRun: true })
          const records = await repair(fs)
          // What others name stays a ruin: nobody is to make another table in its place.
          const ruined = records.some((one) => one.kind === 'lost' && one.field === 'table' && one.table === 'box')
          if (ruined) count('a ruin')
          else {
            expect(
              records.filter((one) => one.kind === 'remains'),
              where,
            ).toEqual([])
            expect(await damageOf(fs), where).toEqual([])
          }
          const after = await readAll(fs)
          const losses = records.filter((one) => one.kind === 'lost').map((one) => one.table)
          expectKept(before, after, unsealed ? after : truth, losses, where)
          const again = await repair(fs)
          expect(
            again.filter((one) => one.kind === 'changed' && one.field !== 'cache'),
            where,
          ).toEqual([])
          if (!ruined)
            expect(
              again.filter((one) => one.kind !== 'note'),
              where,
            ).toEqual([])
          expect(planned, where).toEqual(records.filter((one) => one.kind !== 'remains'))
          count(
            records.some((one) => one.kind === 'lost')
              ? 'with a loss'
              : records.some((one) => one.kind === 'changed')
                ? 'repaired'
                : 'nothing to do',
          )
          let same = true
          for (const [id, { rows }] of truth) {
            const now = after.get(id)
            same &&=
              now !== undefined &&
              [...rows].every(([uid, row]) => [...row].every(([name, value]) => now.rows.get(uid)?.get(name) === value))
          }
          count(same ? 'everything restored' : 'something missing')
          // Whatever is missing was named, and nothing is there that never was.
          const loss = records.some((one) => one.kind === 'lost')
          if (!same && !unsealed) expect(loss, where).toBe(true)
          for (const [id, { rows }] of after)
            for (const [uid, row] of rows) {
              const was = truth.get(id)?.rows.get(uid)
              if (was === undefined && !unsealed) expect(loss, `${where}: ${id} ${uid} is back`).toBe(true)
              for (const name of ['guid', 'size']) {
                const value = row.get(name)
                if (was !== undefined && value !== was.get(name))
                  expect(value, `${where}: ${id} ${uid} ${name}`).toMatch(/^0+$/)
              }
            }
          // It goes on.
          await using index = await openIndex(fs, path)
          if (ruined || unsealed || index.info('inbox') === undefined) continue
          await using tx = index.begin()
          const row = tx.append('inbox', {})
          await tx.commit()
          expect(row.uid, where).toBeGreaterThanOrEqual(truth.get('inbox')!.uidNext)
        }
    }
  })

  test('an index that is open is INDEX_LOCKED, one that is whole has nothing to repair, none is INDEX_NOT_FOUND', async () => {
    const fs = memoryFs()
    await expect(repair(fs)).rejects.toMatchObject({ code: 'INDEX_NOT_FOUND' })
    {
      await using index = await openIndex(fs, path, { create: true })
      await commit(index, createBoxAndInbox)
      await expect(repair(fs)).rejects.toMatchObject({ code: 'INDEX_LOCKED' })
    }
    const before = await Promise.all((await filesOf(fs)).map(async (file) => [file, await fs.readFile(file)]))
    expect(await repair(fs)).toEqual([])
    const after = await Promise.all((await filesOf(fs)).map(async (file) => [file, await fs.readFile(file)]))
    expect(after).toEqual(before)
  })
})

describe('a store that was not closed', () => {
  test('is repaired too, though nobody can tell the loss of its last frames from a torn group', async () => {
    for (let seed = 1; seed <= Math.ceil(rounds / 2); seed++) {
      const whole = memoryFs()
      await build(whole, seed, 'open')
      const files = await filesOf(whole)
      const truth = await readAll(whole)
      const random = randomOf(seed + 3000)
      for (const file of files) {
        const damage = damages[random(damages.length)]!
        const fs = await copyTo(whole, files)
        await harm(fs, file, damage, random)
        const where = `seed ${seed}, ${damage} of ${file}`
        const before = await readAll(fs)
        const records = await repair(fs)
        count('of a store that was not closed')
        if (records.some((one) => one.kind === 'lost' && one.field === 'table')) continue
        expect(await damageOf(fs), where).toEqual([])
        const after = await readAll(fs)
        for (const [id, table] of before)
          for (const [uid, row] of table.rows) {
            const found = after.get(id)?.rows.get(uid)
            const real = truth.get(id)?.rows.get(uid)
            if (found === undefined && real === undefined) continue
            for (const name of ['guid', 'size'])
              if (row.has(name)) expect(found?.get(name), `${where}: ${id} ${uid} ${name}`).toBe(row.get(name))
          }
        expect(
          (await repair(fs)).filter((one) => one.kind !== 'note'),
          where,
        ).toEqual([])
      }
    }
  })
})

describe('whatever is done to any number of files', () => {
  test('a repair ends or says INDEX_CORRUPT; what it leaves has nothing more to repair', async () => {
    let ends = 0
    let refusals = 0
    for (let seed = 1; seed <= rounds; seed++) {
      const whole = memoryFs()
      await build(whole, seed, seed % 2 === 0 ? 'sealed' : 'open')
      const files = await filesOf(whole)
      const truth = await readAll(whole)
      const random = randomOf(seed + 4000)
      for (let n = 0; n < 2 * damagesEach; n++) {
        const fs = await copyTo(whole, files)
        const harmed: string[] = []
        for (let k = 2 + random(2 * files.length); k > 0; k--) {
          const file = files[random(files.length)]!
          const damage = damages[random(damages.length)]!
          harmed.push(`${damage} of ${file}`)
          if ((await fs.stat(file)) !== undefined && (await fs.stat(file))!.size > 0)
            await harm(fs, file, damage, random)
        }
        const where = `seed ${seed}, ${harmed.join(', ')}`
        try {
          await repair(fs)
        } catch (error) {
          if (!(error instanceof IndexError)) throw new Error(where, { cause: error })
          refusals++
          continue
        }
        ends++
        for (const [id, { rows }] of await readAll(fs))
          for (const [uid, row] of rows) {
            const was = truth.get(id)?.rows.get(uid)
            const guid = row.get('guid')
            if (was !== undefined && guid !== was.get('guid')) expect(guid, `${where}: ${id} ${uid}`).toMatch(/^0+$/)
          }
        const again = await repair(fs)
        expect(
          again.filter((one) => one.kind === 'changed'),
          where,
        ).toEqual([])
      }
    }
    console.log(`much damage: ${ends} repaired, ${refusals} refused`)
  })
})

describe('a repair on storage that fails', () => {
  test.each(['EIO', 'ENOSPC'] as const)(
    'says so (%s), at whatever call, and ends the same when it is made again',
    async (fault) => {
      const whole = memoryFs()
      await build(whole, 3)
      const files = await filesOf(whole)
      const harmed = await copyTo(whole, files)
      await harm(harmed, files.find((file) => file.endsWith('.log'))!, 'block', randomOf(6000))
      const now = await filesOf(harmed)
      const ended = await copyTo(harmed, now)
      await repair(ended)
      const end = await readAll(ended)
      // Each call that writes, and of those that read as many as there is time for.
      const rule = fault === 'EIO' ? { fault } : { fault, writing: true }
      const step = fault === 'EIO' && depth === undefined ? 7 : 1
      let told = 0
      let faults = 0
      for (let nth = 1; ; nth += step) {
        const plan = failNth({ ...rule, nth })
        const fs = await copyTo(harmed, now)
        try {
          for await (const page of repairIndex(faultyFs(fs, plan), path)) expect(page.length).toBeGreaterThan(0)
        } catch (error) {
          if (!(error instanceof FsError) && !(error instanceof IndexError)) throw error
          told++
        }
        if (plan.fired.length === 0) break
        faults++
        await repair(fs)
        expect(await readAll(fs), `${fault} ${nth}`).toEqual(end)
      }
      expect(told).toBeGreaterThan(0)
      console.log(`${fault}: ${faults} calls failed, ${told} repairs said so`)
    },
  )
})

describe('a repair that is killed', () => {
  test('ends the same when it is made again, at whatever step it was, and if that one is killed too', async () => {
    let states = 0
    let second = 0
    for (let seed = 1; seed <= killedRounds; seed++) {
      const whole = memoryFs()
      await build(whole, seed)
      const files = await filesOf(whole)
      const random = randomOf(seed + 2000)
      for (const kind of ['.log', '.snap', 'directory', 'control', '.cache']) {
        const chosen = files.filter((file) => file.endsWith(kind))
        if (chosen.length === 0) continue
        const harmed = await copyTo(whole, files)
        await harm(harmed, chosen[random(chosen.length)]!, kind === '.log' ? 'block' : 'many bits', random)
        const image = await imageOf(harmed)
        const expected = await copyTo(harmed, await filesOf(harmed))
        await repair(expected)
        const end = await readAll(expected)
        const during = await statesWhile(image, seed, 2)
        for (const [n, state] of during.entries()) {
          const where = `seed ${seed}, ${kind}, ${state.description}`
          states++
          if (n % secondEvery === 0) {
            for (const next of await statesWhile(state.image(), seed, 1)) {
              second++
              await expectEnd(next.image(), end, `${where}, then ${next.description}`)
            }
          }
          await expectEnd(state.image(), end, where)
        }
      }
    }
    console.log(`repairs killed ${states} times, and ${second} times again`)
  })

  test.each(['.snap', 'directory'])('on a disk that does not flush %s loses something, and is caught', async (name) => {
    let caught = 0
    for (let seed = 1; seed <= 6 && caught === 0; seed++) {
      const whole = memoryFs()
      await build(whole, seed)
      const files = await filesOf(whole)
      const harmed = await copyTo(whole, files)
      const random = randomOf(seed + 5000)
      await harm(harmed, files.findLast((file) => file.endsWith('.log'))!, 'block', random)
      const image = await imageOf(harmed)
      await repair(harmed)
      const end = await readAll(harmed)
      const lies: CrashableFsOptions['lies'] = (_, path) => path.endsWith(name) && !path.includes('/repair-')
      // The last states first: what was not flushed is then needed.
      for (const state of (await statesWhile(image, seed, 3, lies)).toReversed()) {
        await expectEnd(state.image(), end, 'a lie').catch(() => caught++)
        if (caught > 0) break
      }
    }
    expect(caught).toBeGreaterThan(0)
  })
})

async function statesWhile(
  image: CrashImage,
  seed: number,
  maxStates: number,
  lies: CrashableFsOptions['lies'] = () => false,
): Promise<CrashState[]> {
  const during: CrashState[] = []
  let watching = true
  const fs = crashableFs({
    image,
    lies,
    onChange: (now) => {
      if (watching) during.push(...now.states({ seed, maxStates }))
    },
  })
  await repair(fs)
  watching = false
  return during
}

async function expectEnd(image: CrashImage, end: ReadonlyMap<string, Readable>, where: string): Promise<void> {
  const fs = crashableFs({ image })
  const records = await repair(fs)
  if (!records.some((one) => one.kind === 'remains')) expect(await damageOf(fs), where).toEqual([])
  expect(await readAll(fs), where).toEqual(end)
}
