import { execFileSync } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { BoxSaved } from '@mailstead/box'
import { memoryTable } from '@mailstead/box/testing'
import { posixFs } from '@mailstead/fs/posix'
import { describe, expect } from 'vitest'
import { Dovecot, noDovecot, served, unless } from '../../test/dovecot.ts'
import { Letters } from '../../test/letters.ts'
import type { Compression } from './compress.ts'
import { dumpMdboxFile } from './dump.ts'
import { mdbox } from './mdbox.ts'
import { driveBytes, type Walked, type WalkedLine, walkFile } from './walk.ts'

const shared = fileURLToPath(new URL('../../../../../shared/', import.meta.url))

function records(bytes: Uint8Array): { readonly line: WalkedLine; readonly messages: Walked[] } {
  const [line, ...messages] = driveBytes<Walked | WalkedLine>(bytes, walkFile(bytes.length))
  return { line: line as WalkedLine, messages: messages as Walked[] }
}

interface Truth {
  readonly guid: string
  readonly 'size.physical': number
  readonly 'size.virtual': number
  readonly 'date.received': number
  readonly sha256: string
}

describe('files that Dovecot wrote', () => {
  const samples = join(shared, 'spec/samples')
  unless(existsSync(samples) ? undefined : `no ${samples}`, 'are walked to their end', () => {
    let count = 0
    for (const path of [
      'mdbox/storage/m.11',
      'mdbox/storage/m.13',
      'alt/t1/storage/m.10',
      'alt/t1/storage/m.12',
      'attachment-variants.m.1',
    ]) {
      const { line, messages } = records(readFileSync(join(samples, path)))
      expect(line).toMatchObject({ verified: false, damage: undefined })
      for (const message of messages) {
        expect(message, path).toMatchObject({ damage: undefined, checksummed: false })
        expect(message.guid?.length).toBe(16)
        count++
      }
    }
    expect(count).toBeGreaterThan(4)
    console.log(`${count} messages of Dovecot's samples read`)
    const truncated = records(readFileSync(join(samples, 'mdbox/storage/m.13.broken'))).messages
    expect(truncated.at(-1)?.damage).toBeDefined()
    return Promise.resolve()
  })

  const fixture = join(shared, 'fixtures/mdbox.tar.gz')
  unless(
    existsSync(fixture) ? undefined : `no ${fixture}`,
    'hold every message of the fixture, by its GUID',
    async () => {
      const directory = await mkdtemp(join(tmpdir(), 'mdbox-fixture-'))
      try {
        execFileSync('tar', ['xzf', fixture, '-C', directory])
        const truth = new Map<string, Truth>()
        const { mailboxes } = JSON.parse(readFileSync(join(shared, 'fixtures/mdbox.json'), 'utf8')) as {
          readonly mailboxes: Readonly<Record<string, { readonly mail: readonly Truth[] }>>
        }
        for (const { mail } of Object.values(mailboxes)) for (const one of mail) truth.set(one.guid, one)
        const found = new Map<string, Walked>()
        for (const storage of ['fixmdbox/mdbox/storage', 'fixmdbox/alt/storage']) {
          for (const name of readdirSync(join(directory, storage)).filter((file) => file.startsWith('m.'))) {
            const { line, messages } = records(readFileSync(join(directory, storage, name)))
            expect(line.damage).toBeUndefined()
            for (const message of messages) {
              expect(message.damage, `${name} ${message.offset}`).toBeUndefined()
              found.set(Buffer.from(message.guid!).toString('hex'), message)
            }
          }
        }
        for (const [guid, one] of truth) {
          // Migrated GUIDs may be any text.
          const key = /^[0-9a-f]{32}$/.test(guid) ? guid : createHash('sha1').update(guid).digest('hex').slice(8)
          const message = found.get(key)
          expect(message, guid).toMatchObject({
            physicalSize: one['size.physical'],
            size: one['size.virtual'],
            receivedMs: one['date.received'] * 1000,
          })
        }
        console.log(`${truth.size} messages of the fixture found among ${found.size} in its files`)
      } finally {
        await rm(directory, { recursive: true })
      }
    },
  )
})

describe('files that we write', () => {
  unless(noDovecot(), 'are indexed and served by Dovecot, byte for byte', async () => {
    await using dovecot = await Dovecot.create()
    const fs = await posixFs(join(dovecot.directory, 'home/mdbox'))
    const proc = memoryTable(mdbox(fs, 'storage').columns).process()
    const texts = [
      'Subject: one\r\n\r\nbody\r\n',
      'Subject: lone line feeds\n\nbody\nwithout an end',
      'Subject: mixed\r\n\nlone \r and \r\r\n and \0 and \u00e9\r\n',
      'Subject: magic\r\n\r\n\n\x01\x02N          0000000000000010\nfake\n\x01\x03\nGx\n\n',
      `Subject: long\r\n\r\n${'a line of this message\r\n'.repeat(10_000)}`,
      ...Array.from({ length: 30 }, (_, i) => `Subject: ${i}\r\n\r\n${randomUUID()}\r\n`),
    ]
    const bodies = texts.map((text) => Buffer.from(text, 'latin1'))
    const large = Buffer.from(`Subject: spooled\r\n\r\n${randomBytes(1_500_000).toString('base64')}\r\n`)
    {
      await using box = await mdbox(fs, 'storage', { rotateBytes: 60_000 }).open(proc.host)
      for (const [mailbox, list] of [
        ['INBOX', bodies],
        ['Büro/Q&A', [bodies[0]!, large]],
      ] as const)
        for (const body of list) {
          await using batch = box.begin()
          const metadata = { guid: randomBytes(16), receivedMs: 1_600_000_000_000, mailbox }
          const saved: BoxSaved = await batch.save(body === large ? pieces(body) : body, metadata)
          await batch.flush()
          await proc.keep(saved)
        }
    }
    await dovecot.own()
    await dovecot.doveadm('force-resync', '*')
    const inbox = await dovecot.bodies('INBOX')
    expect(inbox.map((body) => body.toString('latin1')).toSorted()).toEqual(bodies.map(served).toSorted())
    const other = await dovecot.bodies('B&APw-ro/Q&-A')
    expect(other.length).toBe(2)
    expect(other.some((body) => body.equals(large))).toBe(true)
    const dates = await dovecot.doveadm('-f', 'tab', 'fetch', 'date.received', 'mailbox', 'Büro/Q&A')
    expect(dates).toContain('2020-09-13')
    expect(await dovecot.log()).not.toMatch(/Error|Panic|[Cc]orrupt/)

    // What Dovecot moves about, raw, keeps our checksums.
    await dovecot.doveadm('expunge', 'mailbox', 'INBOX', 'uid', '1')
    await dovecot.doveadm('purge')
    let checked = 0
    const storage = join(dovecot.directory, 'home/mdbox/storage')
    for (const name of readdirSync(storage).filter((file) => /^m\.\d+$/.test(file)))
      for (const message of records(readFileSync(join(storage, name))).messages) {
        expect(message, name).toMatchObject({ damage: undefined, checksummed: true })
        checked++
      }
    expect(checked).toBe(bodies.length + 1)
    expect((await dovecot.bodies('INBOX')).length).toBe(bodies.length - 1)
    console.log(
      `${inbox.length + other.length} messages served by Dovecot, ${checked} checksums kept through its purge`,
    )
  })

  unless(
    noDovecot(),
    'compressed, in two tiers, purged and moved about, are served by Dovecot byte for byte',
    async () => {
      await using dovecot = await Dovecot.create((directory) => ({
        mail_plugins: 'zlib',
        mail_location: `mdbox:${join(directory, 'home/mdbox')}:ALT=${join(directory, 'home/alt')}`,
      }))
      const fs = await posixFs(join(dovecot.directory, 'home/mdbox'))
      const alt = await posixFs(join(dovecot.directory, 'home/alt'), { create: true })
      const proc = memoryTable(mdbox(fs, 'storage').columns).process()
      const bodies = [
        'Subject: short\r\n\r\nnot compressed\r\n',
        `Subject: one frame\n\n${'a line without its CR\n'.repeat(500)}`,
        `Subject: seven frames\r\n\r\n${'a line of this message\r\n'.repeat(40_000)}`,
        `Subject: incompressible\r\n\r\n${randomBytes(300_000).toString('base64')}\r\n`,
        '\x28\xb5\x2f\xfd: not what it seems\r\n',
        ...Array.from({ length: 30 }, (_, i) => `Subject: ${i}\r\n\r\n${`${randomUUID()} `.repeat(i * 7)}\r\n`),
      ].map((text) => Buffer.from(text, 'latin1'))
      const large = Buffer.from(`Subject: spooled\r\n\r\n${randomBytes(1_500_000).toString('base64')}\r\n`)
      const alive: Buffer[] = []
      {
        const options = { rotateBytes: 100_000, compression: 3, alt: { fs: alt, path: 'storage' } }
        await using box = await mdbox(fs, 'storage', options).open(proc.host)
        const refs: number[] = []
        for (const body of [...bodies, large, ...bodies]) {
          await using batch = box.begin()
          const source = body === large ? pieces(body) : body
          const saved = await batch.save(source, { guid: randomBytes(16), receivedMs: 0, mailbox: 'INBOX' })
          await batch.flush()
          refs.push(...(await proc.keep(saved)))
        }
        // The second half: some of it dead and purged, the rest in the second tier; and some of the first there and back.
        const second = refs.slice(bodies.length)
        const dead = second.filter((_, i) => i % 3 === 1)
        await proc.setUses(dead, 0)
        alive.push(...bodies, ...[large, ...bodies].filter((_, i) => i % 3 !== 1))
        expect(await box.altmove!(Uint32Array.from(refs.slice(20)), { to: 'alt' })).toMatchObject({
          damaged: 0,
          left: 0,
        })
        await box.purge()
        await box.altmove!(Uint32Array.from(refs.slice(20, bodies.length)), { to: 'primary' })
        await box.purge()
        expect((await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
      }
      const storages = ['home/mdbox/storage', 'home/alt/storage'].map((name) => join(dovecot.directory, name))
      for (const storage of storages) expect(readdirSync(storage).some((name) => /^m\.\d+$/.test(name))).toBe(true)
      await dovecot.own()
      await dovecot.doveadm('force-resync', '*')
      const inbox = await dovecot.bodies('INBOX')
      expect(inbox.length).toBe(alive.length)
      expect(inbox.map((body) => body.toString('latin1')).toSorted()).toEqual(alive.map(served).toSorted())
      expect(await dovecot.log()).not.toMatch(/Error|Panic|[Cc]orrupt/)

      // Its own altmove and purge copy what is stored, and our checksums of it.
      await dovecot.doveadm('altmove', 'mailbox', 'INBOX', 'uid', '1:10')
      await dovecot.doveadm('expunge', 'mailbox', 'INBOX', 'uid', '11:14')
      await dovecot.doveadm('purge')
      let compressed = 0
      let checked = 0
      for (const storage of storages)
        for (const name of readdirSync(storage).filter((file) => /^m\.\d+$/.test(file)))
          for (const message of records(readFileSync(join(storage, name))).messages) {
            expect(message, name).toMatchObject({ damage: undefined, checksummed: true })
            if (message.storedSize !== message.physicalSize) compressed++
            checked++
          }
      expect(checked).toBe(alive.length - 4)
      console.log(
        `${inbox.length} messages of two tiers served by Dovecot, ${checked} checksums kept, ${compressed} compressed`,
      )
    },
  )

  unless(
    noDovecot(),
    'of which parts lie elsewhere, are refused by Dovecot, and never served without them',
    async () => {
      for (const [attachments, compression] of [
        [true, 'off'],
        [true, 3],
        [false, 'off'],
      ] as const) {
        await using dovecot = await Dovecot.create((directory) => ({
          mail_plugins: 'zlib',
          ...(attachments ? { mail_attachment_dir: join(directory, 'home/attachments') } : {}),
        }))
        const fs = await posixFs(join(dovecot.directory, 'home/mdbox'))
        const proc = memoryTable(mdbox(fs, 'storage').columns).process()
        const letters = new Letters(fs, proc.host)
        const plain = (text: string): Buffer => Buffer.from(`Subject: ${text}\r\n\r\nwhole\r\n`)
        const attached = Buffer.from(`Subject: two\r\n\r\n${'q'.repeat(40_000)}\r\nTHE END\r\n`)
        {
          await using box = await mdbox(fs, 'storage', { compression }).open({ ...proc.host, attachments: letters })
          for (const body of [plain('one'), attached, plain('three')]) {
            await using batch = box.begin()
            const saved = await batch.save(body, { guid: randomBytes(16), receivedMs: 0, mailbox: 'INBOX' })
            await batch.flush()
            await proc.keep(saved)
          }
          expect(letters.used).toEqual(['part.1'])
        }
        await dovecot.own()
        await dovecot.doveadm('force-resync', '*')
        for (const uid of ['1', '3'])
          expect(await dovecot.doveadm('fetch', 'text', 'mailbox', 'INBOX', 'uid', uid)).toContain('whole')
        if (attachments)
          await expect(dovecot.doveadm('fetch', 'text', 'mailbox', 'INBOX', 'uid', '2')).rejects.toThrow('ext-refs')
        // A server that knows of no attachments announces the whole size, and breaks off where it cannot keep its word.
        const all = await dovecot.bodies('INBOX')
        expect(all.length).toBeLessThan(3)
        expect(all.some((body) => body.equals(attached))).toBe(false)
      }
    },
  )

  unless(noDovecot(), 'damaged, are repaired by Dovecot without harm to our checksums', async () => {
    await repaired('off')
  })
  unless(
    noDovecot(),
    'compressed and damaged, are repaired by it too, though it counts sizes anew and wrong',
    async () => {
      await repaired(3)
    },
  )
})

async function repaired(compression: Compression): Promise<void> {
  await using dovecot = await Dovecot.create(() => ({ mail_plugins: 'zlib' }))
  const fs = await posixFs(join(dovecot.directory, 'home/mdbox'))
  const proc = memoryTable(mdbox(fs, 'storage').columns).process()
  {
    await using box = await mdbox(fs, 'storage', { compression }).open(proc.host)
    await using batch = box.begin()
    const saved: BoxSaved[] = []
    for (let i = 0; i < 5; i++)
      saved.push(
        await batch.save(Buffer.from(`Subject: ${i}\n\n${`body ${i}\n`.repeat(200)}`), {
          guid: new Uint8Array(16).fill(i + 1),
          receivedMs: 0,
          mailbox: 'INBOX',
        }),
      )
    await batch.flush()
    await proc.keep(...saved)
  }
  const path = join(dovecot.directory, 'home/mdbox/storage/m.1')
  const bytes = readFileSync(path)
  const before = records(bytes).messages
  // The third message's metadata is broken, so that Dovecot rewrites the file.
  const at = before[2]!.offset + 30 + before[2]!.storedSize
  bytes[at + 1] = 0x20
  await writeFile(path, bytes)
  await dovecot.own()
  await dovecot.doveadm('force-resync', '*').catch(() => {})
  await dovecot.doveadm('force-resync', '*').catch(() => {})
  const after = records(readFileSync(path)).messages
  for (const i of [0, 1, 4]) {
    const kept = after.find((message) => message.sum === before[i]!.sum)
    expect(kept, [...dumpMdboxFile(readFileSync(path))].join('\n')).toMatchObject({
      damage: undefined,
      checksummed: true,
      // V says what is stored; ours is counted.
      size: before[i]!.size,
    })
  }
  expect(before.every(({ storedSize, physicalSize }) => storedSize !== physicalSize)).toBe(compression !== 'off')
}

describe('messages that Dovecot compressed', () => {
  unless(noDovecot(), 'are read: gz, bz2, zstd', async () => {
    await using dovecot = await Dovecot.create(() => ({ mail_plugins: 'zlib' }))
    const bodies: Buffer[] = []
    for (const codec of ['gz', 'bz2', 'zstd'])
      for (const text of [
        'x\n',
        'a line of this message\n'.repeat(5000),
        `${randomBytes(200_000).toString('base64')}\n`,
      ]) {
        const body = Buffer.from(`Subject: ${codec}\n\n${text}`)
        const file = join(dovecot.directory, `body.${bodies.length}`)
        await writeFile(file, body, { mode: 0o644 })
        await dovecot.doveadm('-o', `plugin/zlib_save=${codec}`, 'save', '-m', 'INBOX', file)
        bodies.push(body)
      }
    const fs = await posixFs(join(dovecot.directory, 'home/mdbox'))
    const proc = memoryTable(mdbox(fs, 'storage').columns).process()
    await using box = await mdbox(fs, 'storage').open(proc.host)
    const found = (await Array.fromAsync(box.scan())).flat()
    expect(found.map(({ physicalSize }) => physicalSize)).toEqual(bodies.map(({ length }) => length))
    let stored = 0
    for (const [i, { row }] of found.entries()) {
      const [ref] = await proc.keep({
        physicalSize: 0,
        size: 0,
        canonical: false,
        place: (tx) => tx.append(proc.host.table.id, { columns: row! }),
      })
      stored += row!['length'] as number
      await using message = await box.open(ref!)
      const into = Buffer.alloc(message.physicalSize)
      await message.read(into, 0)
      expect(into.equals(bodies[i]!)).toBe(true)
      await message.read(into.subarray(0, 5), 3)
      expect(into.subarray(0, 5).equals(bodies[i]!.subarray(3, 8))).toBe(true)
    }
    expect(stored).toBeLessThan(bodies.reduce((sum, { length }) => sum + length, 0))
    expect((await Array.fromAsync(box.check())).flat().filter(({ severity }) => severity === 'damage')).toEqual([])
    await fs[Symbol.asyncDispose]()
    console.log(`${found.length} messages that Dovecot compressed read`)
  })
})

async function* pieces(body: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += 64_000) yield body.subarray(at, at + 64_000)
}
