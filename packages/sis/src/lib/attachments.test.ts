/** Attachments of a store of mail: messages in, segments and references, messages out; drops, repairs and restores. The journal plays the index. */
import { randomBytes } from 'node:crypto'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { expect, test } from 'vitest'
import type { BlobTurns } from './blob-store.ts'
import { attachments, type SisAttachmentStore, type SisMessage } from './attachments.ts'
import { Journal } from './journal.ts'

const DAY = 24 * 60 * 60 * 1000

interface World {
  readonly fs: Fs
  readonly clock: { ms: number }
  readonly journal: Journal
  readonly store: SisAttachmentStore
}
interface Mail {
  readonly whole: Buffer
  readonly inline: Buffer
  readonly segments: Uint8Array | undefined
}

async function open(fs: Fs, index: string, shared = false, turns?: BlobTurns): Promise<World> {
  const clock = { ms: 1_700_000_000_000 }
  const random = (bytes: Uint8Array): void => bytes.set(randomBytes(bytes.length))
  const options = { create: true, salvage: false, lost: false, lockWaitMs: 1000, random }
  const journal = await Journal.open(fs, index, options)
  const store = await attachments(fs, 'blobs', {
    create: true,
    shared,
    minSize: 1000,
    now: () => clock.ms,
    ...(turns === undefined ? {} : { turns }),
  }).open(journal)
  return { fs, clock, journal, store }
}

function mailWith(...parts: readonly Buffer[]): Buffer {
  const encoded = parts.map(
    (part) =>
      `--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n${part.toString('base64').replace(/.{76}/g, '$&\r\n')}\r\n`,
  )
  return Buffer.from(`Content-Type: multipart/mixed; boundary=b\r\n\r\n${encoded.join('')}--b--\r\n`)
}

async function save({ store, journal }: World, ...messages: readonly Buffer[]): Promise<Mail[]> {
  await using batch = store.begin()
  const saved: { readonly message: SisMessage; readonly mail: Mail }[] = []
  for (const whole of messages) {
    const inline: Buffer[] = []
    const message = batch.message((bytes) => void inline.push(Buffer.from(bytes)))
    await message.write(whole)
    const segments = await message.end()
    saved.push({ message, mail: { whole, inline: Buffer.concat(inline), segments } })
  }
  await batch.flush()
  await journal.transact((tx) => {
    for (const { message } of saved) message.record(tx)
  })
  return saved.map(({ mail }) => mail)
}

async function read({ store }: World, { whole, inline, segments }: Mail): Promise<boolean> {
  await using reader = await store.open(segments!, {
    size: inline.length,
    read: async (into, position) => inline.copy(into, 0, position),
  })
  const bytes = Buffer.alloc(reader.size)
  await reader.read(bytes, 0)
  return bytes.equals(whole)
}

async function* segmentsOf(mails: readonly Mail[]): AsyncGenerator<readonly Uint8Array[]> {
  yield mails.flatMap(({ segments }) => (segments === undefined ? [] : [segments]))
}
async function kinds({ store }: World, mails: readonly Mail[]): Promise<string[]> {
  return (await Array.fromAsync(store.check(segmentsOf(mails)))).flat().map(({ kind }) => kind)
}
async function copyTree(from: Fs, to: Fs, path: string): Promise<void> {
  for await (const page of from.list(path))
    for (const { name, kind } of page)
      if (kind === 'directory') await copyTree(from, to, `${path}/${name}`)
      else await to.writeFile(`${path}/${name}`, (await from.readFile(`${path}/${name}`)).slice())
}

test.each([false, true])(
  'messages with equal parts come back as they were, and their parts are kept once (shared %s)',
  async (shared) => {
    const world = await open(memoryFs(), 'index', shared)
    const [one, two] = [randomBytes(50_000), randomBytes(20_000)]
    const mails = await save(
      world,
      mailWith(one),
      mailWith(one, two),
      mailWith(two, two, one),
      Buffer.from('To: me\r\n\r\nhi\r\n'),
    )
    expect(mails[3]!.segments).toBeUndefined()
    for (const mail of mails.slice(0, 3)) expect(await read(world, mail)).toBe(true)
    expect(await world.store.stats()).toMatchObject({ blobs: 2, references: 6, logicalBytes: 3 * 50_000 + 3 * 20_000 })
    expect(await kinds(world, mails)).toEqual([])
  },
)

test('parts go when the last message that has them went', async () => {
  const world = await open(memoryFs(), 'index')
  const [first, second] = (await save(world, mailWith(randomBytes(5000)), mailWith(randomBytes(5000)))) as [Mail, Mail]
  const drop = await world.store.drop([first.segments!, Buffer.from('no segments')])
  await world.journal.transact((tx) => drop.record(tx))
  for (let n = 0; n < 4; n++) {
    world.clock.ms += DAY
    await world.store.sweep()
  }
  await expect(read(world, first)).rejects.toMatchObject({ attachment: 'absent' })
  expect(await read(world, second)).toBe(true)
  expect(await kinds(world, [second])).toEqual([])
})

test('a batch that no transaction recorded leaves no file', async () => {
  const world = await open(memoryFs(), 'index')
  {
    await using batch = world.store.begin()
    const message = batch.message(() => {})
    await message.write(mailWith(randomBytes(5000)))
    expect(await message.end()).toBeDefined()
    await batch.flush()
  }
  for await (const page of world.fs.list('blobs'))
    for (const { name, kind } of page)
      if (kind === 'directory') expect(await Array.fromAsync(world.fs.list(`blobs/${name}`))).toEqual([])
})

test('one store of two that share a directory gives up its holds, and the other still reads', async () => {
  const fs = memoryFs()
  const one = await open(fs, 'one', true)
  const two = await open(fs, 'two', true)
  const mail = mailWith(randomBytes(30_000))
  const [mine] = (await save(one, mail)) as [Mail]
  const [theirs] = (await save(two, mail)) as [Mail]
  const drop = await one.store.drop([mine.segments!])
  await one.journal.transact((tx) => drop.record(tx))
  for (let n = 0; n < 4; n++)
    for (const world of [one, two]) {
      world.clock.ms += DAY
      await world.store.sweep()
    }
  expect(await read(two, theirs)).toBe(true)
  const again = await two.store.drop([theirs.segments!])
  await two.journal.transact((tx) => again.record(tx))
  let removed = 0
  for (let n = 0; n < 4; n++) {
    two.clock.ms += DAY
    removed += (await two.store.sweep()).blobs
  }
  expect(removed).toBe(1)
})

test('after a restore of mixed ages every reference resolves or is named', async () => {
  const world = await open(memoryFs(), 'index')
  const parts = [randomBytes(5000), randomBytes(6000), randomBytes(7000)] as const
  const early = await save(world, mailWith(parts[0]), mailWith(parts[1]))
  // Files are of an earlier backup than the index and the messages.
  const restored = memoryFs()
  await copyTree(world.fs, restored, 'blobs')
  const late = await save(world, mailWith(parts[0]), mailWith(parts[2]))
  await copyTree(world.fs, restored, 'index')
  const after = await open(restored, 'index')
  const mails = [...early, ...late]
  expect(await kinds(after, mails)).toEqual(['blob-missing'])
  for (const mail of [...early, late[0]!]) expect(await read(after, mail)).toBe(true)
  await expect(read(after, late[1]!)).rejects.toMatchObject({ attachment: 'absent' })
  // The same bytes come again: what names them is whole.
  await save(after, mailWith(parts[2]))
  expect(await read(after, late[1]!)).toBe(true)

  // An index of an earlier backup than files and messages.
  const older = memoryFs()
  await copyTree(world.fs, older, 'blobs')
  const behind = await open(older, 'index')
  expect(await kinds(behind, mails)).toEqual(['row-missing', 'row-missing', 'row-missing'])
  await behind.store.repair(segmentsOf(mails))
  expect(await kinds(behind, mails)).toEqual([])
  for (let n = 0; n < 4; n++) {
    behind.clock.ms += DAY
    await behind.store.sweep()
  }
  for (const mail of mails) expect(await read(behind, mail)).toBe(true)
})

test('equal bytes that come for several stores of a directory at the same time are written once, by turns', async () => {
  const parts = [randomBytes(50_000), randomBytes(60_000)]
  for (const turns of [new Map() as BlobTurns, undefined]) {
    await using fs = memoryFs()
    const worlds: World[] = []
    for (const index of ['a', 'b', 'c', 'd']) worlds.push(await open(fs, index, true, turns))
    const mails = await Promise.all(worlds.map(async (world) => save(world, mailWith(...parts), mailWith(parts[1]!))))
    const files = (await filesOf(fs, 'blobs')).filter((name) => /^[0-9a-f]{64}-[0-9a-f]{16}$/.test(name))
    if (turns === undefined) expect(files.length).toBeGreaterThan(2)
    else expect([files.length, turns.size]).toEqual([2, 0])
    for (const [i, world] of worlds.entries()) {
      for (const mail of mails[i]!) expect(await read(world, mail)).toBe(true)
      expect(await kinds(world, mails[i]!)).toEqual([])
      await world.store[Symbol.asyncDispose]()
      await world.journal[Symbol.asyncDispose]()
    }
  }
})

async function filesOf(fs: Fs, path: string): Promise<string[]> {
  const found: string[] = []
  for await (const page of fs.list(path))
    for (const { name, kind } of page)
      if (kind === 'directory') found.push(...(await filesOf(fs, `${path}/${name}`)))
      else found.push(name)
  return found
}

test('a repair lowers no uses while it cannot read what some message holds', async () => {
  const world = await open(memoryFs(), 'index')
  const [one, two] = await save(world, mailWith(randomBytes(5000)), mailWith(randomBytes(5000)))
  // As a version to come writes it.
  const unknown = { ...two!, segments: Uint8Array.of(9, ...two!.segments!.subarray(1)) }
  await world.store.repair(segmentsOf([one!, unknown]))
  expect((await world.store.stats()).references).toBe(2)
  for (let times = 0; times < 4; times++) {
    world.clock.ms += 2 * DAY
    await world.store.sweep()
  }
  expect(await read(world, two!)).toBe(true)
  await world.store.repair(segmentsOf([one!]))
  expect((await world.store.stats()).references).toBe(1)
})
