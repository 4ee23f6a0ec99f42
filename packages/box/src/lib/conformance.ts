/**
 * Proves that a message format keeps the box contract. Imports no test runner and no driver: run it from the format's
 * own tests.
 */
import assert from 'node:assert/strict'
import type { Box, BoxFinding, BoxFormat, BoxMessage, BoxMetadata, BoxRef, BoxScanned } from './contract.ts'
import { BoxError, type BoxErrorCode } from './error.ts'
import { type MemoryProcess, type MemoryTable, memoryTable } from './memory-table.ts'

/** The two functions every runner has: vitest, node:test, mocha. */
export interface Runner {
  readonly describe: (name: string, body: () => void) => unknown
  readonly it: (name: string, body: () => Promise<void>) => unknown
}

export interface BoxUnderTest {
  /** A format over fresh, empty storage each time. It is opened more than once, also at the same time. */
  readonly create: () => Promise<{ readonly format: BoxFormat } & AsyncDisposable>
}

const GUID_BYTES = 16

export function boxConformance({ describe, it }: Runner, { create }: BoxUnderTest): void {
  /** Runs `body` with an open box over fresh storage. */
  const with_ = (body: (subject: Subject) => Promise<void>) => async (): Promise<void> => {
    await using created = await create()
    const table = memoryTable(created.format.columns)
    const process = table.process()
    await using box = await created.format.open(process.host)
    await body({ box, process, table, format: created.format })
  }

  describe('box', () => {
    it(
      'save(), flush(), place(), open(): the bytes are those that came, in any line ends',
      with_(async ({ box, process }) => {
        const bodies = [
          '',
          'a',
          'a\n',
          'a\r\nb\r\n',
          'a\nb\r\n',
          '\r',
          '\n',
          '\r\r\n',
          'x'.repeat(70_000),
          '\0\u0001\u0002N \n',
        ]
        const refs = await saveAll(box, process, bodies.map(bytes))
        for (const [i, ref] of refs.entries()) {
          await using message = await box.open(ref)
          assert.deepEqual(await readAll(message), bytes(bodies[i]!))
          assert.equal(message.physicalSize, bodies[i]!.length)
          assert.deepEqual(Buffer.from(message.guid), Buffer.from(guid(i)))
          assert.equal(message.receivedMs, received(i))
        }
      }),
    )
    it(
      'save() says the sizes, and whether the bytes are canonical',
      with_(async ({ box }) => {
        await using batch = box.begin()
        const expected: readonly (readonly [string, number])[] = [
          ['', 0],
          ['a\r\nb\r\n', 6],
          ['a\nb\n', 6],
          ['\n', 2],
          ['\r\n\n\r', 5],
        ]
        for (const [body, size] of expected) {
          const saved = await batch.save(bytes(body), metadata(0))
          assert.equal(saved.physicalSize, body.length)
          assert.equal(saved.size, size)
          assert.equal(saved.canonical, size === body.length)
        }
      }),
    )
    it(
      'save() of a stream: what is cut into chunks is put together, a CRLF cut in two is one line end',
      with_(async ({ box, process }) => {
        await using batch = box.begin()
        const saved = await batch.save(chunks('a\r', '\nb', '', '\n', 'c'), metadata(1))
        assert.equal(saved.size, 7)
        await batch.flush()
        const [ref] = await process.keep(saved)
        await using message = await box.open(ref!)
        assert.equal((await readAll(message)).toString(), 'a\r\nb\nc')
      }),
    )
    it(
      'save() of a stream larger than memory should hold',
      with_(async ({ box, process }) => {
        const size = 5_000_003
        await using batch = box.begin()
        const [first, second] = [
          await batch.save(patterned(size), metadata(1)),
          await batch.save(bytes('small'), metadata(2)),
        ]
        const third = await batch.save(patterned(size + 1), metadata(3))
        await batch.flush()
        const refs = await process.keep(first!, second!, third)
        for (const [i, expected] of [size, 5, size + 1].entries()) {
          await using message = await box.open(refs[i]!)
          assert.equal(message.physicalSize, expected)
          if (expected === 5) continue
          for (const position of [0, 1, 65_535, 65_536, 1_000_000, expected - 3, expected]) {
            const into = new Uint8Array(100_000)
            const count = await message.read(into, position)
            assert.equal(count, Math.min(into.length, expected - position))
            assert.deepEqual(Buffer.from(into.subarray(0, count)), Buffer.from(pattern(position, count)))
          }
        }
      }),
    )
    it(
      'save() of a stream that fails keeps nothing of it, and the others of its batch',
      with_(async ({ box, process }) => {
        await using batch = box.begin()
        const good = await batch.save(bytes('good'), metadata(1))
        await assert.rejects(batch.save(failing(10), metadata(2)), /source broke/)
        await assert.rejects(batch.save(failing(3_000_000), metadata(3)), /source broke/)
        const large = await batch.save(patterned(2_000_000), metadata(4))
        await batch.flush()
        const refs = await process.keep(good, large)
        await using first = await box.open(refs[0]!)
        assert.equal((await readAll(first)).toString(), 'good')
        await using second = await box.open(refs[1]!)
        assert.deepEqual(await readAll(second), Buffer.from(pattern(0, 2_000_000)))
        assert.deepEqual(await damages(box), [])
      }),
    )
    it(
      'place() before flush() is refused, and after the batch is over',
      with_(async ({ box, process }) => {
        const batch = box.begin()
        const saved = await batch.save(bytes('x'), metadata(1))
        await assert.rejects(process.commit((tx) => void saved.place(tx)))
        await batch.flush()
        await process.commit((tx) => void saved.place(tx))
        await batch[Symbol.asyncDispose]()
        await assert.rejects(process.commit((tx) => void saved.place(tx)))
      }),
    )
    it(
      'place() again, for a transaction that is tried again',
      with_(async ({ box, process, table }) => {
        await using batch = box.begin()
        const saved = await batch.save(bytes('twice'), metadata(1))
        await batch.flush()
        table.onTransact = () => {
          throw new Error('conflict')
        }
        await assert.rejects(process.keep(saved), /conflict/)
        table.onTransact = undefined
        const [ref] = await process.keep(saved)
        await using message = await box.open(ref!)
        assert.equal((await readAll(message)).toString(), 'twice')
      }),
    )
    it(
      'read() of any range; less than asked only at the end',
      with_(async ({ box, process }) => {
        for (const size of [1000, 65_536, 200_000]) {
          const [ref] = await saveAll(box, process, [Buffer.from(pattern(0, size))])
          await using message = await box.open(ref!)
          for (const [position, length] of [
            [0, 10],
            [size - 5, 10],
            [size, 10],
            [size + 5, 10],
            [Math.floor(size / 2) - 7, 20],
            [0, size],
            [1, size],
            [0, 0],
          ] as const) {
            const into = new Uint8Array(length)
            const expected = Buffer.from(pattern(position, Math.max(0, Math.min(length, size - position))))
            const count = await message.read(into, position)
            assert.deepEqual(Buffer.from(into.subarray(0, count)), expected)
            if (message.readSync === undefined) continue
            into.fill(0)
            const again = message.readSync(into, position)
            assert.deepEqual(Buffer.from(into.subarray(0, again)), expected)
          }
          if (message.whole !== undefined) assert.deepEqual(Buffer.from(message.whole), Buffer.from(pattern(0, size)))
        }
      }),
    )
    it(
      'openSync(), where there is one, answers as open() does, or not at all',
      with_(async ({ box, process }) => {
        const refs = await saveAll(box, process, [bytes('one'), bytes('two'), Buffer.from(pattern(0, 300_000))])
        if (box.openSync === undefined) return
        for (const ref of refs) {
          await using expected = await box.open(ref)
          using message: BoxMessage | undefined = box.openSync(ref)
          assert.ok(message !== undefined, 'its file is open now')
          assert.deepEqual(Buffer.from(message.guid), Buffer.from(expected.guid))
          assert.equal(message.physicalSize, expected.physicalSize)
          const into: Uint8Array = new Uint8Array(message.physicalSize)
          assert.equal(message.readSync!(into, 0), into.length)
          assert.deepEqual(Buffer.from(into), await readAll(expected))
        }
        assert.equal(box.openSync(999), undefined)
      }),
    )
    it(
      'open() of a reference no row has is BOX_NOT_FOUND',
      with_(async ({ box, process }) => {
        await assert.rejects(box.open(7), hasCode('BOX_NOT_FOUND'))
        await saveAll(box, process, [bytes('x')])
        await assert.rejects(box.open(7), hasCode('BOX_NOT_FOUND'))
      }),
    )
    it(
      'batches side by side keep their messages apart',
      with_(async ({ box, process }) => {
        const refs: BoxRef[][] = []
        await Promise.all(
          Array.from({ length: 20 }, async (_, i) => {
            await using batch = box.begin()
            const saved = [
              await batch.save(bytes(`batch ${i}`), metadata(i)),
              await batch.save(chunks(`${i}`, ' streamed'), metadata(i)),
            ]
            if (i % 5 === 0) saved.push(await batch.save(patterned(1_200_000 + i), metadata(i)))
            await batch.flush()
            refs[i] = await process.keep(...saved)
          }),
        )
        for (const [i, [first, second, third]] of refs.entries()) {
          await using one = await box.open(first!)
          assert.equal((await readAll(one)).toString(), `batch ${i}`)
          await using two = await box.open(second!)
          assert.equal((await readAll(two)).toString(), `${i} streamed`)
          if (third === undefined) continue
          await using three = await box.open(third)
          assert.deepEqual(await readAll(three), Buffer.from(pattern(0, 1_200_000 + i)))
        }
        assert.deepEqual(await damages(box), [])
      }),
    )
    it(
      'save() side by side in one batch',
      with_(async ({ box, process }) => {
        await using batch = box.begin()
        const saved = await Promise.all([
          batch.save(patterned(1_500_000), metadata(1)),
          batch.save(patterned(1_500_001), metadata(2)),
          batch.save(bytes('x'), metadata(3)),
        ])
        await batch.flush()
        const refs = await process.keep(...saved)
        for (const [i, size] of [1_500_000, 1_500_001].entries()) {
          await using message = await box.open(refs[i]!)
          assert.deepEqual(await readAll(message), Buffer.from(pattern(0, size)))
        }
      }),
    )
    it(
      'a batch disposed before flush() leaves nothing; after it, nothing anybody sees',
      with_(async ({ box, process }) => {
        {
          await using batch = box.begin()
          await batch.save(bytes('gone'), metadata(1))
          await batch.save(patterned(2_000_000), metadata(2))
        }
        assert.deepEqual(await scanned(box), [])
        {
          await using batch = box.begin()
          await batch.save(bytes('dead'), metadata(3))
          await batch.save(patterned(2_000_000), metadata(4))
          await batch.flush()
        }
        const refs = await saveAll(box, process, [bytes('alive')])
        await using message = await box.open(refs[0]!)
        assert.equal((await readAll(message)).toString(), 'alive')
        assert.deepEqual(await damages(box), [])
      }),
    )
    it(
      'a batch may be used again after flush()',
      with_(async ({ box, process }) => {
        await using batch = box.begin()
        const first = await batch.save(bytes('first'), metadata(1))
        await batch.flush()
        const second = await batch.save(bytes('second'), metadata(2))
        await batch.flush()
        await batch.flush()
        const refs = await process.keep(first, second)
        await using message = await box.open(refs[1]!)
        assert.equal((await readAll(message)).toString(), 'second')
      }),
    )
    it('what was kept is there after the box was closed and opened again', async () => {
      await using created = await create()
      const table = memoryTable(created.format.columns)
      const refs: BoxRef[] = []
      for (let round = 0; round < 4; round++) {
        const process = table.process()
        await using box = await created.format.open(process.host)
        refs.push(...(await saveAll(box, process, [bytes(`round ${round}`)])))
        for (const [i, ref] of refs.entries()) {
          await using message = await box.open(ref)
          assert.equal((await readAll(message)).toString(), `round ${i}`)
        }
        assert.deepEqual(await damages(box), [])
      }
    })
    it('two processes save, and read what the other saved', async () => {
      await using created = await create()
      const table = memoryTable(created.format.columns)
      const [one, two] = [table.process(), table.process()]
      await using first = await created.format.open(one.host)
      await using second = await created.format.open(two.host)
      const refs: BoxRef[] = []
      for (let round = 0; round < 3; round++) {
        refs.push(...(await saveAll(first, one, [bytes(`round ${refs.length}`)])))
        refs.push(...(await saveAll(second, two, [bytes(`round ${refs.length}`)])))
      }
      for (const box of [first, second])
        for (const [i, ref] of refs.entries()) {
          await using message = await box.open(ref)
          assert.equal((await readAll(message)).toString(), `round ${i}`)
        }
      assert.deepEqual(await damages(first), [])
    })
    it(
      'scan() finds every message with what rebuilds need',
      with_(async ({ box, process }) => {
        await saveAll(box, process, [bytes('one'), bytes(''), Buffer.from(pattern(0, 100_000))])
        const found = (await scanned(box)).toSorted((a, b) => a.guid![0]! - b.guid![0]!)
        assert.deepEqual(
          found.map(({ physicalSize, receivedMs, mailbox, damage }) => ({ physicalSize, receivedMs, mailbox, damage })),
          [3, 0, 100_000].map((physicalSize, i) => ({
            physicalSize,
            receivedMs: received(i),
            mailbox: 'Büro/Q&A',
            damage: undefined,
          })),
        )
        for (const [i, { guid: found_ }] of found.entries())
          assert.deepEqual(Buffer.from(found_!), Buffer.from(guid(i)))
      }),
    )
    it(
      'check() finds nothing in a good box, and a row that names another place',
      with_(async ({ box, process, table, format }) => {
        const refs = await saveAll(box, process, [bytes('one'), bytes('two'), bytes('three')])
        assert.deepEqual(await damages(box), [])
        const column = format.columns.find(({ name }) => name === 'offset') ?? format.columns[0]!
        table.overwrite(refs[1]!, column.name, 1)
        await process.host.refresh()
        const found = await damages(box)
        assert.ok(
          found.some(({ ref }) => ref === refs[1]),
          'the message is named',
        )
        await assert.rejects(box.open(refs[1]!), isDamage)
        await using neighbour = await box.open(refs[2]!)
        assert.equal((await readAll(neighbour)).toString(), 'three')
      }),
    )
    it(
      'purge() gives back the space of messages without uses, and no other',
      with_(async ({ box, process }) => {
        const bodies = Array.from({ length: 60 }, (_, i) => Buffer.from(pattern(i, 5000 + i)))
        const refs = await saveAll(box, process, bodies)
        const large = await saveAll(box, process, [patterned(2_500_000), patterned(2_600_000)])
        const before = (await scanned(box)).length
        assert.equal(before, 62)
        const dead = refs.filter((_, i) => i % 3 !== 0)
        await process.setUses([...dead, large[0]!], 0)
        const report = await box.purge()
        assert.ok(report.bytesReclaimed >= 2_500_000 + 40 * 5000, `${report.bytesReclaimed} bytes`)
        assert.equal(report.messages, dead.length + 1)
        assert.ok(report.files >= 1)
        assert.equal((await scanned(box)).length, before - dead.length - 1)
        for (const [i, ref] of refs.entries())
          if (i % 3 === 0) {
            await using message = await box.open(ref)
            assert.deepEqual(await readAll(message), bodies[i])
          } else await assert.rejects(box.open(ref), hasCode('BOX_NOT_FOUND'))
        await using kept = await box.open(large[1]!)
        assert.deepEqual(await readAll(kept), Buffer.from(pattern(0, 2_600_000)))
        assert.deepEqual(await damages(box), [])
        const again = await box.purge()
        assert.equal(again.bytesReclaimed, 0)
      }),
    )
    it(
      'purge() reclaims what batches flushed and nobody kept',
      with_(async ({ box, process }) => {
        {
          await using batch = box.begin()
          await batch.save(pattern(7, 50_000), metadata(1))
          await batch.save(patterned(2_000_000), metadata(2))
          await batch.flush()
        }
        const [ref] = await saveAll(box, process, [bytes('kept')])
        const report = await box.purge()
        assert.ok(report.bytesReclaimed >= 2_050_000, `${report.bytesReclaimed} bytes`)
        assert.equal((await scanned(box)).length, 1)
        await using message = await box.open(ref!)
        assert.equal((await readAll(message)).toString(), 'kept')
      }),
    )
    it(
      'purge() never takes a message whose batch is not over yet',
      with_(async ({ box, process }) => {
        const refs = await saveAll(box, process, [Buffer.alloc(20_000), bytes('kept')])
        await process.setUses([refs[0]!], 0)
        await using batch = box.begin()
        const saved = [
          await batch.save(bytes('late'), metadata(2)),
          await batch.save(patterned(2_000_000), metadata(3)),
        ]
        await batch.flush()
        await box.purge()
        const [late, large] = await process.keep(...saved)
        await box.purge()
        await using message = await box.open(late!)
        assert.equal((await readAll(message)).toString(), 'late')
        await using other = await box.open(large!)
        assert.deepEqual(await readAll(other), Buffer.from(pattern(0, 2_000_000)))
      }),
    )
    it(
      'purge() whose transaction fails changes nothing, and can be done again',
      with_(async ({ box, process, table }) => {
        const refs = await saveAll(box, process, [Buffer.alloc(20_000), bytes('kept')])
        await process.setUses([refs[0]!], 0)
        table.onTransact = () => {
          throw new Error('no commit')
        }
        await assert.rejects(box.purge(), /no commit/)
        table.onTransact = undefined
        for (const ref of refs) await (await box.open(ref))[Symbol.asyncDispose]()
        assert.equal((await box.purge()).messages, 1)
        await using message = await box.open(refs[1]!)
        assert.equal((await readAll(message)).toString(), 'kept')
        assert.deepEqual(await damages(box), [])
      }),
    )
    it('a message that another process purged away from under a reader is found at its new place', async () => {
      await using created = await create()
      const table = memoryTable(created.format.columns)
      const [one, two] = [table.process(), table.process()]
      await using reader = await created.format.open(two.host)
      await using box = await created.format.open(one.host)
      const refs = await saveAll(box, one, [Buffer.alloc(20_000), bytes('kept')])
      await using early = await reader.open(refs[1]!)
      await one.setUses([refs[0]!], 0)
      assert.equal((await box.purge()).messages, 1)
      await using message = await reader.open(refs[1]!)
      assert.equal((await readAll(message)).toString(), 'kept')
      assert.equal((await readAll(early)).toString(), 'kept')
      await two.host.refresh()
      await assert.rejects(reader.open(refs[0]!), hasCode('BOX_NOT_FOUND'))
    })
    it('what mailboxes do to messages: they are found by reference all the while, and their space is given back', async () => {
      await using created = await create()
      const table = memoryTable(created.format.columns)
      const { host, mail } = table.process()
      const [inbox, work, old] = [guidText(1), guidText(2), guidText(3)]
      for (const guid of [inbox, work, old]) await mail.create(guid)
      const bodies = new Map<BoxRef, Buffer>()
      const keep = async (box: Box, into: readonly string[], ...list: readonly Buffer[]): Promise<void> => {
        await using batch = box.begin()
        const saved = []
        const origin = { mailbox: Buffer.from(into[0]!, 'hex'), uidValidity: 1000 }
        for (const [i, body] of list.entries()) saved.push(await batch.save(body, { ...metadata(i), origin }))
        await batch.flush()
        const before = new Set(mail.rows(into[0]!).values())
        await mail.keep(box, saved, into)
        const refs = [...mail.rows(into[0]!).values()].filter((ref) => !before.has(ref))
        for (const [i, ref] of refs.entries()) bodies.set(ref, list[i]!)
      }
      const look = async (box: Box): Promise<void> => {
        const kept = new Set([inbox, work, old].flatMap((guid) => [...mail.rows(guid).values()]))
        for (const [ref, body] of bodies) {
          if (!kept.has(ref)) continue
          await using message = await box.open(ref)
          assert.deepEqual(await readAll(message), body)
        }
        assert.deepEqual(await damages(box), [])
      }
      {
        await using box = await created.format.open(host)
        await keep(box, [inbox], bytes('one'), bytes('two'), Buffer.from(pattern(0, 300_000)))
        await keep(box, [work, inbox, old], bytes('to all'))
        await mail.copy(box, inbox, [1, 3], work)
        await look(box)
        await mail.move(box, inbox, [1, 2], old)
        await look(box)
        await mail.expunge(box, work, [1])
        await mail.expunge(box, inbox, [3])
        await look(box)
        assert.equal((await box.purge()).messages, 0, 'every message has a mailbox')
        await look(box)
        await mail.move(box, work, [2], work)
        await mail.copy(box, old, [1, 2], inbox)
        await look(box)
      }
      await using box = await created.format.open(host)
      await look(box)
      await mail.remove(box, old)
      await look(box)
      const left = new Set([inbox, work].flatMap((guid) => [...mail.rows(guid).values()]))
      // Fewer where it is not worth the work.
      assert.ok((await box.purge()).messages <= bodies.size - left.size)
      await look(box)
      await mail.expunge(box, inbox, [...mail.rows(inbox).keys()])
      await mail.expunge(box, work, [...mail.rows(work).keys()])
      await box.purge()
      await box.purge()
      assert.deepEqual(await scanned(box), [])
      await assert.rejects(box.open([...bodies.keys()][0]!), hasCode('BOX_NOT_FOUND'))
    })
    it('processes that share mailboxes: each finds what the others saved, copied and expunged', async () => {
      await using created = await create()
      const table = memoryTable(created.format.columns)
      const [one, two] = [table.process(), table.process()]
      await using first = await created.format.open(one.host)
      await using second = await created.format.open(two.host)
      const [inbox, work] = [guidText(1), guidText(2)]
      for (const guid of [inbox, work]) await one.mail.create(guid)
      const save = async (box: Box, { mail }: MemoryProcess, body: string): Promise<void> => {
        await using batch = box.begin()
        const origin = { mailbox: Buffer.from(inbox, 'hex'), uidValidity: 1000 }
        const saved = await batch.save(bytes(body), { ...metadata(1), origin })
        await batch.flush()
        await mail.keep(box, [saved], [inbox])
      }
      for (let round = 0; round < 4; round++) {
        await two.host.refresh()
        await save(first, one, `first ${round}`)
        await two.host.refresh()
        await save(second, two, `second ${round}`)
        await one.host.refresh()
        const last = Math.max(...one.mail.rows(inbox).keys())
        await one.mail.move(first, inbox, [last], work)
        await two.host.refresh()
        const ref = [...two.mail.rows(work).values()].at(-1)!
        await using message = await second.open(ref)
        assert.equal((await readAll(message)).toString(), `second ${round}`)
        await two.mail.copy(second, work, [Math.max(...two.mail.rows(work).keys())], inbox)
        await one.host.refresh()
        if (round === 2) await first.purge()
      }
      for (const [box, { host, mail }] of [
        [first, one],
        [second, two],
      ] as const) {
        await host.refresh()
        const found = []
        for (const ref of new Set(mail.rows(inbox).values())) {
          await using message = await box.open(ref)
          found.push((await readAll(message)).toString())
        }
        assert.deepEqual(
          found.toSorted(),
          [0, 1, 2, 3].flatMap((round) => [`first ${round}`, `second ${round}`]).toSorted(),
        )
        assert.deepEqual(await damages(box), [])
      }
    })
    it('a closed box is BOX_CLOSED, and so are its batches', async () => {
      await using created = await create()
      const process = memoryTable(created.format.columns).process()
      const box = await created.format.open(process.host)
      const batch = box.begin()
      await batch.save(bytes('x'), metadata(1))
      await box[Symbol.asyncDispose]()
      await box[Symbol.asyncDispose]()
      await assert.rejects(batch.save(bytes('y'), metadata(2)), hasCode('BOX_CLOSED'))
      await assert.rejects(batch.flush(), hasCode('BOX_CLOSED'))
      await assert.rejects(box.open(1), hasCode('BOX_CLOSED'))
      assert.throws(() => box.begin(), hasCode('BOX_CLOSED'))
      await batch[Symbol.asyncDispose]()
    })
  })
}

interface Subject {
  readonly box: Box
  readonly process: MemoryProcess
  readonly table: MemoryTable
  readonly format: BoxFormat
}

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')
const guid = (i: number): Uint8Array => new Uint8Array(GUID_BYTES).fill(i)
/** Of a mailbox. */
const guidText = (i: number): string => Buffer.from(guid(i)).toString('hex')
/** Whole seconds, since formats may keep no more. */
const received = (i: number): number => 1_700_000_000_000 + i * 1000
const metadata = (i: number): BoxMetadata => ({ guid: guid(i), receivedMs: received(i), mailbox: 'Büro/Q&A' })

async function saveAll(
  box: Box,
  process: MemoryProcess,
  bodies: readonly (Uint8Array | AsyncIterable<Uint8Array>)[],
): Promise<BoxRef[]> {
  await using batch = box.begin()
  const saved = []
  for (const [i, body] of bodies.entries()) saved.push(await batch.save(body, metadata(i)))
  await batch.flush()
  return await process.keep(...saved)
}

async function readAll(message: {
  readonly physicalSize: number
  read(into: Uint8Array, position: number): Promise<number>
}): Promise<Buffer> {
  const into = Buffer.alloc(message.physicalSize)
  assert.equal(await message.read(into, 0), into.length)
  return into
}

async function scanned(box: Box): Promise<BoxScanned[]> {
  return (await Array.fromAsync(box.scan())).flat()
}

async function damages(box: Box): Promise<BoxFinding[]> {
  return (await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')
}

function hasCode(code: BoxErrorCode): (error: unknown) => boolean {
  return (error) => error instanceof BoxError && error.code === code
}

function isDamage(error: unknown): boolean {
  return error instanceof BoxError && (error.code === 'BOX_DAMAGED' || error.code === 'BOX_CORRUPT')
}

async function* chunks(...parts: string[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield bytes(part)
}

/** `size` bytes that differ from place to place and cannot be compressed, in odd pieces. */
async function* patterned(size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < size; at += 60_001) yield pattern(at, Math.min(60_001, size - at))
}

function pattern(start: number, length: number): Uint8Array {
  const out = new Uint8Array(length)
  for (let i = 0; i < length; i++) {
    const mixed = Math.imul((start + i) ^ ((start + i) >>> 15), 0x2c1b_3c6d)
    out[i] = Math.imul(mixed ^ (mixed >>> 12), 0x297a_2d39) >>> 15
  }
  return out
}

async function* failing(after: number): AsyncGenerator<Uint8Array> {
  yield* patterned(after)
  throw new Error('source broke')
}
