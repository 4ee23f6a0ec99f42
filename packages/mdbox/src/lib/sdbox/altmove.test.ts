import { randomBytes } from 'node:crypto'
import { type Box, BoxError, type BoxHost, type BoxRef } from '@mailstead/box'
import { type MemoryProcess, type MemoryTable, memoryTable } from '@mailstead/box/testing'
import { type Fs, FsError } from '@mailstead/fs'
import { type Fault, faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { COLUMNS, isAlt } from './row.ts'
import { sdbox } from './sdbox.ts'

const INBOX = '11'.repeat(16)
const OTHER = '22'.repeat(16)
const SECOND = 'second/alt'

/** Two tiers on file systems of their own, and one process. */
class Subject implements AsyncDisposable {
  readonly primary: Fs
  readonly alt: Fs
  /** What is mounted where the second tier is. */
  mounted: Fs
  readonly table: MemoryTable = memoryTable(COLUMNS)
  readonly proc: MemoryProcess = this.table.process()
  readonly bodies: Map<BoxRef, Buffer> = new Map()
  box!: Box

  constructor(link: boolean) {
    this.primary = memoryFs({ link })
    this.alt = memoryFs({ link })
    this.mounted = this.alt
  }
  static async create({ link = true } = {}): Promise<Subject> {
    const subject = new Subject(link)
    await subject.reopen()
    await subject.proc.mail.create(INBOX, 'INBOX')
    await subject.proc.mail.create(OTHER, 'Other')
    return subject
  }
  async open(proc: MemoryProcess = this.proc, host: BoxHost = proc.host, primary: Fs = this.primary): Promise<Box> {
    return sdbox(primary, 'storage', { alt: { fs: this.mounted, path: SECOND } }).open(host)
  }
  async reopen(mounted: Fs = this.mounted): Promise<void> {
    await this.box?.[Symbol.asyncDispose]()
    this.mounted = mounted
    this.box = await this.open()
  }
  async save(count: number, bytes = 2000): Promise<Uint32Array> {
    await using batch = this.box.begin()
    const bodies = Array.from({ length: count }, () => randomBytes(bytes))
    const origin = { mailbox: Buffer.from(INBOX, 'hex'), uidValidity: 1 }
    const saved = []
    for (const body of bodies) saved.push(await batch.save(body, { guid: randomBytes(16), receivedMs: 0, origin }))
    await batch.flush()
    await this.proc.mail.keep(this.box, saved, [INBOX])
    const refs = [...this.proc.mail.rows(INBOX).values()].slice(-count)
    for (const [i, ref] of refs.entries()) this.bodies.set(ref, bodies[i]!)
    return Uint32Array.from(refs)
  }
  inAlt(): boolean[] {
    const { view } = this.proc.host.table
    return [...this.bodies.keys()].map((ref) => isAlt({ flags: view.extension('flags')!.number(view.rowOf(ref)) }))
  }
  async expectAll(box: Box = this.box): Promise<void> {
    for (const [ref, body] of this.bodies) expect((await readAll(box, ref)).equals(body), `message ${ref}`).toBe(true)
    const found = (await Array.fromAsync(box.check())).flat()
    expect(found.filter(({ severity }) => severity === 'damage')).toEqual([])
  }
  /** Mailbox, UID and tier of each file that tells of a message which was not expunged. */
  async told(): Promise<string[]> {
    const format = sdbox(this.primary, 'storage', { alt: { fs: this.alt, path: SECOND } })
    await using box = await format.open(memoryTable(COLUMNS).process().host)
    const told: string[] = []
    for await (const page of box.scan())
      for (const { file, expunged, damage } of page) {
        expect(damage).toBeUndefined()
        if (expunged !== true) told.push(file.replace(INBOX, 'inbox').replace(OTHER, 'other'))
      }
    return told.sort()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.box[Symbol.asyncDispose]()
  }
}

async function readAll(box: Box, ref: BoxRef): Promise<Buffer> {
  await using message = await box.open(ref)
  const into = Buffer.alloc(message.physicalSize)
  expect(await message.read(into, 0)).toBe(into.length)
  return into
}

/** Names of messages below a tier. */
async function namesIn(fs: Fs, directory: string): Promise<string[]> {
  const names: string[] = []
  for (const [guid, short] of [
    [INBOX, 'inbox'],
    [OTHER, 'other'],
  ] as const)
    for await (const page of fs.list(`${directory}/${guid}`))
      for (const { name } of page) if (/^[ux]\./.test(name)) names.push(`${short}/${name}`)
  return names.sort()
}

function isOutage(error: unknown): boolean {
  return error instanceof FsError && (error.code === 'FS_UNAVAILABLE' || error.code === 'FS_IO')
}
function failing(fault: Fault): Fs {
  return faultyFs(memoryFs(), { fail: () => fault })
}

describe('altmove of an sdbox', () => {
  test.each([true, false])(
    'there and back under the same names, copies and all (files of several names: %s)',
    async (link) => {
      await using subject = await Subject.create({ link })
      const refs = await subject.save(6)
      const { mail } = subject.proc
      await mail.copy(subject.box, INBOX, [2, 3], OTHER)
      const there = await subject.box.altmove!(refs.slice(0, 3), { to: 'alt' })
      expect(there).toMatchObject({ messages: 3, damaged: 0, left: 0 })
      expect(await namesIn(subject.alt, SECOND)).toEqual([
        'inbox/u.1',
        'inbox/u.2',
        'inbox/u.3',
        'other/u.1',
        'other/u.2',
      ])
      expect(await namesIn(subject.primary, 'storage')).toEqual(['inbox/u.4', 'inbox/u.5', 'inbox/u.6'])
      await subject.expectAll()
      await subject.reopen()
      await subject.expectAll()
      expect(await subject.box.altmove!(refs.slice(0, 3), { to: 'alt' })).toMatchObject({ messages: 0 })
      // What is copied, moved and expunged there is so in both tiers.
      await mail.copy(subject.box, INBOX, [1], OTHER)
      await mail.move(subject.box, INBOX, [3], OTHER)
      await mail.expunge(subject.box, INBOX, [2])
      await mail.expunge(subject.box, OTHER, [1])
      subject.bodies.delete(refs[1]!)
      await subject.box.purge()
      await subject.expectAll()
      expect(await namesIn(subject.primary, 'storage')).toEqual(['inbox/u.4', 'inbox/u.5', 'inbox/u.6'])
      expect(await namesIn(subject.alt, SECOND)).toEqual(['inbox/u.1', 'other/u.2', 'other/u.3', 'other/u.4'])
      expect(await subject.box.altmove!(refs, { to: 'primary' })).toMatchObject({ messages: 2, left: 0 })
      await subject.expectAll()
      expect(await namesIn(subject.alt, SECOND)).toEqual([])
      expect(subject.inAlt().some(Boolean)).toBe(false)
      expect(await subject.box.purge()).toMatchObject({ files: 0, messages: 0 })
      expect(await namesIn(subject.primary, 'storage')).toEqual(await namesIn(subject.primary, 'storage'))
      await subject.reopen(failing('FS_UNAVAILABLE'))
      for (const [ref, body] of subject.bodies) expect((await readAll(subject.box, ref)).equals(body)).toBe(true)
    },
  )

  test('a tier that is away is unavailable; what is expunged meanwhile stays so, whatever becomes of the index', async () => {
    for (const away of [memoryFs(), failing('FS_UNAVAILABLE'), failing('EIO')]) {
      await using subject = await Subject.create()
      const refs = await subject.save(5)
      await subject.proc.mail.copy(subject.box, INBOX, [1], OTHER)
      await subject.box.altmove!(refs.slice(0, 3), { to: 'alt' })
      await subject.reopen(away)
      for (const ref of refs.slice(0, 3)) {
        await expect(readAll(subject.box, ref)).rejects.toSatisfy(isOutage)
        expect(subject.box.openSync?.(ref)).toBeUndefined()
      }
      expect((await readAll(subject.box, refs[4]!)).equals(subject.bodies.get(refs[4]!)!)).toBe(true)
      await expect(subject.box.altmove!(refs, { to: 'alt' })).rejects.toSatisfy(isOutage)
      await expect(subject.box.altmove!(refs, { to: 'primary' })).rejects.toSatisfy(isOutage)
      await expect(Array.fromAsync(subject.box.scan())).rejects.toSatisfy(isOutage)
      await expect(Array.fromAsync(subject.box.check())).rejects.toSatisfy(isOutage)
      const before = await namesIn(subject.alt, SECOND)
      await subject.proc.mail.expunge(subject.box, INBOX, [1, 2, 4])
      subject.bodies.delete(refs[1]!)
      subject.bodies.delete(refs[3]!)
      const purged = await subject.box.purge()
      expect(purged.unavailable).toSatisfy(isOutage)
      expect(purged.messages).toBe(2)
      await subject.box.purge()
      expect(await namesIn(subject.alt, SECOND)).toEqual(before)
      // It has its other mailbox still, and is there.
      await expect(readAll(subject.box, refs[0]!)).rejects.toSatisfy(isOutage)
      await subject.reopen(subject.alt)
      expect(await subject.told()).toEqual(['alt/inbox/u.3', 'alt/other/u.1', 'inbox/u.5'])
      await subject.expectAll()
      expect((await subject.box.purge()).unavailable).toBeUndefined()
      expect(await namesIn(subject.alt, SECOND)).toEqual(['inbox/u.3', 'other/u.1'])
      expect(await namesIn(subject.primary, 'storage')).toEqual(['inbox/u.5'])
      await subject.expectAll()
    }
  })

  test('a tier that goes away in the middle keeps its messages where they were', async () => {
    let checked = 0
    for (let at = 1; at < 60; at++) {
      await using subject = await Subject.create()
      const refs = await subject.save(4)
      await subject.box.altmove!(refs.slice(0, 1), { to: 'alt' })
      const bare = memoryFs()
      let left = at
      await subject.reopen(switching(subject.alt, () => (left-- > 0 ? subject.alt : bare)))
      let failed = false
      try {
        await subject.box.altmove!(refs, { to: 'alt' })
      } catch (error) {
        if (!isOutage(error) && !(error instanceof BoxError)) throw error
        failed = true
      }
      await subject.reopen(subject.alt)
      await subject.expectAll()
      await subject.proc.mail.expunge(subject.box, INBOX, [1])
      subject.bodies.delete(refs[0]!)
      await subject.reopen(switching(subject.alt, () => (left-- > -at ? subject.alt : bare)))
      await subject.box.purge().catch((error: unknown) => {
        if (!isOutage(error)) throw error
      })
      await subject.reopen(subject.alt)
      expect((await subject.told()).length).toBe(3)
      await subject.expectAll()
      checked++
      if (!failed && left > 0) break
    }
    expect(checked).toBeGreaterThan(5)
    console.log(`the second tier of an sdbox taken away at ${checked} operations`)
  })

  test('every operation of either tier fails once: nothing is lost, and the next altmove does it', async () => {
    let faults = 0
    for (const which of ['primary', 'alt'] as const)
      for (const to of ['alt', 'primary'] as const)
        for (let nth = 1; ; nth++) {
          await using subject = await Subject.create()
          const refs = await subject.save(3)
          await subject.proc.mail.copy(subject.box, INBOX, [2], OTHER)
          if (to === 'primary') await subject.box.altmove!(refs, { to: 'alt' })
          let count = 0
          const faulty = faultyFs(which === 'primary' ? subject.primary : subject.alt, {
            fail: () => (++count === nth ? 'FS_IO' : undefined),
          })
          await subject.box[Symbol.asyncDispose]()
          if (which === 'alt') subject.mounted = faulty
          subject.box = await subject.open(
            subject.proc,
            subject.proc.host,
            which === 'primary' ? faulty : subject.primary,
          )
          await subject.box.altmove!(refs, { to }).catch((error: unknown) => {
            if (!(error instanceof FsError || error instanceof BoxError)) throw error
          })
          await subject.reopen(subject.alt)
          await subject.expectAll()
          await subject.box.altmove!(refs, { to })
          await subject.box.purge()
          await subject.expectAll()
          expect(new Set(subject.inAlt())).toEqual(new Set([to === 'alt']))
          const names = ['inbox/u.1', 'inbox/u.2', 'inbox/u.3', 'other/u.1']
          expect(await namesIn(subject.alt, SECOND)).toEqual(to === 'alt' ? names : [])
          expect(await namesIn(subject.primary, 'storage')).toEqual(to === 'alt' ? [] : names)
          faults++
          if (count < nth) break
        }
    console.log(`${faults} faults in altmoves of an sdbox, nothing lost`)
  })

  test('beside another process that copies, expunges and purges: names are in the right tier after the next purge', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(20)
    const other = subject.table.process()
    await using mover = await subject.open(other)
    const { mail } = subject.proc
    const moving = mover.altmove!(refs, { to: 'alt' })
    await mail.copy(subject.box, INBOX, [3, 4, 5, 6], OTHER)
    await mail.expunge(subject.box, INBOX, [1, 2, 3])
    subject.bodies.delete(refs[0]!)
    subject.bodies.delete(refs[1]!)
    await Promise.all([moving, subject.box.purge()])
    await mail.copy(subject.box, INBOX, [7], OTHER)
    await subject.proc.host.refresh()
    await subject.expectAll()
    await other.host.refresh()
    await subject.expectAll(mover)
    await mover.altmove!(refs, { to: 'alt' })
    await subject.proc.host.refresh()
    await subject.box.purge()
    await subject.box.purge()
    await subject.expectAll()
    expect(subject.inAlt().every(Boolean)).toBe(true)
    expect(await namesIn(subject.primary, 'storage')).toEqual([])
    expect((await namesIn(subject.alt, SECOND)).length).toBe(17 + 5)
  })

  test('a damaged message stays where it is, and its neighbours move', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(3)
    {
      await using file = await subject.primary.open(`storage/${INBOX}/u.2`, 'write')
      await file.write(Uint8Array.of(1, 2, 3), 500)
    }
    subject.bodies.delete(refs[1]!)
    expect(await subject.box.altmove!(refs, { to: 'alt' })).toMatchObject({ messages: 2, damaged: 1, left: 0 })
    expect(await namesIn(subject.primary, 'storage')).toEqual(['inbox/u.2'])
    for (const [ref, body] of subject.bodies) expect((await readAll(subject.box, ref)).equals(body)).toBe(true)
  })

  test('a message that a crash left in both tiers is told once, from the first unless that is damaged; a purge leaves one', async () => {
    for (const isMoved of [false, true]) {
      await using subject = await Subject.create()
      const refs = await subject.save(3)
      await subject.box.altmove!(refs.slice(0, isMoved ? 2 : 1), { to: 'alt' })
      const [first, second] = [`storage/${INBOX}/u.2`, `${SECOND}/${INBOX}/u.2`]
      const bytes = isMoved ? await subject.alt.readFile(second) : await subject.primary.readFile(first)
      await subject.primary.writeFile(first, bytes)
      await subject.alt.writeFile(second, bytes)
      expect(await subject.told()).toEqual(['alt/inbox/u.1', 'inbox/u.2', 'inbox/u.3'])
      const bad = Uint8Array.from(bytes)
      bad[500]! ^= 1
      await subject.primary.writeFile(first, bad)
      const format = sdbox(subject.primary, 'storage', { alt: { fs: subject.alt, path: SECOND } })
      {
        await using box = await format.open(memoryTable(COLUMNS).process().host)
        const scanned = (await Array.fromAsync(box.scan())).flat().filter(({ file }) => file.endsWith('u.2'))
        expect(scanned.map(({ file, damage }) => [file.slice(0, 4), damage === undefined])).toEqual([
          [INBOX.slice(0, 4), false],
          ['alt/', true],
        ])
      }
      await subject.reopen()
      expect((await readAll(subject.box, refs[1]!)).equals(subject.bodies.get(refs[1]!)!)).toBe(true)
      await subject.primary.writeFile(first, bytes)
      await subject.box.purge()
      await subject.expectAll()
      expect(await namesIn(subject.primary, 'storage')).toEqual(isMoved ? ['inbox/u.3'] : ['inbox/u.2', 'inbox/u.3'])
      expect(await namesIn(subject.alt, SECOND)).toEqual(isMoved ? ['inbox/u.1', 'inbox/u.2'] : ['inbox/u.1'])
      // One that is expunged is so in both.
      await subject.alt.writeFile(second, bytes)
      await subject.primary.writeFile(first, bytes)
      await subject.proc.mail.expunge(subject.box, INBOX, [2])
      expect(await subject.told()).toEqual(['alt/inbox/u.1', 'inbox/u.3'])
      await subject.box.purge()
      expect(await namesIn(subject.alt, SECOND)).toEqual(['inbox/u.1'])
      expect(await namesIn(subject.primary, 'storage')).toEqual(['inbox/u.3'])
    }
  })

  test('the empty name of an expunged message is no damaged file, though the row does not know that it was moved', async () => {
    await using subject = await Subject.create()
    const [ref] = await subject.save(1)
    await subject.primary.remove(`storage/${INBOX}/u.1`)
    await subject.primary.writeFile(`storage/${INBOX}/x.1`, new Uint8Array(0))
    const found = (await Array.fromAsync(subject.box.check())).flat()
    expect(found.filter(({ severity }) => severity === 'damage').map((one) => [one.kind, one.ref])).toEqual([
      ['file-missing', ref],
    ])
  })

  test('with a budget: what is left is said', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(10)
    expect(await subject.box.altmove!(refs, { to: 'alt', copyMaxBytes: 7000 })).toMatchObject({ messages: 3, left: 7 })
    expect(await subject.box.altmove!(refs, { to: 'alt' })).toMatchObject({ messages: 7, left: 0 })
    await subject.expectAll()
  })

  test('a message that somebody else moved, as Dovecot does, is found in the other tier', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(2)
    await subject.box.altmove!(refs.slice(0, 1), { to: 'alt' })
    const path = `${INBOX}/u.2`
    await subject.alt.writeFile(`${SECOND}/${path}`, await subject.primary.readFile(`storage/${path}`))
    await subject.primary.remove(`storage/${path}`)
    await subject.reopen()
    await subject.expectAll()
    await subject.reopen(failing('FS_UNAVAILABLE'))
    await expect(readAll(subject.box, refs[1]!)).rejects.toSatisfy(isOutage)
  })
})

/** Each call goes to what `now` says. */
function switching(like: Fs, now: () => Fs): Fs {
  return {
    ...like,
    stat: async (path) => now().stat(path),
    open: async (path, mode) => now().open(path, mode),
    readFile: async (path, options) => now().readFile(path, options),
    writeFile: async (path, data, options) => now().writeFile(path, data, options),
    link: async (from, to) => now().link(from, to),
    list: (directory) => now().list(directory),
    makeDirectory: async (path) => now().makeDirectory(path),
    remove: async (path) => now().remove(path),
    syncDirectory: async (path) => now().syncDirectory(path),
  }
}
