/**
 * Boxes whose attachments are in @mailstead/sis, over one index, as a store would tie them together: messages and blobs in
 * one frame, equal attachments kept once, purge and sweep.
 */
import { createHash } from 'node:crypto'
import {
  type AttachmentFormat,
  type AttachmentHost,
  type AttachmentStore,
  BOX_USES_COLUMN,
  type Box,
  type BoxFormat,
  type BoxHost,
  type BoxPending,
  type BoxRef,
} from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { crashableFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { type Index, lend, type LentTransaction, openIndex, type Table, transactLent } from '@mailstead/index'
import { mdbox } from '@mailstead/mdbox'
import { sdbox } from '@mailstead/mdbox/sdbox'
import { attachments } from '@mailstead/sis'
import { describe, expect, test } from 'vitest'
import { depth, runSeed, say, seeded } from '../support/depth.ts'
import { bytesBelow, filesBelow } from './file-tree.ts'

const STATES_MAX = { normal: 2, ci: 8, soak: 100 }[depth()]
const GRACE_MS = 1000
const MIN_SIZE = 3000

const FORMATS: readonly (readonly [name: string, make: (fs: Fs) => BoxFormat])[] = [
  ['mdbox', (fs) => mdbox(fs, 'storage', { rotateBytes: 20_000 })],
  ['sdbox', (fs) => sdbox(fs, 'storage')],
]

interface World extends AsyncDisposable {
  readonly index: Index
  readonly box: Box
  readonly boxTable: Table
  readonly blobs: AttachmentStore
  readonly clock: { ms: number }
}

async function open(fs: Fs, make: (fs: Fs) => BoxFormat): Promise<World> {
  const clock = { ms: 1_700_000_000_000 }
  const index = await openIndex(fs, 'index', { create: true })
  const kept: AttachmentFormat = attachments(fs, 'attachments', {
    create: true,
    minSize: MIN_SIZE,
    graceMs: GRACE_MS,
    now: () => clock.ms,
  })
  const format = make(fs)
  if (index.info('box') === undefined) {
    await using tx = index.begin()
    tx.createTable({ id: 'box', columns: [...format.columns, { name: BOX_USES_COLUMN, bytes: 4 }], uidValidity: 1 })
    tx.createTable({ id: 'blobs', columns: kept.columns, uidValidity: 1 })
    await tx.commit()
  }
  const boxTable = (await index.open('box'))!
  const transact: BoxHost['transact'] & AttachmentHost['transact'] = (body: (tx: LentTransaction) => void) =>
    transactLent(index, BOX_USES_COLUMN, body)
  const common = { transact, refresh: () => index.refresh() }
  const blobs = await kept.open({ ...common, table: (await index.open('blobs'))!, storeId: index.uuid })
  const box = await format.open({ ...common, table: boxTable, attachments: blobs })
  return {
    index,
    box,
    boxTable,
    blobs,
    clock,
    [Symbol.asyncDispose]: async () => {
      await box[Symbol.asyncDispose]()
      await blobs[Symbol.asyncDispose]()
      await index[Symbol.asyncDispose]()
    },
  }
}

async function save({ box, index }: World, ...messages: readonly Uint8Array[]): Promise<BoxRef[]> {
  await using batch = box.begin()
  const guid = (body: Uint8Array): Uint8Array => createHash('md5').update(body).digest()
  const saved = await Promise.all(messages.map((body) => batch.save(body, { guid: guid(body), receivedMs: 0 })))
  await batch.flush()
  await using tx = index.begin()
  const placing = lend(tx, BOX_USES_COLUMN)
  const pending: BoxPending[] = []
  for (const one of saved) {
    const row = one.place(placing)
    placing.setColumn('box', BOX_USES_COLUMN, row, 1)
    pending.push(row)
  }
  await tx.commit()
  return pending.map(({ uid }) => uid)
}

async function setUses({ index }: World, refs: readonly BoxRef[], uses: number): Promise<void> {
  await using tx = index.begin()
  for (const ref of refs) tx.setColumn('box', BOX_USES_COLUMN, ref, uses)
  await tx.commit()
}

async function read({ box }: World, ref: BoxRef): Promise<Buffer> {
  await using message = await box.open(ref)
  const bytes = Buffer.alloc(message.physicalSize)
  expect(await message.read(bytes, 0)).toBe(bytes.length)
  return bytes
}

/** What is wrong, whoever finds it. */
async function wrongs({ box, blobs, boxTable }: World): Promise<string[]> {
  const rows = new Set<number>()
  for (let row = 0; row < boxTable.view.count; row++) rows.add(boxTable.view.extension('sum')!.number(row))
  // A purge that was cut short leaves a message in two files: it counts once.
  const messages = async function* (): AsyncGenerator<readonly Uint8Array[]> {
    for await (const page of box.scan())
      yield page
        .filter(({ row }) => row !== undefined && rows.delete(row['sum'] as number))
        .flatMap(({ segments }) => segments ?? [])
  }
  const found = [
    ...(await Array.fromAsync(box.check())).flat(),
    ...(await Array.fromAsync(blobs.check(messages()))).flat(),
  ]
  return found
    .filter(({ severity }) => severity === 'damage')
    .map(({ kind, file, message }) => `${kind} ${file}: ${message}`)
}

const random = seeded(runSeed())
const noise = (bytes: number): Buffer => Buffer.from(Uint8Array.from({ length: bytes }, () => random() * 256))

function mail(text: string, ...parts: readonly Buffer[]): Buffer {
  const encoded = parts.map(
    (part) =>
      `--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n${part.toString('base64').replaceAll(/.{76}/g, '$&\r\n')}\r\n`,
  )
  return Buffer.from(
    `Subject: ${text}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n${text}\r\n${encoded.join('')}--b--\r\n`,
  )
}

describe.each(FORMATS)('messages of %s with attachments in a store of their own', (_, make) => {
  test('are read as they came; equal attachments are kept once, and given back when the last message that has them goes', async () => {
    const fs = memoryFs()
    await using world = await open(fs, make)
    const picture = noise(30_000)
    const one = mail('one', picture)
    const two = mail('two', picture, noise(10_000))
    const plain = mail('plain')
    const refs = await save(world, one, two, plain)
    expect((await read(world, refs[0]!)).equals(one)).toBe(true)
    expect((await read(world, refs[1]!)).equals(two)).toBe(true)
    expect((await read(world, refs[2]!)).equals(plain)).toBe(true)
    expect(await wrongs(world)).toEqual([])
    const before = await bytesBelow(fs, 'attachments')
    expect(before).toBeLessThan(42_000)
    await save(world, mail('three', picture))
    expect(await bytesBelow(fs, 'attachments')).toBe(before)

    await setUses(world, [refs[1]!], 0)
    await world.box.purge()
    for (let i = 0; i < 4; i++) {
      world.clock.ms += 2 * GRACE_MS
      await world.blobs.sweep()
    }
    expect(await bytesBelow(fs, 'attachments')).toBeLessThan(before - 9000)
    expect((await read(world, refs[0]!)).equals(one)).toBe(true)
    await expect(read(world, refs[1]!)).rejects.toMatchObject({ code: 'BOX_NOT_FOUND' })
    expect(await wrongs(world)).toEqual([])
  })

  test('one with a damaged attachment fails alone, and only where the attachment is', async () => {
    const fs = memoryFs()
    await using world = await open(fs, make)
    const broken = mail('broken', noise(20_000))
    const whole = mail('whole', noise(20_000))
    const [bad, good] = await save(world, broken, whole)
    let path: string | undefined
    for (const file of await filesBelow(fs, 'attachments')) if ((await fs.stat(file))!.size > 10_000) path ??= file
    const bytes = await fs.readFile(path!)
    bytes[bytes.length - 500]! ^= 1
    await fs.writeFile(path!, bytes)
    const outcomes = await Promise.allSettled([read(world, bad!), read(world, good!)])
    const failed = outcomes.map((outcome) => outcome.status === 'rejected')
    expect(failed.filter(Boolean)).toHaveLength(1)
    const [ref, body] = failed[0]! ? [bad!, broken] : [good!, whole]
    expect(outcomes.find((outcome) => outcome.status === 'rejected')).toMatchObject({
      reason: { code: 'BOX_DAMAGED', ref },
    })
    await using message = await world.box.open(ref)
    const head = Buffer.alloc(40)
    await message.read(head, 0)
    expect(head.equals(body.subarray(0, 40))).toBe(true)
    expect(await wrongs(world)).not.toEqual([])
  })

  test('whatever a power cut leaves, a message that has its row has its attachments', async () => {
    const disk = crashableFs({ profile: 'posix-minimum' })
    const shared = noise(9000)
    const bodies = new Map<number, Buffer>()
    const acked: { readonly tick: number; readonly refs: readonly number[] }[] = []
    {
      await using world = await open(disk, make)
      for (let i = 0; i < 4; i++) {
        const list = [mail(`${i} a`, shared), mail(`${i} b`, shared, noise(4000)), mail(`${i} c`)]
        const refs = await save(world, ...list)
        for (const [at, ref] of refs.entries()) bodies.set(ref, list[at]!)
        acked.push({ tick: disk.tick, refs })
        if (i !== 2) continue
        await setUses(world, refs, 0)
        for (const ref of refs) bodies.delete(ref)
        await world.box.purge()
        world.clock.ms += 2 * GRACE_MS
        await world.blobs.sweep()
      }
    }
    let states = 0
    let read_ = 0
    for (const state of disk.everyState({ maxStates: STATES_MAX, seed: runSeed() })) {
      if (acked[0] === undefined || state.tick < acked[0].tick) continue
      states++
      await using world = await open(state.open(), make)
      for (const { tick, refs } of acked)
        for (const ref of refs) {
          const body = bodies.get(ref)
          if (body === undefined || state.tick < tick) continue
          expect((await read(world, ref)).equals(body), `${state.description}: message ${ref}`).toBe(true)
          read_++
        }
      expect(await wrongs(world), state.description).toEqual([])
    }
    expect(read_).toBeGreaterThan(0)
    say(`attachments: ${states} disks after a power cut, ${read_} messages read`)
  })
})
