/** What may happen to a damaged store before it is rebuilt: its index is repaired alone, it is used, and whoever does that is killed. */
import type { Fs } from '@mailstead/fs'
import { IndexError, repairIndex } from '@mailstead/index'
import { StoreError } from '@mailstead/store'
import { below } from '../support/depth.ts'
import { boxOf, copyOf, deliver, fromCopy, openTest, OWNER, rebuild } from './support.ts'

const KILLED = 'killed'

/** Some of it, in any order. Resolves to what there is then, and what was done. */
export async function between(
  damaged: Fs,
  random: () => number,
): Promise<{ readonly fs: Fs; readonly done: string[] }> {
  let fs = damaged
  const done: string[] = []
  for (let n = 1 + below(random, 4); n > 0; n--) {
    const what = (['repair', 'use', 'use and kill', 'rebuild and kill'] as const)[below(random, 4)]!
    done.push(what)
    try {
      if (what === 'repair') for await (const _ of repairIndex(fs, 'index'));
      else if (what === 'rebuild and kill') await rebuildKilled(fs)
      else fs = await used(fs, what === 'use')
    } catch (error) {
      // Nothing that can be opened, or repaired, is left of it.
      const isExpected = error instanceof IndexError || (error instanceof StoreError && error.code === 'STORE_CORRUPT')
      if (!isExpected && !(error instanceof StoreError && error.message === KILLED)) throw error
    }
  }
  return { fs, done }
}

/** As far as the repair of the index: the messages are looked at once before, and once after it. */
async function rebuildKilled(fs: Fs): Promise<void> {
  let looks = 0
  await rebuild(fs, {
    box: (root) => {
      const format = boxOf(root)
      return {
        ...format,
        open: (host) =>
          ++looks === 1 ? format.open(host) : Promise.reject(new StoreError('STORE_UNAVAILABLE', KILLED)),
      }
    },
  })
}

async function used(fs: Fs, closed: boolean): Promise<Fs> {
  await using store = await openTest(fs, { create: false })
  if (store.as(OWNER).mailbox('INBOX') !== undefined) await deliver(store, 'INBOX', 'between')
  await store.purge().catch((error: unknown) => {
    if (!(error instanceof StoreError && error.code === 'STORE_INCOMPLETE')) throw error
  })
  await store.checkpoint()
  return closed ? fs : await fromCopy(await copyOf(fs))
}
