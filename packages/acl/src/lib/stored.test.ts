import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { hexDump, parseHex } from '@mailstead/bytes'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatAclFile, parseAclFile } from './acl-file.ts'
import { IDENTIFIER_KINDS, isNamed } from './identifier.ts'
import { type AclEntry, type AclList, aclList } from './list.ts'
import { ALL_RIGHTS } from './rights.ts'
import { ACL_VALUE_MAX, decodeAcl, encodeAcl } from './stored.ts'

const masks = fc.option(fc.integer({ min: 0, max: ALL_RIGHTS }), { nil: undefined })
const others = fc.option(fc.uniqueArray(fc.constantFrom('foo', 'bar-x', 'é'), { minLength: 1 }), { nil: undefined })
const names = fc.string({ unit: 'grapheme', maxLength: 12 }).filter((name) => !/[\0\r\n\ufffd]/.test(name))
const entries: fc.Arbitrary<AclEntry> = fc
  .record({
    kind: fc.constantFrom(...IDENTIFIER_KINDS),
    name: names,
    rights: masks,
    denied: masks,
    otherRights: others,
  })
  .map(({ kind, name, rights, denied, otherRights }) => ({
    kind,
    name: isNamed(kind) ? (kind === 'domain' ? name.toLowerCase() : name) : '',
    rights,
    denied,
    ...(rights === undefined || otherRights === undefined ? {} : { otherRights: otherRights.sort() }),
  }))

/** A list with broken lines among them, as a file has them. */
const lists: fc.Arbitrary<AclList> = fc
  .tuple(fc.array(entries, { maxLength: 8 }), fc.array(fc.constantFrom('user=bob lrZ', '-x', '"a', 'usr=b lr\t:foo')))
  .map(([given, broken]) => {
    const list = aclList(given)
    return { ...list, broken: parseAclFile(Buffer.from(broken.join('\n'))).list.broken }
  })

function withoutOrigin(list: AclList): unknown {
  return JSON.parse(JSON.stringify(list, (key, value: unknown) => (key === 'origin' ? undefined : value)))
}

describe('a stored list', () => {
  test('is read as it was written', () => {
    fc.assert(
      fc.property(lists, (list) => {
        const value = encodeAcl(list)
        expect(withoutOrigin(decodeAcl(value))).toEqual(withoutOrigin(list))
        expect(encodeAcl(decodeAcl(value))).toEqual(value)
      }),
    )
  })

  test('is written to a file and read from it as it is', () => {
    fc.assert(
      fc.property(lists, (list) => {
        expect(withoutOrigin(parseAclFile(formatAclFile(list)).list)).toEqual(withoutOrigin(list))
      }),
    )
  })

  test('cut anywhere, or with any byte changed, is damaged or another list, and never anything else', () => {
    fc.assert(
      fc.property(lists, fc.nat(), fc.integer({ min: 1, max: 255 }), (list, at, change) => {
        const value = encodeAcl(list)
        expect(() => decodeAcl(value.subarray(0, at % value.length))).toThrow(
          expect.objectContaining({ code: 'ACL_CORRUPT' }),
        )
        const changed = value.slice()
        changed[at % value.length]! ^= change
        let read: AclList
        try {
          read = decodeAcl(changed)
        } catch (error) {
          expect(error).toMatchObject({ code: 'ACL_CORRUPT' })
          return
        }
        expect(withoutOrigin(decodeAcl(encodeAcl(read)))).toEqual(withoutOrigin(read))
      }),
    )
  })

  test('of any bytes is damaged or a list', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        try {
          decodeAcl(bytes)
        } catch (error) {
          expect(error).toMatchObject({ code: 'ACL_CORRUPT' })
        }
      }),
      { numRuns: 2000 },
    )
  })

  test('that is too long for a value is refused', () => {
    const many = Array.from({ length: 6000 }, (_, at): AclEntry => ({ kind: 'user', name: `user${at}`, rights: 3 }))
    expect(() => encodeAcl(aclList(many))).toThrow(expect.objectContaining({ code: 'ACL_LIMIT' }))
    expect(encodeAcl(aclList(many.slice(0, 4000))).length).toBeLessThanOrEqual(ACL_VALUE_MAX)
  })

  test('is laid out as the document says', () => {
    const document = readFileSync(fileURLToPath(new URL('../../../../docs/formats/acl.md', import.meta.url)), 'utf8')
    const file = /```acl\n([^`]*)```/.exec(document)![1]!
    const hex = /```hex\n([^`]*)```/.exec(document)![1]!
    const { list } = parseAclFile(Buffer.from(file))
    expect(hexDump(encodeAcl(list))).toBe(hex)
    expect(withoutOrigin(decodeAcl(parseHex(hex)))).toEqual(withoutOrigin(list))
  })
})
