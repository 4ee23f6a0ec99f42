/** Sessions against a plain model: random operations, reopened at random times, compared after each. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { FLAG_DELETED, FLAG_SEEN } from '@mailstead/index'
import { canonicalBytes } from '@mailstead/message'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import type { CacheField, Store } from './contract.ts'
import { StoreError } from './error.ts'
import { runsOf, usedBox } from '../../test/support.ts'
import { openStore } from './store.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 5_000 : depth === 'ci' ? 400 : 40
const scratch = mkdtempSync(join(tmpdir(), 'mailstead-model-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
let directories = 0

const names = ['INBOX', 'a', 'a/b', 'a/b/c', 'b', 'b/d'] as const
const keywords = ['$Junk', 'Work', '$Forwarded'] as const
const name = fc.constantFrom(...names)
/** Which of the rows: bit i stands for every row i modulo 8. */
const some = fc.nat({ max: 255 })
const operation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('save' as const),
      to: fc.array(name, { minLength: 1, maxLength: 3 }),
      text: fc.string({ maxLength: 30 }),
      flags: fc.nat({ max: 31 }),
      words: fc.subarray([...keywords]),
      stream: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('flags' as const),
      of: name,
      some,
      add: fc.nat({ max: 31 }),
      remove: fc.nat({ max: 31 }),
      words: fc.subarray([...keywords]),
      unwords: fc.subarray([...keywords]),
      replace: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('expunge' as const), of: name, some, force: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('copy' as const, 'move' as const), of: name, some, to: name }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('create' as const), name }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const), name }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('rename' as const), from: name, to: name }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('subscribe' as const), name, on: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constantFrom('reopen' as const, 'checkpoint' as const, 'purge' as const) }),
  },
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

interface Row {
  readonly uid: number
  readonly bytes: Buffer
  flags: number
  readonly words: Set<string>
}
interface Box {
  readonly uidValidity: number
  readonly guid: string
  uidNext: number
  modSeq: number
  rows: Row[]
}

const field: CacheField = {
  name: 'head',
  compute: ({ header, structure }) => Buffer.from(`${structure.size} ${header.length}`),
}
const anna = { name: 'anna' }

class Run {
  readonly #fs: Fs
  #store: Store | undefined
  readonly boxes = new Map<string, Box>()
  readonly subscriptions = new Set<string>()
  lastValidity = 0
  now = 1_800_000_000_000

  constructor(fs: Fs) {
    this.#fs = fs
  }

  get store(): Store {
    return this.#store!
  }

  async open(): Promise<void> {
    await this.#store?.[Symbol.asyncDispose]()
    this.#store = await openStore({
      owner: 'anna',
      fs: this.#fs,
      box: usedBox,
      cacheFields: [field],
      create: true,
      now: () => this.now,
    })
    if (this.boxes.size === 0) this.#note('INBOX')
  }

  async close(): Promise<void> {
    await this.#store?.[Symbol.asyncDispose]()
  }

  /** A mailbox that the store just made. */
  #note(name: string): void {
    const info = this.store.as(anna).mailbox(name)!
    expect(info.uidValidity).toBeGreaterThan(this.lastValidity)
    expect(info.uidValidity).toBeGreaterThanOrEqual(Math.floor(this.now / 1000))
    this.lastValidity = info.uidValidity
    this.boxes.set(name, { uidValidity: info.uidValidity, guid: info.guid, uidNext: 1, modSeq: 0, rows: [] })
  }

  #noteParents(name: string): void {
    const parts = name.split('/')
    for (let i = 1; i < parts.length; i++) {
      const parent = parts.slice(0, i).join('/')
      if (!this.boxes.has(parent)) this.#note(parent)
    }
  }

  #pick(name: string, some: number): { box: Box; rows: Row[]; uids: UidSet } | undefined {
    const box = this.boxes.get(name)
    if (box === undefined) return undefined
    const rows = box.rows.filter((_, i) => ((some >> (i & 7)) & 1) === 1)
    return { box, rows, uids: UidSet.of(...rows.map(({ uid }) => uid), box.uidNext + 5) }
  }

  async apply(op: Operation): Promise<void> {
    const session = this.store.as(anna)
    this.now += 250
    switch (op.kind) {
      case 'save': {
        const bytes = Buffer.from(`Subject: ${op.text}\n\n${op.text}\r\n${op.text}\n`)
        await using batch = session.save()
        const targets = op.to.map((mailbox) => ({ mailbox, flags: op.flags, keywords: op.words }))
        const source = op.stream ? [bytes.subarray(0, 9), bytes.subarray(9)] : undefined
        const adding = batch.add(source === undefined ? bytes : streamOf(source), targets, { receivedMs: 1234 })
        if (op.to.some((to) => !this.boxes.has(to))) {
          await expect(adding).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
          return
        }
        await adding
        const saved = await batch.commit()
        for (const [i, to] of op.to.entries()) {
          const box = this.boxes.get(to)!
          expect(saved[i]).toMatchObject({ mailbox: to, uid: box.uidNext, uidValidity: box.uidValidity })
          box.rows.push({ uid: box.uidNext++, bytes: canonicalBytes(bytes), flags: op.flags, words: new Set(op.words) })
        }
        return
      }
      case 'flags': {
        const picked = this.#pick(op.of, op.some)
        if (picked === undefined) return
        await using mailbox = await session.open(op.of)
        const before = mailbox.view.highestModSeq
        const outcome = await mailbox.changeFlags(picked.uids, {
          add: op.add,
          remove: op.remove & ~op.add,
          addKeywords: op.words,
          removeKeywords: op.unwords.filter((word) => !op.words.includes(word)),
          replace: op.replace,
        })
        const changed: number[] = []
        for (const row of picked.rows) {
          const was = `${row.flags} ${[...row.words].toSorted().join(' ')}`
          if (op.replace) {
            row.flags = 0
            row.words.clear()
          }
          row.flags = (row.flags & ~(op.remove & ~op.add)) | op.add
          for (const word of op.words) row.words.add(word)
          for (const word of op.unwords) if (!op.words.includes(word)) row.words.delete(word)
          if (`${row.flags} ${[...row.words].toSorted().join(' ')}` !== was) changed.push(row.uid)
        }
        expect([...outcome.changed]).toEqual(changed)
        expect(mailbox.view.highestModSeq > before).toBe(changed.length > 0)
        return
      }
      case 'expunge': {
        const picked = this.#pick(op.of, op.some)
        if (picked === undefined) return
        await using mailbox = await session.open(op.of)
        const gone = picked.rows.filter(({ flags }) => op.force || (flags & FLAG_DELETED) !== 0)
        expect([...(await mailbox.expunge(picked.uids, { force: op.force }))]).toEqual(gone.map(({ uid }) => uid))
        picked.box.rows = picked.box.rows.filter((row) => !gone.includes(row))
        return
      }
      case 'copy':
      case 'move': {
        const picked = this.#pick(op.of, op.some)
        if (picked === undefined) return
        await using mailbox = await session.open(op.of)
        const copying = op.kind === 'copy' ? mailbox.copy(picked.uids, op.to) : mailbox.move(picked.uids, op.to)
        const to = this.boxes.get(op.to)
        if (to === undefined) {
          await expect(copying).rejects.toMatchObject({ code: 'STORE_NO_MAILBOX' })
          return
        }
        const outcome = await copying
        expect([...outcome.source]).toEqual(picked.rows.map(({ uid }) => uid))
        expect([...outcome.destination]).toEqual(picked.rows.map((_, i) => to.uidNext + i))
        const copies = picked.rows.map((row) => ({ ...row, words: new Set(row.words), uid: to.uidNext++ }))
        if (op.kind === 'move') picked.box.rows = picked.box.rows.filter((row) => !picked.rows.includes(row))
        to.rows.push(...copies)
        return
      }
      case 'create':
        if (this.boxes.has(op.name)) await fails(session.create(op.name), 'STORE_EXISTS')
        else {
          await session.create(op.name)
          this.#noteParents(op.name)
          this.#note(op.name)
        }
        return
      case 'remove':
        if (op.name === 'INBOX') await fails(session.remove(op.name), 'STORE_BAD_NAME')
        else if (!this.boxes.has(op.name)) await fails(session.remove(op.name), 'STORE_NO_MAILBOX')
        else {
          await session.remove(op.name)
          this.boxes.delete(op.name)
        }
        return
      case 'rename': {
        const renaming = session.rename(op.from, op.to)
        if (op.from === op.to) return fails(renaming, 'STORE_EXISTS')
        if (op.from !== 'INBOX' && op.to.startsWith(`${op.from}/`)) return fails(renaming, 'STORE_BAD_NAME')
        if (!this.boxes.has(op.from)) return fails(renaming, 'STORE_NO_MAILBOX')
        const moved =
          op.from === 'INBOX' ? [] : [...this.boxes.keys()].filter((n) => n === op.from || n.startsWith(`${op.from}/`))
        const targets = op.from === 'INBOX' ? [op.to] : moved.map((n) => op.to + n.slice(op.from.length))
        if (targets.some((n) => this.boxes.has(n))) return fails(renaming, 'STORE_EXISTS')
        await renaming
        const boxes = moved.map((n) => this.boxes.get(n)!)
        for (const n of moved) this.boxes.delete(n)
        this.#noteParents(op.to)
        if (op.from === 'INBOX') {
          this.#note(op.to)
          const inbox = this.boxes.get('INBOX')!
          const target = this.boxes.get(op.to)!
          target.rows = inbox.rows.map((row) => ({ ...row, uid: target.uidNext++ }))
          inbox.rows = []
        } else for (const [i, n] of targets.entries()) this.boxes.set(n, boxes[i]!)
        return
      }
      case 'subscribe':
        await session.subscribe(op.name, op.on)
        if (op.on) this.subscriptions.add(op.name)
        else this.subscriptions.delete(op.name)
        return
      case 'reopen':
        return this.open()
      case 'checkpoint':
        return this.store.checkpoint()
      case 'purge':
        await this.store.purge()
    }
  }

  async compare(): Promise<void> {
    const session = this.store.as(anna)
    expect(
      session
        .mailboxes()
        .map(({ name }) => name)
        .toSorted(),
    ).toEqual([...this.boxes.keys()].toSorted())
    expect(session.subscriptions()).toEqual([...this.subscriptions].toSorted())
    for (const [name, box] of this.boxes) {
      const info = session.mailbox(name)!
      expect(info).toMatchObject({
        guid: box.guid,
        uidValidity: box.uidValidity,
        uidNext: box.uidNext,
        count: box.rows.length,
        unseen: box.rows.filter(({ flags }) => (flags & FLAG_SEEN) === 0).length,
        deleted: box.rows.filter(({ flags }) => (flags & FLAG_DELETED) !== 0).length,
        bytes: box.rows.reduce((sum, { bytes }) => sum + bytes.length, 0),
        subscribed: this.subscriptions.has(name),
      })
      expect(info.highestModSeq).toBeGreaterThanOrEqual(box.modSeq)
      box.modSeq = info.highestModSeq
      await using mailbox = await session.open(name)
      const { view } = mailbox
      expect(view.count).toBe(box.rows.length)
      const cache = view.cache('head')
      for (const [row, expected] of box.rows.entries()) {
        expect([view.uid(row), view.flags(row)]).toEqual([expected.uid, expected.flags])
        const words = view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!)
        expect(words.toSorted()).toEqual([...expected.words].toSorted())
        expect(view.modSeq(row)).toBeLessThanOrEqual(info.highestModSeq)
        await using body = await mailbox.body(view, row)
        expect(Buffer.compare(body.sliceSync(0, body.size)!, expected.bytes)).toBe(0)
        const cached = cache.value(row)
        if (cached !== undefined)
          expect(Buffer.from(cached).toString()).toMatch(new RegExp(`^${expected.bytes.length} `))
      }
    }
  }
}

async function fails(promise: Promise<unknown>, code: string): Promise<void> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(StoreError)
  expect((error as StoreError).code).toBe(code)
}

async function* streamOf(chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array, void, undefined> {
  yield* chunks
}

describe.each([
  ['memory', 1, () => memoryFs()],
  ['memory without synchronous reads', 2, () => memoryFs({ syncRead: false })],
  ['posix', 4, () => posixFs(join(scratch, String(directories++)), { create: true })],
] as const)('sessions on %s', (_, share, freshFs) => {
  test('do what a plain model does, whatever the operations and whenever the store is opened again', async () => {
    let operations = 0
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { minLength: 20, maxLength: 60, size: 'max' }), async (list) => {
        const run = new Run(await freshFs())
        await run.open()
        try {
          for (const op of list) {
            await run.apply(op)
            operations++
            await run.compare()
          }
          await run.open()
          await run.compare()
          const found = (await Array.fromAsync(run.store.check())).flat()
          expect(found.filter(({ severity }) => severity === 'damage')).toEqual([])
        } finally {
          await run.close()
        }
      }),
      { numRuns: runsOf(numRuns / share) },
    )
    console.log(`${operations} operations`)
  })
})
