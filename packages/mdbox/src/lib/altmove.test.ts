import { randomBytes } from 'node:crypto'
import { type Box, BoxError, type BoxHost, type BoxRef } from '@mailstead/box'
import { type MemoryProcess, type MemoryTable, memoryTable } from '@mailstead/box/testing'
import { type Fs, FsError } from '@mailstead/fs'
import { type Fault, faultyFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { describe, expect, test } from 'vitest'
import { mdbox } from './mdbox.ts'
import type { MdboxOptions } from './options.ts'
import { COLUMNS, FLAG_ALT } from './place.ts'
import { ALT_MARKER, readMarker, TIER_RECORD, writeMarker } from './tier-record.ts'

/** Two tiers on file systems of their own, and one process. */
class Subject implements AsyncDisposable {
  readonly primary: Fs = memoryFs()
  readonly alt: Fs = memoryFs()
  /** What is mounted where the second tier is. */
  mounted: Fs = this.alt
  readonly table: MemoryTable = memoryTable(COLUMNS)
  readonly proc: MemoryProcess = this.table.process()
  readonly bodies: Map<BoxRef, Buffer> = new Map()
  readonly options: MdboxOptions
  box!: Box

  constructor(options: MdboxOptions = {}) {
    this.options = options
  }
  static async create(options: MdboxOptions = {}): Promise<Subject> {
    const subject = new Subject(options)
    await subject.reopen()
    return subject
  }

  /** A box of `proc` on what is mounted now. */
  async open(proc: MemoryProcess = this.proc, primary: Fs = this.primary): Promise<Box> {
    const alt = { fs: kept(this.mounted), path: 'second/alt' }
    return mdbox(primary, 'storage', { rotateBytes: 10_000, alt, ...this.options }).open(proc.host)
  }
  async reopen(): Promise<void> {
    await this.box?.[Symbol.asyncDispose]()
    this.box = await this.open()
  }
  /** As if nothing was ever mounted there. */
  async unmount(): Promise<void> {
    this.mounted = memoryFs()
    await this.reopen()
  }
  async mount(): Promise<void> {
    this.mounted = this.alt
    await this.reopen()
  }

  async save(count: number, bytes = 2000): Promise<BoxRef[]> {
    await using batch = this.box.begin()
    const saved = []
    const bodies = Array.from({ length: count }, () => randomBytes(bytes))
    for (const body of bodies) saved.push(await batch.save(body, { guid: randomBytes(16), receivedMs: 0 }))
    await batch.flush()
    const refs = await this.proc.keep(...saved)
    for (const [i, ref] of refs.entries()) this.bodies.set(ref, bodies[i]!)
    return refs
  }
  async drop(refs: readonly BoxRef[]): Promise<void> {
    await this.proc.setUses(refs, 0)
    for (const ref of refs) this.bodies.delete(ref)
  }
  /** Where the rows say the messages are. */
  inAlt(refs: readonly BoxRef[]): boolean[] {
    const { view } = this.proc.host.table
    return refs.map((ref) => (view.extension('flags')!.number(view.rowOf(ref)) & FLAG_ALT) !== 0)
  }
  async expectAll(box: Box = this.box): Promise<void> {
    for (const [ref, body] of this.bodies) {
      expect((await readAll(box, ref)).equals(body), `message ${ref}`).toBe(true)
      using sync = box.openSync?.(ref)
      if (sync?.whole !== undefined) expect(Buffer.from(sync.whole).equals(body)).toBe(true)
    }
    expect(await damages(box)).toEqual([])
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.box[Symbol.asyncDispose]()
  }
}

/** Stays open for the next. */
function kept(fs: Fs): Fs {
  return { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() }
}

async function readAll(box: Box, ref: BoxRef): Promise<Buffer> {
  await using message = await box.open(ref)
  const into = Buffer.alloc(message.physicalSize)
  expect(await message.read(into, 0)).toBe(into.length)
  return into
}

async function damages(box: Box): Promise<string[]> {
  const found = (await Array.fromAsync(box.check())).flat()
  return found.filter(({ severity }) => severity === 'damage').map(({ kind, message }) => `${kind}: ${message}`)
}

const refsOf = (refs: readonly BoxRef[]): Uint32Array => Uint32Array.from(refs)

async function namesIn(fs: Fs, directory: string): Promise<string[]> {
  return (await Array.fromAsync(fs.list(directory)))
    .flat()
    .map(({ name }) => name)
    .filter((name) => name.startsWith('m.'))
    .sort()
}

async function snapshot(fs: Fs): Promise<string> {
  const lines: string[] = []
  const walk = async (directory: string): Promise<void> => {
    for await (const page of fs.list(directory))
      for (const { name, kind } of page) {
        const path = directory === '' ? name : `${directory}/${name}`
        if (kind === 'directory') await walk(path)
        else if (!name.endsWith('.lock'))
          lines.push(`${path} ${Buffer.from(await fs.readFile(path)).toString('base64')}`)
      }
  }
  await walk('')
  return lines.sort().join('\n')
}

describe('altmove', () => {
  test('there and back: every byte is the same, nothing is left behind, and purge works in both tiers', async () => {
    await using subject = await Subject.create({ compression: 'auto' })
    const refs = await subject.save(40)
    const [large] = await subject.save(1, 1_500_000)
    const old = [...refs.filter((_, i) => i % 2 === 0), large!]
    const there = await subject.box.altmove!(refsOf(old), { to: 'alt' })
    expect(there).toMatchObject({ messages: 21, damaged: 0, left: 0 })
    expect(there.bytes).toBeGreaterThan(1_540_000)
    expect(there.bytesReclaimed).toBeGreaterThan(1_540_000)
    expect(subject.inAlt(old).every(Boolean)).toBe(true)
    expect(subject.inAlt(refs.filter((_, i) => i % 2 === 1)).some(Boolean)).toBe(false)
    await subject.expectAll()
    await subject.reopen()
    await subject.expectAll()
    // They are there already, and others nowhere.
    expect(await subject.box.altmove!(refsOf([...old, 99_999]), { to: 'alt' })).toMatchObject({ messages: 0, bytes: 0 })

    const files = await namesIn(subject.alt, 'second/alt')
    expect(files.length).toBeGreaterThan(1)
    await subject.drop(old.slice(0, 12))
    const purged = await subject.box.purge()
    expect(purged).toMatchObject({ messages: 12, skipped: 0 })
    expect(purged.unavailable).toBeUndefined()
    await subject.expectAll()
    expect(subject.inAlt(old.slice(12)).every(Boolean)).toBe(true)
    expect(await namesIn(subject.alt, 'second/alt')).not.toEqual(files)

    expect(await subject.box.altmove!(refsOf(old), { to: 'primary' })).toMatchObject({ messages: 9, left: 0 })
    expect(subject.inAlt(old.slice(12)).some(Boolean)).toBe(false)
    await subject.expectAll()
    expect(await namesIn(subject.alt, 'second/alt')).toEqual([])
    // Nothing of it is needed any more: it is given up.
    await subject.unmount()
    for (const [ref, body] of subject.bodies) expect((await readAll(subject.box, ref)).equals(body)).toBe(true)
    await subject.primary.remove(`storage/${TIER_RECORD}`)
    await subject.expectAll()
  })

  test('space is given back on the way', async () => {
    await using subject = await Subject.create({ rotateBytes: 100_000 })
    const refs = await subject.save(150, 120_000)
    let most = 0
    const inner = subject.proc.host
    await subject.box[Symbol.asyncDispose]()
    const host = {
      ...inner,
      table: inner.table,
      transact: async (body: Parameters<BoxHost['transact']>[0]) => {
        await inner.transact(body)
        most = Math.max(most, inner.table.view.values?.get('condemned')?.length ?? 0)
      },
    }
    const alt = { fs: kept(subject.alt), path: 'second/alt' }
    subject.box = await mdbox(subject.primary, 'storage', { rotateBytes: 100_000, alt }).open(host)
    const report = await subject.box.altmove!(refsOf(refs), { to: 'alt' })
    expect(report).toMatchObject({ messages: 150, left: 0 })
    expect(report.bytesReclaimed).toBeGreaterThan(150 * 120_000)
    expect(most / 4).toBeLessThan(60)
    expect(await namesIn(subject.primary, 'storage')).toEqual([])
    await subject.expectAll()
  })

  test('with a budget: what was begun is finished, and what is left is said', async () => {
    await using subject = await Subject.create({ pause: () => Promise.resolve() })
    const refs = await subject.save(30)
    const report = await subject.box.altmove!(refsOf(refs), { to: 'alt', copyMaxBytes: 9000 })
    expect(report).toMatchObject({ messages: 4, left: 26 })
    const stopped = await subject.box.altmove!(refsOf(refs), { to: 'alt', signal: AbortSignal.abort() })
    expect(stopped).toMatchObject({ messages: 0, left: 26 })
    expect(await subject.box.altmove!(refsOf(refs), { to: 'alt' })).toMatchObject({ messages: 26, left: 0 })
    await subject.expectAll()
  })

  test('a tier that is away is unavailable: nothing is empty, damaged, condemned or changed', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(20)
    const old = refs.slice(0, 10)
    await subject.box.altmove!(refsOf(old), { to: 'alt' })
    await subject.drop([...old.slice(7), ...refs.slice(10, 18)])
    const aways: readonly (readonly [string, () => Fs])[] = [
      ['an empty mount point', () => memoryFs()],
      ['a file system that fails', () => failing('FS_UNAVAILABLE')],
      ['input and output errors', () => failing('EIO')],
    ]
    for (const [name, away] of aways) {
      subject.mounted = away()
      await subject.reopen()
      const before = await snapshot(subject.alt)
      const rows = [...subject.inAlt(old)]
      await expect(readAll(subject.box, old[1]!), name).rejects.toSatisfy(isOutage)
      expect(subject.box.openSync!(old[1]!), name).toBeUndefined()
      await expect(subject.box.altmove!(refsOf(old), { to: 'primary' }), name).rejects.toSatisfy(isOutage)
      await expect(subject.box.altmove!(refsOf(refs), { to: 'alt' }), name).rejects.toSatisfy(isOutage)
      await expect(Array.fromAsync(subject.box.scan()), name).rejects.toSatisfy(isOutage)
      await expect(damages(subject.box), name).rejects.toSatisfy(isOutage)
      const purged = await subject.box.purge()
      expect(purged.unavailable, name).toSatisfy(isOutage)
      expect((await readAll(subject.box, refs[19]!)).equals(subject.bodies.get(refs[19]!)!)).toBe(true)
      expect(subject.inAlt(old), name).toEqual(rows)
      expect(await snapshot(subject.alt), name).toBe(before)
      expect(await namesIn(subject.mounted, 'second/alt').catch(() => []), name).toEqual([])
    }
    // Without the option there is no tier to look at, and still nothing is lost.
    subject.box[Symbol.asyncDispose]()
    await using without = await mdbox(subject.primary, 'storage').open(subject.proc.host)
    await expect(readAll(without, old[1]!)).rejects.toSatisfy(isOutage)
    expect((await without.purge()).unavailable).toSatisfy(isOutage)
    await without[Symbol.asyncDispose]()
    await subject.mount()
    await subject.expectAll()
    expect((await subject.box.purge()).messages).toBe(3)
    await subject.expectAll()
  })

  test('what waits to be removed in a tier that is away is removed when it is back', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(3)
    await subject.box.altmove!(refsOf(refs), { to: 'alt' })
    const [file] = await namesIn(subject.alt, 'second/alt')
    const marked = await subject.alt.readFile(`second/alt/${file}`)
    await subject.box.altmove!(refsOf(refs), { to: 'primary' })
    // As a crash leaves it: the file is back, and written down.
    await subject.alt.writeFile(`second/alt/${file}`, marked)
    const id = Number(file!.slice(2))
    await subject.proc.commit((tx) => tx.setValue?.('box', 'condemned', Uint8Array.of(id, 0, 0, 0)))
    subject.mounted = failing('FS_UNAVAILABLE')
    await subject.reopen()
    await subject.drop([refs[0]!])
    await subject.box.purge()
    expect(subject.proc.host.table.view.values?.get('condemned')).toEqual(Uint8Array.of(id, 0, 0, 0))
    await subject.mount()
    expect(await subject.box.purge()).toMatchObject({ files: 1 })
    expect(await namesIn(subject.alt, 'second/alt')).toEqual([])
    expect(subject.proc.host.table.view.values?.get('condemned')).toBeUndefined()
  })

  test('another box is not taken for this one', async () => {
    await using one = await Subject.create()
    await using two = await Subject.create()
    await one.box.altmove!(refsOf(await one.save(2)), { to: 'alt' })
    const refs = await two.save(2)
    await two.box.altmove!(refsOf(refs), { to: 'alt' })
    two.mounted = one.alt
    await two.reopen()
    await expect(readAll(two.box, refs[0]!)).rejects.toSatisfy(isOutage)
    expect((await two.box.purge()).unavailable).toSatisfy(isOutage)
    // Nor by a box that has nothing anywhere else yet.
    await using three = await Subject.create()
    three.mounted = one.alt
    await three.reopen()
    const before = await snapshot(one.alt)
    await expect(three.box.altmove!(refsOf(await three.save(2)), { to: 'alt' })).rejects.toSatisfy(isOutage)
    expect(await snapshot(one.alt)).toBe(before)
  })

  test('a tier that goes away in the middle keeps its messages where they were', async () => {
    let checked = 0
    for (let at = 1; at < 40; at++) {
      await using subject = await Subject.create({ rotateBytes: 3000 })
      const refs = await subject.save(8)
      // A tier that was never used is no other than a bare mount point: what keeps them apart is the root that it lies in.
      await subject.box.altmove!(refsOf(refs.slice(0, 1)), { to: 'alt' })
      // From the at-th operation on there is a bare mount point.
      const bare = memoryFs()
      let left = at
      subject.mounted = switching(subject.alt, () => (left-- > 0 ? subject.alt : bare))
      await subject.reopen()
      let failed = false
      try {
        await subject.box.altmove!(refsOf(refs), { to: 'alt' })
      } catch (error) {
        if (!isOutage(error) && !(error instanceof BoxError)) throw error
        failed = true
      }
      await subject.mount()
      await subject.expectAll()
      checked++
      if (!failed && left > 0) break
    }
    expect(checked).toBeGreaterThan(5)
    console.log(`the second tier taken away at ${checked} operations`)
  })

  test('every operation of either tier fails once: nothing is lost, and the next altmove does it', async () => {
    let faults = 0
    for (const which of ['primary', 'alt'] as const)
      for (const to of ['alt', 'primary'] as const) {
        const prepared = async (): Promise<{ subject: Subject; refs: BoxRef[] }> => {
          const subject = await Subject.create({ rotateBytes: 6000 })
          const refs = await subject.save(6)
          if (to === 'primary') await subject.box.altmove!(refsOf(refs), { to: 'alt' })
          return { subject, refs }
        }
        for (let nth = 1; ; nth++) {
          const { subject, refs } = await prepared()
          await using _ = subject
          let count = 0
          const faulty = faultyFs(which === 'primary' ? subject.primary : subject.alt, {
            fail: () => (++count === nth ? 'FS_IO' : undefined),
          })
          await subject.box[Symbol.asyncDispose]()
          if (which === 'alt') subject.mounted = faulty
          subject.box = await subject.open(subject.proc, which === 'primary' ? faulty : subject.primary)
          await subject.box.altmove!(refsOf(refs), { to }).catch((error: unknown) => {
            if (!(error instanceof FsError || error instanceof BoxError)) throw error
          })
          await subject.mount()
          await subject.expectAll()
          await subject.box.altmove!(refsOf(refs), { to })
          await subject.expectAll()
          expect(new Set(subject.inAlt(refs))).toEqual(new Set([to === 'alt']))
          faults++
          if (count < nth) break
        }
      }
    console.log(`${faults} faults in altmoves, nothing lost`)
  })

  test('beside another process that appends, expunges and purges', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(30)
    const other = subject.table.process()
    await using mover = await subject.open(other)
    // The messages are in files of the first process, which it goes on with.
    const moving = mover.altmove!(refsOf(refs.slice(0, 20)), { to: 'alt' })
    await subject.save(5)
    await subject.drop(refs.slice(0, 4))
    const [purged] = await Promise.all([subject.box.purge(), moving])
    expect(purged.messages).toBeGreaterThanOrEqual(0)
    await subject.proc.host.refresh()
    await subject.expectAll()
    await other.host.refresh()
    await subject.expectAll(mover)
    await mover.altmove!(refsOf(refs), { to: 'alt' })
    await subject.proc.host.refresh()
    await subject.box.purge()
    await subject.expectAll()
    expect(subject.inAlt(refs.slice(4)).every(Boolean)).toBe(true)
  })

  test('two processes that copy the same messages at once take turns: one copy is made of each', async () => {
    await using subject = await Subject.create({ purgeShare: 0.1 })
    const refs = await subject.save(20)
    await subject.drop(refs.slice(0, 10))
    await subject.reopen()
    const proc = subject.table.process()
    await using other = await subject.open(proc)
    const host = subject.proc.host as { transact: BoxHost['transact'] }
    const transact = host.transact.bind(host)
    let moving: Promise<unknown> | undefined
    host.transact = async (body) => {
      // The purge has copied what is alive, and not said so yet.
      if (moving === undefined) {
        moving = other.altmove!(refsOf(refs.slice(10)), { to: 'alt' })
        // It comes as far as it can before this one goes on.
        for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve))
      }
      await transact(body)
    }
    await subject.box.purge()
    host.transact = transact
    await moving
    await subject.proc.host.refresh()
    await subject.expectAll()
    expect(subject.inAlt(refs.slice(10))).toEqual(Array(10).fill(true))
    const scanned = (await Array.fromAsync(subject.box.scan())).flat()
    expect(scanned.filter(({ expunged }) => expunged !== true)).toHaveLength(10)
  })

  test('a message that is dropped while it is moved stays dropped, and the others move', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(6)
    await subject.box.altmove!(refsOf(refs.slice(0, 1)), { to: 'alt' })
    let once = true
    subject.table.onTransact = () => {
      if (!once) return
      once = false
      subject.bodies.delete(refs[2]!)
      const other = subject.table.process()
      void other.setUses([refs[2]!], 0)
      void other.commit((tx) => tx.dropUnused('box', [refs[2]!]))
      throw new Error('conflict')
    }
    expect(await subject.box.altmove!(refsOf(refs.slice(1)), { to: 'alt' })).toMatchObject({ messages: 4 })
    subject.table.onTransact = () => {
      throw new Error('no commit')
    }
    await expect(subject.box.altmove!(refsOf(refs), { to: 'primary' })).rejects.toThrow('no commit')
    subject.table.onTransact = undefined
    await subject.expectAll()
  })

  test('a damaged message stays where it is, and its neighbours move', async () => {
    await using subject = await Subject.create()
    const refs = await subject.save(4)
    const { view } = subject.proc.host.table
    const at = view.extension('offset')!.number(view.rowOf(refs[1]!)) + 100
    {
      await using file = await subject.primary.open('storage/m.1', 'write')
      await file.write(Uint8Array.of(1, 2, 3, 4), at)
    }
    subject.bodies.delete(refs[1]!)
    const report = await subject.box.altmove!(refsOf(refs), { to: 'alt' })
    expect(report).toMatchObject({ messages: 3, damaged: 1, left: 0 })
    expect(subject.inAlt(refs)).toEqual([true, false, true, true])
    for (const [ref, body] of subject.bodies) expect((await readAll(subject.box, ref)).equals(body)).toBe(true)
    await expect(readAll(subject.box, refs[1]!)).rejects.toMatchObject({ code: 'BOX_CORRUPT' })
    // Damage in the second tier is damage, since the tier is there.
    const [name] = await namesIn(subject.alt, 'second/alt')
    await subject.alt.writeFile(`second/alt/${name}`, Buffer.from('2 M1e C0\n'))
    await subject.reopen()
    await expect(readAll(subject.box, refs[0]!)).rejects.toMatchObject({ code: 'BOX_DAMAGED', file: `alt/${name}` })
    await subject.alt.remove(`second/alt/${name}`)
    await subject.reopen()
    await expect(readAll(subject.box, refs[0]!)).rejects.toMatchObject({ code: 'BOX_DAMAGED', file: `alt/${name}` })
    expect((await damages(subject.box)).length).toBe(4)
  })

  test('a file that somebody moved to the other tier is read there', async () => {
    await using subject = await Subject.create()
    const first = await subject.save(2)
    await subject.box.altmove!(refsOf(first), { to: 'alt' })
    const refs = await subject.save(3)
    const { view } = subject.proc.host.table
    const name = `m.${view.extension('file')!.number(view.rowOf(refs[0]!))}`
    await subject.alt.writeFile(`second/alt/${name}`, await subject.primary.readFile(`storage/${name}`))
    await subject.primary.remove(`storage/${name}`)
    await subject.reopen()
    await subject.expectAll()
    const notes = (await Array.fromAsync(subject.box.check())).flat().map(({ kind }) => kind)
    expect(notes).toContain('file-elsewhere')
    // It may be there, as far as anybody knows.
    await subject.unmount()
    await expect(readAll(subject.box, refs[0]!)).rejects.toSatisfy(isOutage)
    const found: string[] = []
    await expect(
      (async () => {
        for await (const page of subject.box.check()) found.push(...page.map(({ severity }) => severity))
      })(),
    ).rejects.toSatisfy(isOutage)
    expect(found).not.toContain('damage')
  })

  test('a tier that goes away while it is checked, scanned or purged is not damaged', async () => {
    for (const pass of ['check', 'scan', 'purge'] as const) {
      let outages = 0
      for (let at = 1; at < 60; at++) {
        await using subject = await Subject.create({ rotateBytes: 3000 })
        const refs = await subject.save(6)
        await subject.box.altmove!(refsOf(refs), { to: 'alt' })
        await subject.drop(refs.slice(0, 2))
        const before = await snapshot(subject.alt)
        let left = at
        const bare = memoryFs()
        subject.mounted = switching(subject.alt, () => (left-- > 0 ? subject.alt : bare))
        await subject.reopen()
        try {
          if (pass === 'check') expect(await damages(subject.box)).toEqual([])
          else if (pass === 'scan') expect((await Array.fromAsync(subject.box.scan())).flat().length).toBeGreaterThan(5)
          else if ((await subject.box.purge()).unavailable !== undefined) outages++
        } catch (error) {
          // A purge may meet it where it writes, or flushes what is no directory any more.
          const written = error instanceof FsError || (error as BoxError).code === 'BOX_WRITE_FAILED'
          if (!isOutage(error) && !(pass === 'purge' && written)) throw error
          outages++
        }
        if (pass !== 'purge') expect(await snapshot(subject.alt)).toBe(before)
        await subject.mount()
        await subject.expectAll()
        if (left > 0) break
      }
      expect(outages, pass).toBeGreaterThan(3)
    }
  })

  test('every byte of the second tier: what is flipped is found by name, and refused', async () => {
    await using subject = await Subject.create({ compression: 3 })
    const [one] = await subject.save(1, 100)
    await subject.box.altmove!(refsOf([one!]), { to: 'alt' })
    const [name] = await namesIn(subject.alt, 'second/alt')
    const good = await subject.alt.readFile(`second/alt/${name}`)
    for (let at = 0; at < good.length; at++) {
      const bad = Uint8Array.from(good)
      bad[at]! ^= 1 << (at % 8)
      await subject.alt.writeFile(`second/alt/${name}`, bad)
      await subject.reopen()
      const found = (await Array.fromAsync(subject.box.check())).flat().filter(({ severity }) => severity === 'damage')
      expect(
        found.map(({ file }) => file),
        `byte ${at}`,
      ).toContain(`alt/${name}`)
      const body = await readAll(subject.box, one!).catch((error: unknown) => error)
      if (Buffer.isBuffer(body)) expect(body.equals(subject.bodies.get(one!)!)).toBe(true)
      else expect(body).toBeInstanceOf(BoxError)
    }
    console.log(`${good.length} flipped bits in the second tier, all found`)
  })

  test('a box whose mail is all in the second tier is not empty, whatever became of its index', async () => {
    await using subject = await Subject.create()
    const has = async (fs: Fs = subject.alt): Promise<boolean> =>
      mdbox(subject.primary, 'storage', { alt: { fs: kept(fs), path: 'second/alt' } }).hasMessages!()
    // Nothing was ever there: then the second tier may be away.
    expect(await has(failing('FS_UNAVAILABLE'))).toBe(false)
    await subject.box.altmove!(refsOf(await subject.save(3)), { to: 'alt' })
    expect(await namesIn(subject.primary, 'storage')).toEqual([])
    expect(await has()).toBe(true)
    expect(await mdbox(subject.primary, 'storage').hasMessages!()).toBe(true)
    expect(await has(failing('FS_UNAVAILABLE'))).toBe(true)
  })

  test('closing ends what pauses: the frame under way is finished, the rest is left', async () => {
    const paused = Promise.withResolvers<void>()
    await using subject = await Subject.create({
      pause: async (_, signal) => {
        paused.resolve()
        await new Promise((resolve) => signal!.addEventListener('abort', resolve))
      },
    })
    const refs = await subject.save(2, 3_000_000)
    const moving = subject.box.altmove!(refsOf(refs), { to: 'alt', bytesPerSecond: 1000 })
    await paused.promise
    await subject.box[Symbol.asyncDispose]()
    expect((await moving).messages).toBeGreaterThan(0)
    await subject.reopen()
    await subject.expectAll()
  })

  test('the marker: no bit of it may be another, and it is written once', async () => {
    const uuid = randomBytes(16)
    const marker = writeMarker(uuid)
    expect(Buffer.from(readMarker(marker)!)).toEqual(uuid)
    for (let bit = 0; bit < 8 * marker.length; bit++) {
      const bad = Buffer.from(marker)
      bad[bit >> 3]! ^= 1 << (bit & 7)
      expect(readMarker(bad), `bit ${bit}`).toBeUndefined()
    }
    await using subject = await Subject.create()
    const refs = await subject.save(2)
    await subject.box.altmove!(refsOf(refs), { to: 'alt' })
    const written = await subject.alt.readFile(`second/alt/${ALT_MARKER}`)
    await subject.alt.writeFile(`second/alt/${ALT_MARKER}`, Buffer.from('garbage'))
    await subject.reopen()
    await expect(readAll(subject.box, refs[0]!)).rejects.toSatisfy(isOutage)
    await subject.alt.writeFile(`second/alt/${ALT_MARKER}`, written)
    await subject.reopen()
    await subject.expectAll()
  })
})

function isOutage(error: unknown): boolean {
  return error instanceof FsError && (error.code === 'FS_UNAVAILABLE' || error.code === 'FS_IO')
}

/** Everything fails. */
function failing(fault: Fault): Fs {
  return faultyFs(memoryFs(), { fail: () => fault })
}

/** Each call goes to what `now` says. */
function switching(like: Fs, now: () => Fs): Fs {
  return {
    ...like,
    stat: async (path) => now().stat(path),
    open: async (path, mode) => now().open(path, mode),
    readFile: async (path, options) => now().readFile(path, options),
    writeFile: async (path, data, options) => now().writeFile(path, data, options),
    list: (directory) => now().list(directory),
    makeDirectory: async (path) => now().makeDirectory(path),
    remove: async (path) => now().remove(path),
    syncDirectory: async (path) => now().syncDirectory(path),
  }
}
