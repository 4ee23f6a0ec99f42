/**
 * A rebuild beside imports: one that is not finished stays what it is, and can be finished or given up, whatever came meanwhile;
 * where the index is lossy it may have been finished, and is a mailbox that nobody gives up.
 */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { openIndex } from '@mailstead/index'
import { beforeEach, describe, expect, test } from 'vitest'
import { NAMES, specOf, take, textOf, UIDS } from './imports.ts'
import { live } from './history.ts'
import { destroy, judge, left } from './judge.ts'
import { depth, runSeed, say, seeded } from '../support/depth.ts'
import {
  copyOf,
  fromCopy,
  deliver,
  type Format,
  openRebuilt,
  openTest,
  OWNER,
  picture,
  rebuild,
  removeAll,
  useFormat,
} from './support.ts'

/** Half of each mailbox has come. */
async function interrupted(fs: Fs): Promise<void> {
  await using store = await openTest(fs)
  await store.as(OWNER).create('Sent')
  await deliver(store, 'Sent', 'sent')
  for (const name of NAMES) {
    const stop = new AbortController()
    await expect(take(store, [name], { signal: stop.signal, onProgress: () => stop.abort() })).rejects.toMatchObject({
      name: 'AbortError',
    })
  }
  await store.checkpoint()
}

async function texts(fs: Fs): Promise<Record<string, readonly string[]>> {
  return Object.fromEntries([...(await picture(fs))].map(([name, { rows }]) => [name, rows.map(({ text }) => text)]))
}

const HISTORIES = { normal: 2, ci: 5, soak: 1_000_000 }[depth()]
const DAMAGES_EACH = { normal: 5, ci: 12, soak: 50 }[depth()]

const isFurther = ({ kind }: { readonly kind: string }): boolean => kind === 'changed' || kind === 'lost'
const isChange = ({ kind }: { readonly kind: string }): boolean => kind !== 'note'
const whole = Object.fromEntries(NAMES.map((name) => [name, UIDS.map((uid) => textOf(name, uid))]))

describe.each<Format>(['mdbox', 'sdbox'])('in a store in %s', (format) => {
  beforeEach(() => useFormat(format))

  test('an import that is not finished stays one, and is finished', async () => {
    const fs = memoryFs()
    await interrupted(fs)
    expect((await rebuild(fs)).filter(isChange)).toEqual([])
    expect(await texts(fs)).toEqual({ INBOX: [], Sent: ['sent'] })
    {
      await using store = await openRebuilt(fs)
      expect(await take(store, NAMES)).toMatchObject(NAMES.map(() => ({ outcome: 'imported', added: 2, present: 2 })))
    }
    expect(await texts(fs)).toEqual({ ...whole, Sent: ['sent'] })
    expect((await rebuild(fs)).filter(isChange)).toEqual([])
  })

  test('or given up, and takes nothing else away', async () => {
    const fs = memoryFs()
    await interrupted(fs)
    await rebuild(fs)
    {
      await using store = await openRebuilt(fs)
      await deliver(store, 'INBOX', 'here')
      const importing = store.as(OWNER).importer()
      expect(
        importing
          .unfinished()
          .map(({ name }) => name)
          .sort(),
      ).toEqual([...NAMES])
      for (const { guid } of importing.unfinished()) await importing.discard(guid)
      await store.purge()
      expect((await Array.fromAsync(store.check())).flat()).toEqual([])
    }
    expect(await texts(fs)).toEqual({ INBOX: ['here'], Sent: ['sent'] })
    expect((await rebuild(fs)).filter(isChange)).toEqual([])
  })

  test('begun anew with other messages it leaves nothing of the first, though the index is lost', async () => {
    for (const how of ['changed', 'given up', 'removed'] as const) {
      const fs = memoryFs()
      await interrupted(fs)
      {
        await using store = await openTest(fs)
        const importing = store.as(OWNER).importer()
        if (how === 'given up') for (const { guid } of importing.unfinished()) await importing.discard(guid)
        if (how === 'removed') {
          await take(store, ['Old'])
          await store.as(OWNER).remove('Old')
        }
        expect(await take(store, ['Old'], {}, 'other')).toMatchObject([{ outcome: 'imported', added: 4, present: 0 }])
        expect(
          (await Array.fromAsync(store.check())).flat().filter(({ kind }) => kind !== 'import-unfinished'),
        ).toEqual([])
      }
      const other = UIDS.map((uid) => textOf('Old', uid, 'other'))
      expect((await texts(fs))['Old'], how).toEqual(other)
      if (format === 'sdbox') {
        // Without an index there is nothing but names.
        await removeAll(fs, 'index')
        await rebuild(fs)
        expect(
          (await picture(fs)).get('Old')!.rows.map(({ uid }) => uid),
          how,
        ).toEqual(UIDS)
        expect((await texts(fs))['Old'], how).toEqual(other)
      }
    }
  })

  test('whatever a store loses beside imports, nothing that clients saw is lost or changed, and a second rebuild does nothing', async () => {
    const first = runSeed()
    let rebuilds = 0
    let unfinished = 0
    for (let n = 0; n < HISTORIES; n++) {
      const origin = memoryFs()
      const history = await live(origin, first + n, 30, { imports: true })
      const files = await copyOf(origin)
      for (let d = 0; d < DAMAGES_EACH; d++) {
        const fs = await fromCopy(files)
        const damage = await destroy(fs, history, seeded((first + n) * 1000 + d))
        const where = `MAILSTEAD_SEED=${first + n}, ${format}, damage ${d}: ${damage.name}`
        const bytes = await left(fs)
        if (damage.index && bytes.size === 0) continue
        await rebuild(fs)
        const after = await picture(fs)
        // With log and journal gone nothing says any more what was expunged since the last checkpoint.
        const mayBeBack = damage.log && damage.journal
        const wrong = judge(history, damage, bytes, after).filter((one) => !(mayBeBack && one.endsWith('and is back')))
        expect(wrong, where).toEqual([])
        const again = await rebuild(fs)
        expect(again.filter(isFurther), where).toEqual([])
        {
          await using store = await openRebuilt(fs)
          const importing = store.as(OWNER).importer()
          for (const { guid } of importing.unfinished()) {
            unfinished++
            await importing.discard(guid)
          }
          await store.purge()
        }
        expect(await picture(fs), where).toEqual(after)
        rebuilds++
      }
    }
    say(
      `imports and rebuilds of ${format}, seed ${first}: ${rebuilds} rebuilds, ${unfinished} imports given up afterwards`,
    )
    expect(rebuilds).toBeGreaterThan(0)
  })

  test('one whose end the index may have lost is a mailbox, which nobody gives up', async () => {
    const fs = memoryFs()
    await interrupted(fs)
    {
      // Finished, and mail came: all that is in the log.
      await using store = await openTest(fs)
      await take(store, NAMES)
      await deliver(store, 'INBOX', 'here')
    }
    await removeAll(fs, 'index/log')
    await rebuild(fs)
    {
      // A rebuild of old left both.
      await using index = await openIndex(fs, 'index')
      await using tree = await index.open('tree')
      const guid = specOf('Old').guid.toString('hex')
      await using tx = index.begin()
      tx.setValue('tree', `i/${guid}`, tree!.view.values.get(`m/${guid}`))
      await tx.commit()
    }
    {
      await using store = await openRebuilt(fs)
      const importing = store.as(OWNER).importer()
      expect(importing.unfinished()).toEqual([])
      for (const name of NAMES) await importing.discard(specOf(name).guid.toString('hex'))
      // All is here already, whatever its UIDs are by now.
      const faults: unknown[] = []
      const outcomes = await take(store, NAMES, { onFault: (fault) => void faults.push(fault) })
      expect(outcomes).toMatchObject(NAMES.map(() => ({ outcome: 'unchanged', added: 0, left: 0 })))
      expect(faults).toEqual([])
    }
    const all = Object.values(await texts(fs)).flat()
    for (const text of [...whole['INBOX']!, ...whole['Old']!, 'here', 'sent']) expect(all).toContain(text)
    expect((await rebuild(fs)).filter(isChange)).toEqual([])
  })
})
