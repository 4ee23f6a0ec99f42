import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Box, BoxFormat, BoxHost, BoxRef } from '@mailstead/box'
import { type MemoryProcess, memoryTable } from '@mailstead/box/testing'
import { parseHex } from '@mailstead/bytes'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import { sdbox } from './sdbox/sdbox.ts'
import {
  ALT_MARKER,
  dumpTier,
  readMarker,
  readTierRecord,
  TIER_RECORD,
  writeMarker,
  writeTierRecord,
} from './tier-record.ts'

const uuids = fc.uint8Array({ minLength: 16, maxLength: 16 })
const PATH = 'second/anna'
const RECORD = `storage/${TIER_RECORD}`
const MARKER = `${PATH}/${ALT_MARKER}`

describe('the record and the marker of a second tier', () => {
  test('what is written is what is read, and no bit of it may be another', () => {
    fc.assert(
      fc.property(uuids, fc.constantFrom('mdbox', 'sdbox'), fc.nat(), (uuid, format, n) => {
        const [record, marker] = [writeTierRecord({ format, uuid }), writeMarker(uuid)]
        expect(readTierRecord(record)).toEqual({ format, uuid })
        expect(readMarker(marker)).toEqual(uuid)
        expect(readTierRecord(marker)).toBeUndefined()
        expect(readMarker(record)).toBeUndefined()
        for (const bytes of [record, marker]) {
          expect(readTierRecord(bytes.subarray(0, n % bytes.length))).toBeUndefined()
          expect(readMarker(bytes.subarray(0, n % bytes.length))).toBeUndefined()
          const flipped = Buffer.from(bytes)
          flipped[(n >> 3) % bytes.length]! ^= 1 << (n & 7)
          expect(readTierRecord(flipped)).toBeUndefined()
          expect(readMarker(flipped)).toBeUndefined()
        }
      }),
    )
  })

  test('the examples of the format document are what we write and read', () => {
    const document = readFileSync(new URL('../../../../docs/formats/second-tier.md', import.meta.url), 'utf8')
    const [marker, record] = [...document.matchAll(/```hex\n([^]*?)\n```/g)].map(([, hex]) =>
      Buffer.from(bytesOf(hex!)),
    )
    const uuid = Uint8Array.from({ length: 16 }, (_, i) => i)
    expect(marker!.equals(writeMarker(uuid))).toBe(true)
    expect(record!.equals(writeTierRecord({ format: 'mdbox', uuid }))).toBe(true)
    expect(dumpTier(marker!)).toBe('0 marker of the second tier 000102030405060708090a0b0c0d0e0f')
    expect(dumpTier(record!)).toBe('0 record of a second tier, mdbox, 000102030405060708090a0b0c0d0e0f')
    record![20]! ^= 1
    expect(dumpTier(record!)).toBe('0 DAMAGED record of a second tier')
  })
})

/** The bytes of a hex dump with offsets and text. */
function bytesOf(dump: string): Uint8Array {
  return parseHex(
    dump
      .split('\n')
      .map((line) => line.slice(10, 58).replaceAll(' ', ''))
      .join(''),
  )!
}

const FORMATS: readonly (readonly [string, (fs: Fs, alt: Fs | undefined) => BoxFormat])[] = [
  ['mdbox', (fs, alt) => mdbox(fs, 'storage', alt && { alt: { fs: alt, path: PATH } })],
  ['sdbox', (fs, alt) => sdbox(fs, 'storage', alt && { alt: { fs: alt, path: PATH } })],
]

describe.each(FORMATS)('the second tier of an %s', (name, make) => {
  class World {
    readonly fs: Fs = memoryFs()
    readonly alt: Fs = memoryFs()
    readonly table = memoryTable(make(this.fs, this.alt).columns)
    readonly bodies = new Map<BoxRef, Buffer>()
    readonly mailbox: string = '0123456789abcdef'.repeat(2)

    async open(proc: MemoryProcess, host: BoxHost = proc.host, alt: Fs | undefined = this.alt): Promise<Box> {
      return make(this.fs, alt).open(host)
    }
    async save(box: Box, proc: MemoryProcess, count: number): Promise<Uint32Array> {
      await proc.host.refresh()
      if (proc.host.mailboxes?.find(this.mailbox) === undefined) await proc.mail.create(this.mailbox)
      await using batch = box.begin()
      const bodies = Array.from({ length: count }, () => randomBytes(1000))
      const saved = []
      const origin = { mailbox: Buffer.from(this.mailbox, 'hex'), uidValidity: 1 }
      for (const body of bodies) saved.push(await batch.save(body, { guid: randomBytes(16), receivedMs: 0, origin }))
      await batch.flush()
      await proc.mail.keep(box, saved, [this.mailbox])
      const refs = [...proc.mail.rows(this.mailbox).values()].slice(-count)
      for (const [i, ref] of refs.entries()) this.bodies.set(ref, bodies[i]!)
      return Uint32Array.from(refs)
    }
    async expectAll(box: Box): Promise<void> {
      for (const [ref, body] of this.bodies) {
        await using message = await box.open(ref)
        const into = Buffer.alloc(message.physicalSize)
        await message.read(into, 0)
        expect(into.equals(body)).toBe(true)
      }
      const findings = (await Array.fromAsync(box.check())).flat()
      expect(findings.filter(({ severity }) => severity === 'damage')).toEqual([])
    }
  }

  test('two processes that make the first move at the same moment agree on its identity, whichever commits first', async () => {
    let agreed = 0
    for (let delay = 0; delay < 60; delay++) {
      const world = new World()
      const [one, two] = [world.table.process(), world.table.process()]
      // The second decides before the first is done, and commits some turns later.
      const host: BoxHost = {
        table: two.host.table,
        mailboxes: two.host.mailboxes!,
        refresh: () => two.host.refresh(),
        transact: async (body) => {
          for (let turn = 0; turn < delay; turn++) await Promise.resolve()
          await two.host.transact(body)
        },
      }
      await using first = await world.open(one)
      await using second = await world.open(two, host)
      const mine = await world.save(first, one, 2)
      const others = await world.save(second, two, 2)
      await one.host.refresh()
      const moves = await Promise.all([first.altmove!(mine, { to: 'alt' }), second.altmove!(others, { to: 'alt' })])
      expect(moves.map(({ messages }) => messages)).toEqual([2, 2])
      const uuid = readMarker(await world.alt.readFile(MARKER))
      expect(readTierRecord(await world.fs.readFile(RECORD))).toEqual({ format: name, uuid })
      await one.host.refresh()
      expect(one.host.table.view.values?.get('alt')).toEqual(uuid)
      await world.expectAll(first)
      agreed++
    }
    console.log(`${agreed} first moves of two processes at once to the tier of an ${name}, all agreed`)
  })

  test('the record: damaged in any byte it is found, unneeded while the index knows, and mended at the next checkpoint', async () => {
    const world = new World()
    const proc = world.table.process()
    await using box = await world.open(proc)
    await box.altmove!(await world.save(box, proc, 2), { to: 'alt' })
    const good = await world.fs.readFile(RECORD)
    const kinds = async (): Promise<string[]> =>
      (await Array.fromAsync(box.check()))
        .flat()
        .filter(({ severity }) => severity === 'damage')
        .map(({ kind, file }) => `${kind} ${file}`)
    for (let at = 0; at < good.length; at++) {
      const bad = Uint8Array.from(good)
      bad[at]! ^= 1 << (at % 8)
      await world.fs.writeFile(RECORD, bad)
      expect(await kinds()).toEqual([`tier-record ${TIER_RECORD}`])
    }
    await box.altmove!(await world.save(box, proc, 1), { to: 'alt' })
    expect(await kinds()).toEqual([])
    await world.fs.remove(RECORD)
    await box.journal?.()
    expect(Buffer.from(await world.fs.readFile(RECORD)).equals(good)).toBe(true)
    // Another identity is not written over: somebody has to look.
    await world.fs.writeFile(RECORD, writeTierRecord({ format: name, uuid: randomBytes(16) }))
    await box.journal?.()
    expect(await kinds()).toEqual([`tier-record ${TIER_RECORD}`])
    await expect(box.altmove!(await world.save(box, proc, 1), { to: 'alt' })).rejects.toThrow(/records it as/)
    await world.fs.writeFile(RECORD, good)
    await world.expectAll(box)
  })

  test('one that carries another identity is said to, and nothing of it is read or changed', async () => {
    const [mine, other] = [new World(), new World()]
    const procs = [mine.table.process(), other.table.process()] as const
    {
      await using box = await other.open(procs[1])
      await box.altmove!(await other.save(box, procs[1], 2), { to: 'alt' })
    }
    await using box = await mine.open(procs[0], procs[0].host, other.alt)
    const refs = await mine.save(box, procs[0], 2)
    await expect(box.altmove!(refs, { to: 'alt' })).rejects.toMatchObject({ code: 'FS_UNAVAILABLE' })
    const notes = (await Array.fromAsync(box.check())).flat().filter(({ kind }) => kind === 'tier-foreign')
    expect(notes).toMatchObject([
      { severity: 'note', file: `alt/${ALT_MARKER}`, message: /another box \([0-9a-f]{32}\)/ },
    ])
    const scanned = (await Array.fromAsync(box.scan())).flat()
    expect(scanned.filter(({ guid }) => guid !== undefined).length).toBe(2)
    expect(scanned.filter(({ damage }) => damage !== undefined)).toMatchObject([{ file: `alt/${ALT_MARKER}` }])
    expect((await box.purge()).unavailable).toBeUndefined()
    await mine.expectAll(box)
    // What is missing here is not there.
    const [name] = (await Array.fromAsync(box.scan())).flat().filter(({ guid }) => guid !== undefined)
    await mine.fs.remove(`storage/${name!.file}`)
    await using again = await mine.open(procs[0], procs[0].host, other.alt)
    const outcomes = await Promise.allSettled([...refs].map(async (ref) => again.open(ref)))
    const lost = outcomes.find(({ status }) => status === 'rejected') as PromiseRejectedResult
    expect(lost.reason).toMatchObject({ code: 'BOX_DAMAGED' })
    for (const one of outcomes) if (one.status === 'fulfilled') await one.value[Symbol.asyncDispose]()
  })
})
