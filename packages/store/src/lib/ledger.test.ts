import { readFileSync } from 'node:fs'
import { hexDump, parseHex } from '@mailstead/bytes'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { LOSS_KEY, openIndex } from '@mailstead/index'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { open } from '../../test/support.ts'
import { ALL_RIGHTS } from './access.ts'
import { GONE, GONE_LISTED, LEDGER, Ledger, reached, saysMore } from './ledger.ts'
import { dumpLedger } from './ledger-dump.ts'
import { decodeLedger, encodeLedger, type LedgerState } from './ledger-format.ts'
import { CLOSED_LIST } from './ledger-access.ts'
import { INDEX_PATH } from './path.ts'
import {
  aclKey,
  closedKey,
  encodeEntry,
  encodeNumber,
  KEY_VALIDITY,
  KEY_VERSION,
  mailboxKey,
  TREE_TABLE,
} from './tree.ts'

const [A, B, C] = ['a', 'b', 'c'].map((letter) => letter.repeat(32)) as [string, string, string]

function entry(guid: string, name: string): Uint8Array {
  return encodeEntry({ guid, name, specialUse: undefined, uidValidity: 1_800_000_000, createdMs: 1_800_000_000_123 })
}
function tree(version: number, values: Readonly<Record<string, Uint8Array>>): Map<string, Uint8Array> {
  return new Map([...Object.entries(values), [KEY_VERSION, encodeNumber(version, 6)], ['box', Buffer.from('mdbox')]])
}
async function read(fs: Fs): Promise<LedgerState> {
  const state = await new Ledger(fs).read()
  if (typeof state !== 'object') throw new Error(state)
  return state
}

const guids = fc.constantFrom(A, B, C)
const states = fc.record({
  version: fc.nat(2 ** 40),
  values: fc
    .array(fc.tuple(fc.string({ unit: 'grapheme', maxLength: 20 }), fc.uint8Array({ maxLength: 40 })))
    .map((list) => new Map(list)),
  links: fc.option(
    fc
      .array(fc.tuple(guids, fc.uniqueArray(guids, { minLength: 1 })))
      .map((list) => new Map(list.map(([from, tos]) => [from, new Set(tos)] as const))),
    { nil: undefined },
  ),
})

describe('the bytes of a ledger', () => {
  test('what is written is what is read, and one ledger has one form', () => {
    fc.assert(
      fc.property(states, (state) => {
        const bytes = encodeLedger(state)
        const back = decodeLedger(bytes)!
        expect(back.version).toBe(state.version)
        expect(new Map([...back.values].map(([key, value]) => [key, [...value]]))).toEqual(
          new Map([...state.values].map(([key, value]) => [key, [...value]])),
        )
        expect(back.links).toEqual(state.links)
        expect(Buffer.compare(encodeLedger(back), bytes)).toBe(0)
      }),
    )
  })

  test('cut anywhere, longer, or with another bit, it says nothing', () => {
    fc.assert(
      fc.property(states, fc.nat(), fc.nat(7), (state, at, bit) => {
        const bytes = encodeLedger(state)
        expect(decodeLedger(bytes.subarray(0, at % bytes.length))).toBeUndefined()
        expect(decodeLedger(Buffer.concat([bytes, Buffer.of(at & 255)]))).toBeUndefined()
        const other = Uint8Array.from(bytes)
        other[at % bytes.length]! ^= 1 << bit
        expect(decodeLedger(other)).toBeUndefined()
      }),
    )
  })

  test('the example in docs/formats/ledger.md is what is written', () => {
    const page = readFileSync(new URL('../../../../docs/formats/ledger.md', import.meta.url), 'utf8')
    const [hex] = [...page.matchAll(/```hex\n([^`]*)```/g)].map(([, block]) => block!)
    const inbox = Buffer.from(Array.from({ length: 16 }, (_, i) => i)).toString('hex')
    const board = Buffer.from(Array.from({ length: 16 }, (_, i) => 16 + i)).toString('hex')
    const bytes = encodeLedger({
      version: 7,
      values: new Map([
        [mailboxKey(inbox), entry(inbox, 'INBOX')],
        [mailboxKey(board), entry(board, 'Board')],
        [aclKey(board), CLOSED_LIST],
        [closedKey(board), new Uint8Array(0)],
        [KEY_VALIDITY, encodeNumber(1_800_000_000, 4)],
      ]),
      links: new Map([[inbox, new Set([board])]]),
    })
    expect(hexDump(bytes).trim()).toBe(hex!.trim())
    expect(decodeLedger(parseHex(hex!))?.links?.get(inbox)).toEqual(new Set([board]))
    expect(dumpLedger(bytes)).toEqual([
      '0 ledger of mailboxes, tree version 7, UIDVALIDITY to 1800000000',
      `mailbox "INBOX", guid ${inbox}, UIDVALIDITY 1800000000`,
      `mailbox "Board", guid ${board}, UIDVALIDITY 1800000000`,
      'list of "Board": anyone',
      '"Board" is closed to all but the owner',
      'messages went from "INBOX" to "Board"',
    ])
    for (let at = 8; at < bytes.length; at++)
      expect(dumpLedger(bytes.with(at, bytes[at]! ^ 1))).toEqual(['0 DAMAGED ledger of mailboxes'])
    expect(dumpLedger(bytes.subarray(1))).toBeUndefined()
  })
})

describe.each([
  ['with locks', (): Fs => memoryFs()],
  ['without locks', (): Fs => memoryFs({ lock: false })],
] as const)('a ledger in storage %s', (_, make) => {
  test('says what the newest tree says, whoever comes last', async () => {
    const fs = make()
    const [one, other] = [new Ledger(fs), new Ledger(fs)]
    const older = tree(2, { [mailboxKey(A)]: entry(A, 'INBOX'), [aclKey(A)]: Buffer.of(1) })
    const newer = tree(3, { [mailboxKey(A)]: entry(A, 'INBOX') })
    await Promise.all([one.follow(newer, false), other.follow(older, false)])
    const { version, values } = await read(fs)
    expect(version).toBe(3)
    expect([...values.keys()]).toEqual([mailboxKey(A)])
  })

  test('keeps each of the links that several write', async () => {
    const fs = make()
    const values = tree(1, { [mailboxKey(A)]: entry(A, 'INBOX') })
    await new Ledger(fs).follow(values, false)
    const ledgers = [new Ledger(fs), new Ledger(fs)]
    const pairs = [
      [A, B],
      [A, C],
      [B, C],
      [C, A],
    ] as const
    await Promise.all(pairs.map(async ([from, to], i) => ledgers[i % 2]!.link(from, to, values)))
    const { links } = await read(fs)
    expect(links).toEqual(
      new Map([
        [A, new Set([B, C])],
        [B, new Set([C])],
        [C, new Set([A])],
      ]),
    )
    expect(reached(links!, B)).toEqual(new Set([A, C]))
    const again = new Ledger(fs)
    await again.read()
    expect(again.link(A, B, values)).toBeUndefined()
    expect(again.link(A, A, values)).toBeUndefined()
  })
})

test('what went through a mailbox that is gone went on, and is told from what had no list', async () => {
  const fs = memoryFs()
  const ledger = new Ledger(fs)
  const all = { [mailboxKey(A)]: entry(A, 'INBOX'), [mailboxKey(B)]: entry(B, 'B'), [mailboxKey(C)]: entry(C, 'C') }
  await ledger.follow(tree(1, all), false)
  await ledger.link(A, B, tree(1, all))
  await ledger.link(B, C, tree(1, all))
  const { [mailboxKey(B)]: _, ...without } = all
  await ledger.follow(tree(2, { ...without, [aclKey(C)]: Buffer.of(1) }), false)
  expect((await read(fs)).links).toEqual(new Map([[A, new Set([GONE, C])]]))
  await ledger.follow(tree(3, { [mailboxKey(A)]: entry(A, 'INBOX') }), false)
  expect((await read(fs)).links).toEqual(new Map([[A, new Set([GONE, GONE_LISTED])]]))
})

test('where it was missing it is not known where messages went, unless there was nowhere to go', async () => {
  for (const [version, links] of [
    [1, new Map()],
    [2, undefined],
  ] as const) {
    const fs = memoryFs()
    await new Ledger(fs).follow(tree(version, { [mailboxKey(A)]: entry(A, 'INBOX') }), false)
    expect((await read(fs)).links).toEqual(links)
  }
})

test('a tree that lost something takes nothing from it, and is not written where there is none', async () => {
  const fs = memoryFs()
  const ledger = new Ledger(fs)
  const values = { [mailboxKey(A)]: entry(A, 'INBOX'), [aclKey(A)]: Buffer.of(1) }
  await ledger.follow(tree(5, values), true)
  expect(await ledger.read()).toBe('missing')
  await ledger.follow(tree(5, { ...values, [mailboxKey(B)]: entry(B, 'B'), [aclKey(B)]: Buffer.of(2) }), false)
  await ledger.follow(tree(6, { [mailboxKey(A)]: entry(A, 'INBOX') }), true)
  expect([...(await read(fs)).values.keys()].toSorted()).toEqual([aclKey(B), mailboxKey(A), mailboxKey(B)].toSorted())
  await fs.writeFile(LEDGER, Buffer.from('no ledger'))
  expect(await ledger.read()).toBe('damaged')
  await ledger.follow(tree(7, values), true)
  expect(await ledger.read()).toBe('damaged')
})

test.each(['whole', 'older', 'missing', 'damaged'] as const)(
  'an index that lost an access list, and was not rebuilt, opens nothing where the ledger is %s',
  async (what) => {
    const fs = memoryFs()
    // Without a list a mailbox is everybody's.
    const acl = {
      version: 1,
      access: (_: string, own?: Uint8Array) => ({ rightsFor: () => (own === undefined ? ALL_RIGHTS : 0) }),
    }
    const [root, bob] = [{ name: 'root', unrestricted: true }, { name: 'bob' }]
    let guid = ''
    let before: Uint8Array = new Uint8Array(0)
    {
      await using store = await open(fs, { acl })
      guid = (await store.as(root).create('Board')).guid
      await store.as(root).changeAcl('Board', () => Buffer.of(1))
      before = await fs.readFile(LEDGER)
      await store.as(root).create('News')
    }
    {
      await using index = await openIndex(fs, INDEX_PATH)
      await using tx = index.begin()
      tx.setValue(TREE_TABLE, aclKey(guid), undefined)
      tx.setValue(TREE_TABLE, LOSS_KEY, Uint8Array.of(0))
      await tx.commit()
    }
    if (what === 'older') await fs.writeFile(LEDGER, before)
    if (what === 'damaged') await fs.writeFile(LEDGER, Buffer.from('no ledger'))
    if (what === 'missing') await fs.remove(LEDGER)
    for (let times = 0; times < 2; times++) {
      await using store = await open(fs, { acl })
      expect(store.as(root).mailbox('Board')).toBeDefined()
      expect(store.as(bob).mailbox('Board')).toBeUndefined()
      expect(store.as(root).isClosed('Board')).toBe(what !== 'whole')
      expect(store.as(bob).mailbox('News') !== undefined).toBe(what === 'whole')
    }
  },
)

test('one that says no more than a new store would keeps nobody from making one', () => {
  const only: LedgerState = { version: 1, values: new Map([[mailboxKey(A), entry(A, 'INBOX')]]), links: new Map() }
  expect(saysMore(only)).toBe(false)
  expect(saysMore('missing')).toBe(false)
  expect(saysMore('damaged')).toBe(true)
  for (const key of [mailboxKey(B), aclKey(A), aclKey(''), closedKey('')])
    expect(saysMore({ ...only, values: new Map([...only.values, [key, new Uint8Array(0)]]) })).toBe(true)
})
