import { readFileSync } from 'node:fs'
import { parseHex, toHex } from '@mailstead/bytes'
import type { TableView } from '@mailstead/index'
import { describe, expect, test } from 'vitest'
import { decodeEntry, decodeNumber, type Entry, encodeEntry, encodeNumber, mailboxKey, Tree } from './tree.ts'

const guid = '000102030405060708090a0b0c0d0e0f'
const entry: Entry = {
  guid,
  name: 'Archive/2026 é',
  specialUse: '\\Archive',
  uidValidity: 1_800_000_000,
  createdMs: 1_800_000_000_123,
}

describe('tree', () => {
  test('an entry that is written is read; cut, longer, or of another version it is none', () => {
    const bytes = encodeEntry(entry)
    expect(decodeEntry(guid, bytes)).toEqual(entry)
    expect(decodeEntry(guid, encodeEntry({ ...entry, specialUse: undefined }))?.specialUse).toBeUndefined()
    for (let cut = 0; cut < bytes.length; cut++) expect(decodeEntry(guid, bytes.subarray(0, cut))).toBeUndefined()
    expect(decodeEntry(guid, Buffer.concat([bytes, Buffer.of(0)]))).toBeUndefined()
    expect(decodeEntry(guid, Buffer.concat([Buffer.of(1), bytes.subarray(1)]))).toBeUndefined()
    expect(decodeEntry('not a guid', bytes)).toBeUndefined()
  })
  test('the examples in docs/formats/tree.md are what is written', () => {
    const page = readFileSync(new URL('../../../../docs/formats/tree.md', import.meta.url), 'utf8')
    const [mailbox, version, validity] = [...page.matchAll(/```hex\n([^`]*)```/g)].map(([, dump]) => parseHex(dump!))
    expect(decodeEntry(guid, mailbox!)).toEqual(entry)
    expect(toHex(encodeEntry(entry))).toBe(toHex(mailbox!))
    expect(decodeNumber(version)).toBe(7)
    expect(toHex(encodeNumber(7, 6))).toBe(toHex(version!))
    expect(decodeNumber(validity)).toBe(entry.uidValidity)
    expect(toHex(encodeNumber(entry.uidValidity, 4))).toBe(toHex(validity!))
  })
  test('two entries of one name, and what cannot be read, are damage and hide nothing else', () => {
    const other = 'f'.repeat(32)
    const values = new Map([
      [mailboxKey(guid), encodeEntry(entry)],
      [mailboxKey(other), encodeEntry({ ...entry, guid: other })],
      [mailboxKey('a'.repeat(32)), Buffer.of(9)],
      ['s/Somewhere', new Uint8Array(0)],
    ])
    const tree = new Tree(() => ({ values }) as unknown as TableView)
    expect(tree.state.damaged).toEqual([mailboxKey(other), mailboxKey('a'.repeat(32))])
    expect(tree.sorted.map(({ name }) => name)).toEqual([entry.name])
    expect([...tree.state.subscriptions]).toEqual(['Somewhere'])
  })
})
