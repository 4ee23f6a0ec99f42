import type { AltmoveOptions, Box, BoxFormat } from '@mailstead/box'
import { FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { anna, mail, open, save } from '../../test/support.ts'
import { type AltmoveMessage, parseAltmoveQuery } from './altmove-query.ts'
import { plainBox } from './plain-box.ts'

const DAY = 86_400_000
const NOW = 1_700_000_000_000

const message: AltmoveMessage = {
  mailbox: 'Archive/2020',
  uid: 1,
  flags: FLAG_SEEN,
  keywords: ['$Forwarded'],
  receivedMs: NOW - 100 * DAY,
  savedMs: NOW,
  size: 100_000,
}

function holds(query: string | readonly string[], of: Partial<AltmoveMessage> = {}): boolean {
  const parsed = parseAltmoveQuery(query)
  if (typeof parsed === 'string') throw new Error(parsed)
  return parsed.at(NOW)({ ...message, ...of })
}

describe('a query', () => {
  test.each([
    ['all', true],
    ['older 90d', true],
    ['older 101d', false],
    ['OLDER 99d seen', true],
    ['younger 15w', true],
    ['younger 2399h', false],
    ['older 1y', false],
    ['larger 97k', true],
    ['larger 98k', false],
    ['larger 99999', true],
    ['smaller 1m', true],
    ['smaller 1g larger 1', true],
    ['unseen', false],
    ['not unseen', true],
    ['not not seen', true],
    ['flagged', false],
    ['unflagged unanswered undeleted undraft', true],
    ['keyword $forwarded', true],
    ['keyword other', false],
    ['mailbox Archive', false],
    ['mailbox Archive/2020', true],
    ['mailbox Archive/*', true],
    ['mailbox "Archive/2020"', true],
    ['mailbox Arch/*', false],
  ] as const)('%s: %s', (query, expected) => {
    expect(holds(query)).toBe(expected)
  })
  test('names INBOX in any case, and names with spaces in quotes', () => {
    expect(holds('mailbox inbox', { mailbox: 'INBOX' })).toBe(true)
    expect(holds('mailbox "Old mail/*"', { mailbox: 'Old mail/x' })).toBe(true)
    expect(holds(['mailbox', 'Old mail'], { mailbox: 'Old mail' })).toBe(true)
  })
  test.each([
    ['', /nothing/],
    ['older', /value/],
    ['older 90', /no age/],
    ['older 1m', /no age/],
    ['larger x', /no size/],
    ['not', /followed/],
    ['size 5', /not known/],
    ['mailbox "a', /quote/],
  ] as const)('%s is refused with a reason', (query, reason) => {
    expect(parseAltmoveQuery(query)).toMatch(reason)
  })
})

/** What a box was asked to move. */
const asked: { refs: number[]; to: string }[] = []

function movable(format: BoxFormat): BoxFormat {
  return {
    ...format,
    open: async (host) => {
      const box = await format.open(host)
      const altmove: NonNullable<Box['altmove']> = (refs, { to }: AltmoveOptions) => {
        asked.push({ refs: [...refs], to })
        return Promise.resolve({ messages: refs.length, bytes: 0, damaged: 0, left: 0, bytesReclaimed: 0 })
      }
      return new Proxy(box, {
        get: (target, key) => {
          if (key === 'altmove') return altmove
          const value: unknown = Reflect.get(target, key, target)
          return typeof value === 'function' ? (value.bind(target) as unknown) : value
        },
      })
    },
  }
}

describe('altmove of a store', () => {
  test('a message goes when all its rows want it to, and comes back when one does', async () => {
    await using store = await open(memoryFs(), { box: (root) => movable(plainBox(root, 'storage')) })
    const session = store.as(anna)
    await session.create('Archive')
    const uids = await save(store, 'INBOX', ...Array.from({ length: 5 }, (_, i) => mail(i)))
    {
      await using inbox = await session.open('INBOX')
      await inbox.copy(UidSet.of(uids[0]!, uids[1]!), 'Archive')
      await inbox.changeFlags(UidSet.of(uids[0]!, uids[2]!), { add: FLAG_FLAGGED })
    }
    await save(store, 'Archive', mail('archived'))
    await using inbox = await session.open('INBOX')
    const refs = uids.map((uid) => inbox.view.extension('box')!.number(inbox.view.rowOf(uid)))
    const seen: string[] = []
    asked.length = 0
    const report = await store.altmove({
      to: 'alt',
      where: ({ mailbox, uid, flags, size, receivedMs, savedMs, keywords }) => {
        seen.push(`${mailbox} ${uid} ${size} ${keywords.length} ${receivedMs > 0 && savedMs > 0}`)
        return (flags & FLAG_FLAGGED) === 0
      },
    })
    expect(seen.length).toBe(8)
    expect(new Set(seen.map((line) => line.split(' ').slice(3).join(' ')))).toEqual(new Set(['0 true']))
    // The first is flagged in INBOX, the third too; the rest, and the one that is in Archive alone.
    expect(report.messages).toBe(4)
    expect(asked[0]).toMatchObject({ to: 'alt', refs: expect.arrayContaining([refs[1], refs[3], refs[4]]) })
    await store.altmove({ to: 'primary', where: ({ mailbox }) => mailbox === 'Archive' })
    expect(asked[1]!.refs.length).toBe(3)
    expect(asked[1]!.refs).toEqual(expect.arrayContaining([refs[0], refs[1]]))
  })
  test('is a mistake where the format has no second tier', async () => {
    await using store = await open(memoryFs(), { box: (root) => plainBox(root, 'storage') })
    await expect(store.altmove({ to: 'alt', where: () => true })).rejects.toThrow(TypeError)
  })
})
