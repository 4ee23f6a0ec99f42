import { readFileSync } from 'node:fs'
import { parseHex, toHex } from '@mailstead/bytes'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Mount } from './contract.ts'
import { dumpMounts } from './dump.ts'
import { decodeList, decodeSeen, encodeList, encodeSeen, MOUNTS_MAX, type MountSeen } from './list-format.ts'

const texts = fc.string({ unit: 'grapheme', maxLength: 20 })
const paths = fc.string({ unit: 'grapheme', maxLength: 20 }).map((name) => `/${name}`)
const states = fc.constantFrom('online', 'offline', 'failover', 'ignore')
const mounts: fc.Arbitrary<Mount> = fc.record({
  path: paths,
  origin: fc.constantFrom('added', 'found'),
  state: states,
  mail: fc.boolean(),
  volume: fc.option(fc.record({ type: texts, source: texts, root: texts, uuid: texts, fsid: texts }), {
    nil: undefined,
  }),
})
const seen: fc.Arbitrary<MountSeen> = fc.record({
  path: paths,
  state: states,
  observed: fc.constantFrom('mounted', 'absent', 'changed', 'unguarded'),
  sinceMs: fc.nat(2 ** 47),
  why: texts,
})
const byPath = { selector: ({ path }: { path: string }) => path, maxLength: 8 }
const damaged = expect.objectContaining({ code: 'MOUNT_DAMAGED' })
const sorted = <T extends { path: string }>(list: readonly T[]): T[] =>
  list.toSorted((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)))

describe('the files of the list', () => {
  test('hold what was written, by path', () => {
    fc.assert(
      fc.property(fc.uniqueArray(mounts, byPath), fc.uniqueArray(seen, byPath), (list, looked) => {
        expect(decodeList(encodeList(list), 'mounts')).toEqual(sorted(list))
        expect(decodeSeen(encodeSeen(looked), 'mounts.seen')).toEqual(sorted(looked))
      }),
    )
  })
  test('are damaged, never another list, when a bit is turned, or they are cut or go on', () => {
    fc.assert(
      fc.property(fc.uniqueArray(mounts, byPath), fc.nat(), fc.integer({ min: 1, max: 8 }), (list, n, more) => {
        const bytes = encodeList(list)
        expect(() => decodeList(bytes.subarray(0, n % bytes.length), 'mounts')).toThrow(damaged)
        expect(() => decodeList(Buffer.concat([bytes, new Uint8Array(more)]), 'mounts')).toThrow(damaged)
        const flipped = Uint8Array.from(bytes)
        flipped[(n >> 3) % bytes.length]! ^= 1 << (n & 7)
        expect(() => decodeList(flipped, 'mounts')).toThrow(damaged)
        expect(() => decodeSeen(bytes, 'mounts.seen')).toThrow(damaged)
      }),
    )
  })
  test('are refused, and not believed, whatever bytes they have', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(() => decodeList(bytes, 'mounts')).toThrow(damaged)
        expect([...dumpMounts(bytes)].join()).toContain('DAMAGED')
      }),
    )
  })
  test('have each path once, in order, and no more than they may', () => {
    const mount: Mount = { path: '/a', origin: 'added', state: 'online', mail: true, volume: undefined }
    expect(() => decodeList(encodeList([mount, mount]), 'mounts')).toThrow(damaged)
    expect(() => decodeList(encodeList([{ ...mount, path: 'a' }]), 'mounts')).toThrow(damaged)
    const many = Array.from({ length: MOUNTS_MAX + 1 }, (_, i) => ({ ...mount, path: `/${i}` }))
    expect(() => decodeList(encodeList(many), 'mounts')).toThrow(damaged)
    expect(decodeList(encodeList(many.slice(1)), 'mounts')).toHaveLength(MOUNTS_MAX)
  })
  test('are as the examples of the format document', () => {
    const page = readFileSync(new URL('../../../../docs/formats/mounts.md', import.meta.url), 'utf8')
    const [list, looked] = [...page.matchAll(/```hex\n([^`]*)```/g)].map(([, dump]) => parseHex(dump!))
    const example: Mount[] = [
      {
        path: '/srv/alt',
        origin: 'added',
        state: 'offline',
        mail: true,
        volume: undefined,
      },
      {
        path: '/srv/mail',
        origin: 'found',
        state: 'online',
        mail: true,
        volume: {
          type: 'ext4',
          source: '/dev/sdb1',
          root: '/',
          uuid: '0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa',
          fsid: 'b2628ed7d95fd6aa',
        },
      },
    ]
    expect(toHex(list!)).toBe(toHex(encodeList(example)))
    expect(decodeList(list!, 'mounts')).toEqual(example)
    const was: MountSeen[] = [
      {
        path: '/srv/alt',
        state: 'offline',
        observed: 'absent',
        sinceMs: 1_893_456_000_000,
        why: 'nothing is mounted on /srv/alt',
      },
      { path: '/srv/mail', state: 'online', observed: 'mounted', sinceMs: 1_893_456_000_000, why: '' },
    ]
    expect(toHex(looked!)).toBe(toHex(encodeSeen(was)))
    expect(decodeSeen(looked!, 'mounts.seen')).toEqual(was)
    expect([...dumpMounts(list!)]).toEqual([
      '/srv/alt: added, offline, mail',
      '/srv/mail: found, online, mail, ext4 from /dev/sdb1 (0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa) fsid b2628ed7d95fd6aa',
    ])
    expect([...dumpMounts(looked!)][0]).toBe(
      '/srv/alt: offline, absent since 2030-01-01T00:00:00.000Z (nothing is mounted on /srv/alt)',
    )
  })
})
