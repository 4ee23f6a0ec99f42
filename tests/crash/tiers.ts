/**
 * A store of two tiers at work, compressed, in files that are soon full: what goes to the second tier, comes back, is purged in either
 * within a budget. And what such a store must show once the power is back: nothing is left half moved, moved or purged twice.
 */
import type { BoxFormat } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import type { AltmovePredicate } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { differences, guidsOf, openOn, type Picture, pictureOf, type StateBox } from './store-states.ts'
import { all, type Work, type Workload } from './store-work.ts'

const STORAGE = 'storage'
/** The second tier, beside it: the power goes for both. */
export const ALTERNATE = 'alternate'
/** A message or two. */
const ROTATE_BYTES = 1_500
/** Anything that is dead is worth a purge. */
const PURGE_SHARE = 1e-9

export type TierFormat = 'mdbox' | 'sdbox'

const boxOn = (name: TierFormat, fs: Fs, purgeShare?: number): BoxFormat => {
  const both = { compression: 3, alt: { fs, path: ALTERNATE } } as const
  if (name === 'sdbox') return sdbox(fs, STORAGE, both)
  return mdbox(fs, STORAGE, { ...both, rotateBytes: ROTATE_BYTES, ...(purgeShare === undefined ? {} : { purgeShare }) })
}

const everyMessage: AltmovePredicate = () => true
const larger: AltmovePredicate = ({ size }) => size > 1_500

/** How often what is only now and then done was done; for a run in which nothing failed, none of it may be 0. */
export interface TierCounts {
  there: number
  back: number
  purged: number
  /** Calls that a budget ended early. */
  unfinished: number
}

/** Everything that becomes of messages in two tiers. */
export function tiered(counts: TierCounts): Workload {
  const move = async (
    work: Work,
    to: 'alt' | 'primary',
    where: AltmovePredicate,
    copyMaxBytes?: number,
  ): Promise<void> => {
    const report = await work.store.altmove({ to, where, ...(copyMaxBytes === undefined ? {} : { copyMaxBytes }) })
    counts[to === 'alt' ? 'there' : 'back'] += report.messages
    if (report.left > 0) counts.unfinished++
  }
  const purge = async (work: Work, copyMaxBytes?: number): Promise<void> => {
    const report = await work.store.purge(copyMaxBytes === undefined ? {} : { copyMaxBytes })
    counts.purged += report.messages
    if (report.left !== undefined) counts.unfinished++
  }
  return async (work) => {
    const expunge = async (mailbox: string, uids: string): Promise<unknown> =>
      work.in(mailbox, (box) => box.expunge(UidSet.parse(uids), { force: true }))
    await work.step('create the store', () => work.open({ create: true }))
    await work.step('create', () => work.session.create('Archive'))
    await work.step('deliver', () => work.deliver([1, 300, 'INBOX']))
    await work.step('deliver a batch that fills files', () =>
      work.deliver(
        [2, 900, 'INBOX', 'Archive'],
        [3, 2500, 'INBOX'],
        [4, 2500, 'INBOX'],
        [5, 200, 'Archive'],
        [6, 3000, 'INBOX'],
      ),
    )
    await work.step('altmove there', () => move(work, 'alt', larger))
    await work.step('copy what is there', () => work.in('INBOX', (box) => box.copy(UidSet.parse('3:4'), 'Archive')))
    await work.step('expunge in both tiers', () => expunge('INBOX', '1,3,5'))
    await work.step('purge a little', () => purge(work, 1))
    await work.step('purge the rest', () => purge(work))
    await work.step('deliver more', () =>
      work.deliver([7, 400, 'INBOX'], [8, 1800, 'Archive'], [9, 600, 'INBOX', 'Archive']),
    )
    await work.step('altmove a little', () => move(work, 'alt', everyMessage, 1))
    await work.step('altmove the rest', () => move(work, 'alt', everyMessage))
    await work.step(
      'altmove back at once with others',
      () => all([move(work, 'primary', larger), work.deliver([10, 2000, 'INBOX']), expunge('Archive', '1:2')]),
      [['INBOX'], ['Archive']],
    )
    await work.step('purge in both tiers', () => purge(work))
    await work.step('close', () => work.close())
    await work.step('open', () => work.open())
    await work.step('altmove back a little', () => move(work, 'primary', everyMessage, 1))
    await work.step('altmove back', () => move(work, 'primary', everyMessage))
    await work.step('remove', () => work.session.remove('Archive'))
    await work.step('purge at once with others', () => all([purge(work), work.deliver([11, 500, 'INBOX'])]), [
      ['INBOX'],
    ])
    await work.step('checkpoint', () => work.store.checkpoint())
    await work.step('altmove after a checkpoint', () => move(work, 'alt', larger))
    await work.step('close again', () => work.close())
  }
}

/** Whatever was under way is done again: all of it, and once. */
async function afterwards(
  name: TierFormat,
  disk: Fs,
  shown: Picture,
  ever: ReadonlySet<string>,
): Promise<readonly string[]> {
  const wrong: string[] = []
  const box = (fs: Fs): BoxFormat => boxOn(name, fs, PURGE_SHARE)
  {
    await using store = await openOn(disk, { box })
    const looks = async (what: string): Promise<void> => {
      const reason = differences(await pictureOf(store), [shown])
      if (reason !== undefined) wrong.push(`${what}: ${reason}`)
      for (const { severity, kind, file, message } of (await Array.fromAsync(store.check())).flat())
        if (severity === 'damage' && kind !== 'cache-record') wrong.push(`${what}: ${kind} ${file}: ${message}`)
    }
    await store.purge()
    const again = await store.purge()
    if (again.files + again.messages + again.skipped > 0)
      wrong.push(
        `a second purge has ${again.messages} messages of ${again.files} files to do, and skips ${again.skipped}`,
      )
    await looks('after a purge')
    for (const to of ['alt', 'primary'] as const) {
      await store.altmove({ to, where: everyMessage })
      const { messages } = await store.altmove({ to, where: everyMessage })
      if (messages > 0) wrong.push(`${messages} messages go to the ${to} tier twice`)
      await looks(`after an altmove to ${to}`)
    }
  }
  return [...wrong, ...(await leftOver(name, disk, shown, ever))]
}

/**
 * Every message that a mailbox has is in the files of the first tier, and what mailboxes had, and have no more, is gone or known to be
 * expunged. A copy that was never finished may be left, as may what nobody was told of.
 */
async function leftOver(
  name: TierFormat,
  disk: Fs,
  shown: Picture,
  ever: ReadonlySet<string>,
): Promise<readonly string[]> {
  const mails = guidsOf(shown)
  const wrong: string[] = []
  const found = new Set<string>()
  // As a box of which no row is known.
  const format = boxOn(name, disk)
  await using box = await format.open(memoryTable(format.columns).process().host)
  for await (const page of box.scan())
    for (const { guid, expunged, file } of page) {
      const id = Buffer.from(guid ?? []).toString('hex')
      if (!file.startsWith('alt/')) found.add(id)
      if (expunged !== true && ever.has(id) && !mails.has(id))
        wrong.push(`message ${id} was expunged, and is in ${file}`)
    }
  for (const id of mails) if (!found.has(id)) wrong.push(`message ${id} is in no file of the first tier`)
  return wrong
}

export function tieredBox(name: TierFormat): StateBox {
  return {
    box: (fs) => boxOn(name, fs),
    afterwards: (disk, shown, ever) => afterwards(name, disk, shown, ever),
  }
}

export function newCounts(): TierCounts {
  return { there: 0, back: 0, purged: 0, unfinished: 0 }
}
