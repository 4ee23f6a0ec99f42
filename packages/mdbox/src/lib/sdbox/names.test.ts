import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Box } from '@mailstead/box'
import { type MemoryMail, memoryTable } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { dumpSdboxIdentity } from './dump.ts'
import { idOfName, readIdentity, readOrigin, uidOfName, writeIdentity, writeOrigin } from './names.ts'
import { COLUMNS } from './row.ts'
import { sdbox } from './sdbox.ts'

const [A, B] = ['a'.repeat(32), 'b'.repeat(32)] as const

describe('names', () => {
  test('are those of Dovecot, exactly', () => {
    expect([uidOfName('u.1', 'u'), uidOfName('u.4294967295', 'u'), uidOfName('x.7', 'x')]).toEqual([
      1, 4_294_967_295, 7,
    ])
    for (const name of [
      'u.',
      'u.0',
      'u.01',
      'u.-1',
      'u.1.broken',
      'u.4294967296',
      'U.1',
      'x.1',
      'u.1e3',
      'u. 1',
      'u.+1',
    ])
      expect(uidOfName(name, 'u'), name).toBe(0)
    expect([idOfName('00ff00ff00ff00ff'), idOfName('00FF00ff00ff00ff'), idOfName('1')]).toEqual([
      '00ff00ff00ff00ff',
      undefined,
      undefined,
    ])
  })

  const guid = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString('hex'))
  const identity = fc.record({
    guid,
    uidValidity: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    removed: fc.boolean(),
    name: fc.option(fc.string({ minLength: 1, maxLength: 100, unit: 'binary' }), { nil: undefined }),
  })
  test('what an identity says is read, and of a flipped bit nothing', () => {
    fc.assert(
      fc.property(identity, fc.nat(), fc.nat({ max: 7 }), (one, n, bit) => {
        const bytes = writeIdentity(one)
        expect(readIdentity(bytes)).toEqual(one)
        bytes[n % bytes.length]! ^= 1 << bit
        expect(readIdentity(bytes)).toBeUndefined()
      }),
    )
  })
  test('an identity is shown', () => {
    const one = writeIdentity({ guid: A, uidValidity: 7, removed: true, name: 'Büro' })
    expect(dumpSdboxIdentity(one)).toBe(`0 identity of a mailbox, guid ${A}, uidvalidity 7, name "Büro", removed`)
    one[20]! ^= 1
    expect(dumpSdboxIdentity(one)).toBe('0 DAMAGED identity of a mailbox')
    expect(dumpSdboxIdentity(Buffer.from('2 M1e C0\n'))).toBeUndefined()
  })
  test('an origin is written and read', () => {
    fc.assert(
      fc.property(guid, fc.integer({ min: 1, max: 2 ** 32 - 1 }), (mailbox, uidValidity) => {
        const text = writeOrigin({ guid: mailbox, uidValidity })
        expect(text).toHaveLength(40)
        expect(readOrigin(text)).toEqual({ guid: mailbox, uidValidity })
      }),
    )
    expect(readOrigin('A'.repeat(40))).toBeUndefined()
  })
  test('an identity is on disk as the documentation has it', () => {
    const text = readFileSync(new URL('../../../../../docs/formats/sdbox.md', import.meta.url), 'utf8')
    const [block] = /```hex[^`]*/.exec(text)!
    const lines = [...block.matchAll(/^[0-9a-f]{8} {2}((?:[0-9a-f]{2} {1,2}){1,16})/gm)]
    const bytes = Buffer.from(lines.map((line) => line[1]!.replaceAll(' ', '')).join(''), 'hex')
    const written = {
      guid: '000102030405060708090a0b0c0d0e0f',
      uidValidity: 1_700_000_000,
      removed: false,
      name: 'Büro',
    }
    expect(readIdentity(bytes)).toEqual(written)
    expect(writeIdentity(written).equals(bytes)).toBe(true)
  })
})

interface Opened extends AsyncDisposable {
  readonly fs: Fs
  readonly box: Box
  readonly mail: MemoryMail
  save(into: readonly string[], ...texts: readonly string[]): Promise<void>
  read(mailbox: string, uid: number): Promise<string>
  /** All names below the box, but what says who writes. */
  names(): Promise<string[]>
}

async function opened(fs: Fs = memoryFs(), process = memoryTable(COLUMNS).process()): Promise<Opened> {
  const { host, mail } = process
  for (const guid of [A, B]) if (host.mailboxes!.find(guid) === undefined) await mail.create(guid, `Büro ${guid[0]}`)
  const box = await sdbox(fs, 'storage').open(host)
  return {
    fs,
    box,
    mail,
    save: async (into, ...texts) => {
      await using batch = box.begin()
      const saved = []
      const origin = { mailbox: Buffer.from(into[0]!, 'hex'), uidValidity: 1000 }
      for (const text of texts)
        saved.push(
          await batch.save(Buffer.from(text), { guid: randomBytes(16), receivedMs: 0, mailbox: 'Büro', origin }),
        )
      await batch.flush()
      await mail.keep(box, saved, into)
    },
    read: async (mailbox, uid) => {
      await using message = await box.open(mail.rows(mailbox).get(uid)!)
      const into = Buffer.alloc(message.physicalSize)
      await message.read(into, 0)
      return into.toString()
    },
    names: async () => {
      const found: string[] = []
      const walk = async (path: string): Promise<void> => {
        for await (const page of fs.list(path))
          for (const { name, kind } of page)
            if (kind === 'directory') await walk(`${path}/${name}`)
            else if (!/^open\.|\.lock$/.test(name)) found.push(`${path}/${name}`.slice('storage/'.length))
      }
      await walk('storage')
      return found.toSorted()
    },
    [Symbol.asyncDispose]: async () => box[Symbol.asyncDispose](),
  }
}

describe('a message', () => {
  test('has a name in each of its mailboxes, and none where it was expunged or moved away', async () => {
    await using it = await opened()
    await it.save([A], 'one', 'two')
    await it.save([B, A], 'both')
    expect(await it.names()).toEqual(
      [`${A}/identity`, `${A}/u.1`, `${A}/u.2`, `${A}/u.3`, `${B}/identity`, `${B}/u.1`].toSorted(),
    )
    await it.mail.move(it.box, A, [1], B)
    await it.mail.expunge(it.box, A, [2])
    expect(await it.names()).toEqual(
      [`${A}/identity`, `${A}/u.3`, `${A}/x.1`, `${A}/x.2`, `${B}/identity`, `${B}/u.1`, `${B}/u.2`].toSorted(),
    )
    expect(await it.read(B, 2)).toBe('one')
    expect(await it.box.purge()).toMatchObject({ messages: 1, skipped: 0 })
    expect(await it.names()).toEqual([`${A}/identity`, `${A}/u.3`, `${B}/identity`, `${B}/u.1`, `${B}/u.2`].toSorted())
    expect([await it.read(B, 2), await it.read(B, 1), await it.read(A, 3)]).toEqual(['one', 'both', 'both'])
    await it.mail.remove(it.box, B)
    expect(readIdentity(await it.fs.readFile(`storage/${B}/identity`))).toMatchObject({ removed: true })
    await it.box.purge()
    expect(await it.names()).toEqual([`${A}/identity`, `${A}/u.3`])
    expect(await it.read(A, 3)).toBe('both')
  })

  test('is one file under all its names where files may have several, else one for each', async () => {
    for (const link of [true, false]) {
      await using it = await opened(memoryFs({ link }))
      await it.save([A], 'text')
      await it.mail.copy(it.box, A, [1], B)
      await using file = await it.fs.open(`storage/${A}/u.1`, 'write')
      await file.append([Buffer.from('!')])
      const { size } = (await it.fs.stat(`storage/${B}/u.1`))!
      expect(size === (await file.stat()).size).toBe(link)
    }
  })

  test('says where it comes from, and its path where it is: without any index nothing of that is lost', async () => {
    await using it = await opened()
    await it.save([A], 'one')
    await it.mail.copy(it.box, A, [1], B)
    await it.mail.expunge(it.box, A, [1])
    const bare = memoryTable(COLUMNS).process()
    await using box = await sdbox(it.fs, 'storage').open(bare.host)
    const found = (await Array.fromAsync(box.scan())).flat()
    const shown = found.map(({ file, origin, expunged }) => [
      file,
      Buffer.from(origin!.mailbox).toString('hex'),
      origin!.uidValidity,
      origin!.uid,
      expunged,
    ])
    expect(shown).toEqual([
      [`${A}/x.1`, A, 1000, 1, true],
      [`${B}/u.1`, B, 1001, 1, false],
    ])
    expect(Buffer.from(await it.fs.readFile(`storage/${B}/u.1`)).toString('latin1')).toContain(`M${A}000003e8`)
    expect(readIdentity(await it.fs.readFile(`storage/${B}/identity`))).toMatchObject({ name: 'Büro b' })
  })
})

describe('files that the log knows nothing of', () => {
  test('are left alone: another may have made them, or a newer index', async () => {
    await using it = await opened()
    await it.save([A], 'one')
    const foreign = [`${A}/u.77`, `${A}/u.1.broken`, `${A}/dovecot.index`, `${B}/u.5`, 'unnamed/05ffffffffffffff']
    for (const name of foreign) await it.fs.writeFile(`storage/${name}`, Buffer.from('foreign'))
    await it.mail.expunge(it.box, A, [1])
    await it.box.purge()
    expect(await it.names()).toEqual([...foreign, `${A}/identity`, `${B}/identity`].toSorted())
  })

  test('one that has the name of the next message keeps it: the message is found all the same', async () => {
    await using it = await opened()
    await it.save([A], 'one')
    await it.fs.writeFile(`storage/${A}/u.2`, Buffer.from('foreign'))
    await it.save([A], 'two')
    expect(await it.read(A, 2)).toBe('two')
    expect(Buffer.from(await it.fs.readFile(`storage/${A}/u.2`)).toString()).toBe('foreign')
    await it.box.purge()
    expect(await it.read(A, 2)).toBe('two')
    // Nobody else's any more.
    await it.fs.remove(`storage/${A}/u.2`)
    await it.box.purge()
    expect((await it.names()).filter((name) => name.startsWith('unnamed'))).toEqual([])
    expect(await it.read(A, 2)).toBe('two')
  })

  test('an index older than the files finds what was expunged since', async () => {
    const fs = memoryFs()
    const table = memoryTable(COLUMNS)
    const process = table.process()
    // As this process sees it until it refreshes.
    const late = table.process()
    {
      await using it = await opened(fs, process)
      await it.save([A], 'one', 'two')
      await late.host.refresh()
      await it.mail.expunge(it.box, A, [1])
    }
    const host = { ...late.host, refresh: () => Promise.resolve() }
    await using old = await opened(fs, { ...late, host })
    expect([await old.read(A, 1), await old.read(A, 2)]).toEqual(['one', 'two'])
    // Who writes to it next sets the names right.
    await fs.remove(`storage/${A}/u.2`)
    await old.box.purge()
    expect(await old.names()).toEqual([`${A}/identity`, `${A}/u.1`])
  })
})
