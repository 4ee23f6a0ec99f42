import { afterAll, describe, expect, test } from 'vitest'
import { IndexError } from './error.ts'
import { openIndex } from './open-index.ts'
import {
  emptyFs,
  media,
  someOf,
  path,
  randomOf,
  commit,
  build,
  readAll,
  filesOf,
  copyTo,
  repair,
  damageOf,
  damages,
  harm,
  type Readable,
} from '../../test/damaged-store.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const rounds = depth === 'soak' ? 100_000 : depth === 'ci' ? 20 : 3
const damagesEach = depth === undefined ? 3 : 12
const counted = new Map<string, number>()
const count = (what: string): void => void counted.set(what, (counted.get(what) ?? 0) + 1)
afterAll(() => {
  console.log([...counted].map(([what, n]) => `${what} ${n}`).join(', '))
})

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
    // It says besides what was lost.
    const values = now!.values.replace(/ ?repair-lost=[^ ]/, '')
    if (values !== truth.get(id)?.values) expect(values, `${where}: ${id}`).toBe(table.values)
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

describe.each(media)('repair of a log in %s', (medium) => {
  test('damage of any file is repaired: nothing readable is lost, the check is clean, and the second repair has nothing to do', async () => {
    for (let seed = 1; seed <= rounds; seed++) {
      const whole = emptyFs(medium)
      await build(whole, seed)
      const files = await filesOf(whole)
      const truth = await readAll(whole)
      const random = randomOf(seed + 1000)
      for (const file of medium === 'objects' ? someOf(files, random) : files)
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

  test('an index that is whole has nothing to repair, and none is INDEX_NOT_FOUND', async () => {
    const fs = emptyFs(medium)
    await expect(repair(fs)).rejects.toMatchObject({ code: 'INDEX_NOT_FOUND' })
    {
      await using index = await openIndex(fs, path, { create: true })
      await commit(index, createBoxAndInbox)
      if (medium === 'file') await expect(repair(fs)).rejects.toMatchObject({ code: 'INDEX_LOCKED' })
    }
    const before = await Promise.all((await filesOf(fs)).map(async (file) => [file, await fs.readFile(file)]))
    expect(await repair(fs)).toEqual([])
    const after = await Promise.all((await filesOf(fs)).map(async (file) => [file, await fs.readFile(file)]))
    expect(after).toEqual(before)
  })
})

describe.each(media)('a store in %s that was not closed', (medium) => {
  test('is repaired too, though nobody can tell the loss of its last frames from a torn group', async () => {
    for (let seed = 1; seed <= Math.ceil(rounds / 2); seed++) {
      const whole = emptyFs(medium)
      await build(whole, seed, 'open')
      const files = await filesOf(whole)
      const truth = await readAll(whole)
      const random = randomOf(seed + 3000)
      for (const file of medium === 'objects' ? someOf(files, random) : files) {
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

describe.each(media)('whatever is done to any number of files of a log in %s', (medium) => {
  test('a repair ends or says INDEX_CORRUPT; what it leaves has nothing more to repair', async () => {
    let ends = 0
    let refusals = 0
    for (let seed = 1; seed <= rounds; seed++) {
      const whole = emptyFs(medium)
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
    console.log(`much damage, ${medium}: ${ends} repaired, ${refusals} refused`)
  })
})
