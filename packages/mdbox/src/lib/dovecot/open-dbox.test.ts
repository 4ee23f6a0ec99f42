import { createHash } from 'node:crypto'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sizeInMessage } from './attachment.ts'
import { FieldCache } from './cache.ts'
import type { DovecotFault, DovecotMessage, DovecotStore, OpenDovecotOptions } from './contract.ts'
import { readRecord, readReferences } from './dbox-record.ts'
import { Faults } from './fault.ts'
import { GuidTable } from './guid-table.ts'
import { checkSubscriptions } from './mailbox-log.ts'
import { MailIndex } from './mail-index.ts'
import { openDovecot } from './open-dovecot.ts'
import { openIfThere } from './root.ts'
import { readSubscriptions } from './subscriptions.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 1_000_000 : depth === 'ci' ? 3000 : 150
const GUID = '000102030405060708090a0b0c0d0e0f'
const DIRECTORY = 'sdbox/mailboxes/INBOX/dbox-Mails'

interface Written {
  readonly body: Uint8Array | string
  /** Lines of metadata besides R, V and G. */
  readonly lines?: readonly string[]
  readonly plain?: Uint8Array
  readonly guid?: string
  readonly virtual?: number
}

function recordBytes({ body, lines = [], plain, guid = GUID, virtual }: Written): Buffer {
  const stored = Buffer.from(body as string)
  const text = Buffer.from(plain ?? stored)
  const lone = text.toString('latin1').match(/(?<!\r)\n/g)?.length ?? 0
  const size = stored.length.toString(16).toUpperCase().padStart(16, '0')
  const metadata = [
    ...(text.length === stored.length ? [] : [`Z${text.length.toString(16)}`]),
    'R5f000000',
    `V${(virtual ?? text.length + lone).toString(16)}`,
    `G${guid}`,
    ...lines,
  ]
  return Buffer.concat([
    Buffer.from(`\x01\x02N          ${size}\n`, 'latin1'),
    stored,
    Buffer.from(`\n\x01\x03\n${metadata.join('\n')}\n\n`, 'latin1'),
  ])
}

function fileBytes(...records: readonly Written[]): Buffer {
  return Buffer.concat([Buffer.from('2 M1e C5f000000\n'), ...records.map(recordBytes)])
}

async function storeOf(
  files: Readonly<Record<string, Uint8Array | string>>,
  options?: OpenDovecotOptions,
): Promise<DovecotStore> {
  return openDovecot(await fsOf(files), '', options)
}

async function fsOf(files: Readonly<Record<string, Uint8Array | string>>): Promise<Fs> {
  const fs = memoryFs()
  for (const [name, content] of Object.entries(files)) await fs.writeFile(name, Buffer.from(content as string))
  return fs
}

async function messagesOf(store: DovecotStore): Promise<readonly DovecotMessage[]> {
  const messages: DovecotMessage[] = []
  for (const mailbox of store.mailboxes) messages.push(...(await Array.fromAsync(mailbox.messages())).flat())
  return messages
}

async function bytesOf(message: DovecotMessage | undefined): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(message!.open()))
}

describe('a message of Dovecot', () => {
  test('has its date, GUID, UIDL and order in its file', async () => {
    const store = await storeOf({
      [`${DIRECTORY}/u.7`]: fileBytes({ body: 'A: b\n\nc\n', lines: ['Puidl-1', 'O12', 'BINBOX', 'Qanything'] }),
      [`${DIRECTORY}/u.9`]: fileBytes({ body: '', guid: 'any text' }),
    })
    const [first, second] = await messagesOf(store)
    expect(first).toMatchObject({
      uid: 7,
      flags: 0,
      keywords: [],
      receivedMs: 0x5f000000 * 1000,
      pop3Uidl: 'uidl-1',
      pop3Order: 12,
    })
    expect(Buffer.from(first!.guid!).toString('hex')).toBe(GUID)
    expect(String(await bytesOf(first))).toBe('A: b\n\nc\n')
    expect(Buffer.from(second!.guid!)).toEqual(createHash('sha1').update('any text').digest().subarray(4))
    expect((await bytesOf(second)).length).toBe(0)
    // Nothing but the files is left of this store.
    expect([...new Set(store.faults.map((fault) => fault.kind))]).toEqual(['mailbox-index-lost', 'flags-lost'])
    expect(store.faults.filter((fault) => fault.kind === 'flags-lost').map((fault) => fault.uid)).toEqual([7, 9])
  })

  test('is read however it is compressed', async () => {
    const plain = Buffer.from(`Subject: x\n\n${'text again\n'.repeat(20_000)}`)
    const store = await storeOf({
      [`${DIRECTORY}/u.1`]: fileBytes({ body: gzipSync(plain), plain }),
      [`${DIRECTORY}/u.2`]: fileBytes({ body: zstdCompressSync(plain), plain }),
      // Dovecot's repair counts the CRLF of what is stored.
      [`${DIRECTORY}/u.3`]: fileBytes({
        body: gzipSync(plain),
        plain,
        virtual:
          gzipSync(plain).length +
          (gzipSync(plain)
            .toString('latin1')
            .match(/(?<!\r)\n/g)?.length ?? 0),
      }),
      // The same first bytes, in a message that was never compressed.
      [`${DIRECTORY}/u.4`]: fileBytes({ body: Buffer.from([0x1f, 0x8b, 0x0a]) }),
    })
    const messages = await messagesOf(store)
    for (const message of messages.slice(0, 3)) expect((await bytesOf(message)).equals(plain)).toBe(true)
    expect([...(await bytesOf(messages[3]))]).toEqual([0x1f, 0x8b, 0x0a])
  })

  test('is damaged if a size is not what it was', async () => {
    const plain = Buffer.from('Subject: x\n\ntext\n')
    const truncated = fileBytes({ body: plain })
    const store = await storeOf({
      [`${DIRECTORY}/u.1`]: fileBytes({ body: plain, virtual: 1 }),
      [`${DIRECTORY}/u.2`]: fileBytes({ body: gzipSync(plain), plain: Buffer.concat([plain, plain]) }),
      [`${DIRECTORY}/u.3`]: fileBytes({ body: gzipSync(plain), plain: plain.subarray(1) }),
      [`${DIRECTORY}/u.4`]: fileBytes({ body: gzipSync(plain).subarray(0, 20), plain }),
      [`${DIRECTORY}/u.5`]: truncated.subarray(0, truncated.length - 1),
    })
    const messages = await messagesOf(store)
    expect(messages.map((message) => message.uid)).toEqual([1, 2, 3, 4, 5])
    for (const message of messages) {
      await expect(bytesOf(message)).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
      expect(store.faults.some((fault) => fault.uid === message.uid && fault.kind.startsWith('message-'))).toBe(true)
    }
    for (const at of [0, 4])
      await expect(bytesOf(messages[at])).rejects.toMatchObject({ file: `${DIRECTORY}/u.${at + 1}`, offset: 16 })
  })

  test('is not read if it is encrypted, or compressed by what nobody reads', async () => {
    const plain = Buffer.from('Subject: x\n\ntext\n')
    const store = await storeOf({
      [`${DIRECTORY}/u.1`]: fileBytes({ body: Buffer.from('CRYPTED\x03\x07..........'), plain }),
      [`${DIRECTORY}/u.2`]: fileBytes({ body: Buffer.from('\xfd7zXZ\0.............', 'latin1'), plain }),
    })
    for (const message of await messagesOf(store))
      await expect(bytesOf(message)).rejects.toMatchObject({ code: 'BOX_UNSUPPORTED' })
  })

  test('with anything for a record is read without an error', async () => {
    const whole = fileBytes({ body: 'A: b\n\nc\n', lines: [`X0 1 - aa/bb/${GUID}`] }, { body: 'D: e\n\nf\n' })
    const changes = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 })
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      changes.map((list) => {
        const out = Uint8Array.from(whole)
        for (const [at, value] of list) out[at] = value
        return out
      }),
    )
    await fc.assert(
      fc.asyncProperty(bytes, fc.nat(300), async (content, offset) => {
        const fs = await fsOf({ f: content })
        const file = await openIfThere({ fs, path: '', shown: '' }, 'f', new Faults())
        const record = await readRecord(file!, offset, 30)
        if (typeof record !== 'string') expect(record.end).toBeLessThanOrEqual(content.length)
        const store = await storeOf({ [`${DIRECTORY}/u.1`]: content })
        for (const message of await messagesOf(store)) await bytesOf(message).catch(() => {})
      }),
      { numRuns },
    )
  })
})

describe('an attachment that Dovecot keeps outside of its message', () => {
  const base64 = (bytes: Uint8Array, lineLength: number, end: string): string =>
    Buffer.from(bytes)
      .toString('base64')
      .match(new RegExp(`.{1,${lineLength}}`, 'g'))!
      .join(end)

  test('is put back, whatever its lines are', async () => {
    const part = fc.record({
      before: fc.string({ maxLength: 30 }),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 400 }),
      lineLength: fc.constantFrom(0, 4, 8, 60, 76, 1000),
      crlf: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(
        fc.array(part, { minLength: 1, maxLength: 4 }),
        fc.string({ maxLength: 30 }),
        async (parts, after) => {
          const files: Record<string, Uint8Array | string> = {}
          let inline = ''
          let plain = ''
          const references: string[] = []
          for (const { before, bytes, lineLength, crlf } of parts) {
            const text = Buffer.from(before).toString('latin1')
            const end = crlf ? '\r\n' : '\n'
            const content = lineLength === 0 ? Buffer.from(bytes).toString('latin1') : base64(bytes, lineLength, end)
            const digest = createHash('sha1').update(bytes).digest('hex')
            const path = `${digest.slice(0, 2)}/${digest.slice(2, 4)}/${digest}-${GUID}`
            files[`attachments/${path}`] = bytes
            inline += text
            plain += text
            const options = lineLength === 0 ? '-' : `${crlf ? 'C' : ''}B${lineLength}`
            references.push(`${plain.length} ${content.length} ${options} ${path}`)
            expect(sizeInMessage(bytes.length, { start: 0, size: 0, lineLength, crlf, path })).toBe(content.length)
            plain += content
          }
          const rest = Buffer.from(after).toString('latin1')
          const whole = Buffer.from(plain + rest, 'latin1')
          const body = Buffer.from(inline + rest, 'latin1')
          files[`${DIRECTORY}/u.1`] = fileBytes({ body, plain: whole, lines: [`X${references.join(' ')}`] })
          const [message] = await messagesOf(await storeOf(files))
          expect((await bytesOf(message)).toString('latin1')).toBe(whole.toString('latin1'))
        },
      ),
      { numRuns },
    )
  })

  const content = Buffer.from('attached '.repeat(20_000))
  const digest = createHash('sha1').update(content).digest('hex')
  const directory = `${digest.slice(0, 2)}/${digest.slice(2, 4)}`
  const path = `${directory}/${digest}-${GUID}`
  const plain = Buffer.concat([Buffer.from('A: b\n\n'), Buffer.from(base64(content, 76, '\n')), Buffer.from('\n')])
  const message = fileBytes({ body: 'A: b\n\n\n', plain, lines: [`X6 ${plain.length - 7} B76 ${path}`] })

  test('is found by its hash if its own name is gone', async () => {
    for (const name of [
      path,
      `${directory}/hashes/${digest}`,
      `${path}-${GUID}-4`,
      `${directory}/${digest}-${'1'.repeat(32)}`,
    ]) {
      const store = await storeOf({ [`${DIRECTORY}/u.1`]: message, [`attachments/${name}`]: content })
      expect((await bytesOf((await messagesOf(store))[0])).equals(plain)).toBe(true)
      expect(store.faults.some((fault) => fault.kind === 'attachment-lost')).toBe(name !== path)
    }
    const elsewhere = await fsOf({ [`deep/${path}`]: content })
    const store = await storeOf({ [`${DIRECTORY}/u.1`]: message }, { attachments: { fs: elsewhere, path: 'deep' } })
    expect((await bytesOf((await messagesOf(store))[0])).equals(plain)).toBe(true)
  })

  test('is damage of its message if it is lost, or is another one', async () => {
    const other = Buffer.from(content)
    other[100_000]! ^= 1
    const cases: readonly Readonly<Record<string, Uint8Array>>[] = [
      {},
      { [`attachments/${path}`]: other },
      { [`attachments/${path}`]: content.subarray(1) },
    ]
    for (const files of cases) {
      const store = await storeOf({ [`${DIRECTORY}/u.1`]: message, ...files })
      await expect(bytesOf((await messagesOf(store))[0])).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
      expect(store.faults.at(-1)).toMatchObject({ kind: 'message-damaged', mailbox: 'INBOX', uid: 1 })
    }
  })

  const ofAttachments = ({ faults }: DovecotStore): readonly DovecotFault[] =>
    faults.filter(({ kind }) => kind.startsWith('attachment-'))

  test('is taken from another file of the same hash if its own is damaged, and every damaged one is named', async () => {
    const other = Buffer.from(content)
    other[100_000]! ^= 1
    const store = await storeOf({
      [`${DIRECTORY}/u.1`]: message,
      [`attachments/${path}`]: other,
      [`attachments/${directory}/hashes/${digest}`]: content.subarray(1),
      [`attachments/${directory}/${digest}-${'1'.repeat(32)}`]: content,
    })
    expect((await bytesOf((await messagesOf(store))[0])).equals(plain)).toBe(true)
    expect(ofAttachments(store).map(({ kind, file }) => [kind, file])).toEqual([
      ['attachment-damaged', `attachments/${path}`],
      ['attachment-damaged', `attachments/${directory}/hashes/${digest}`],
      ['attachment-lost', `attachments/${path}`],
    ])
    const lost = await storeOf({ [`${DIRECTORY}/u.1`]: message, 'attachments/other': content })
    await expect(bytesOf((await messagesOf(lost))[0])).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
    expect(ofAttachments(lost)).toMatchObject([
      { kind: 'attachment-lost', file: `attachments/${path}`, mailbox: 'INBOX', uid: 1 },
    ])
    const bare = await storeOf({ [`${DIRECTORY}/u.1`]: message })
    await expect(bytesOf((await messagesOf(bare))[0])).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
    expect(ofAttachments(bare)).toMatchObject([{ kind: 'attachment-lost', file: path, mailbox: 'INBOX', uid: 1 }])
  })

  test('is compared with its name, of whatever hash that is', async () => {
    const hex = (algorithm: string): string => createHash(algorithm).update(content).digest('hex')
    const wrong = Buffer.from(content)
    wrong[0]! ^= 1
    const names: readonly (readonly [name: string, isProof: boolean])[] = [
      ...['md5', 'sha1', 'sha256', 'sha384', 'sha512', 'sha3-256', 'sha3-512'].map(
        (name) => [hex(name), true] as const,
      ),
      [hex('sha256').slice(0, 20), true],
      [hex('sha512').slice(0, 40), true],
      [hex('sha1') + content.length.toString(16).padStart(16, '0'), true],
      [hex('sha256').slice(0, 8), false],
      ['q'.repeat(40), false],
    ]
    for (const [name, isProof] of names) {
      const where = `${name.slice(0, 2)}/${name.slice(2, 4)}/${name}-${GUID}`
      const mail = fileBytes({ body: 'A: b\n\n\n', plain, lines: [`X6 ${plain.length - 7} B76 ${where}`] })
      const whole = await storeOf({ [`${DIRECTORY}/u.1`]: mail, [`attachments/${where}`]: content })
      expect((await bytesOf((await messagesOf(whole))[0])).equals(plain)).toBe(true)
      expect(ofAttachments(whole).map(({ kind }) => kind)).toEqual(isProof ? [] : ['attachment-unverified'])
      const damaged = await storeOf({ [`${DIRECTORY}/u.1`]: mail, [`attachments/${where}`]: wrong })
      const read = bytesOf((await messagesOf(damaged))[0])
      if (isProof) await expect(read).rejects.toMatchObject({ code: 'BOX_DAMAGED' })
      else expect((await read).equals(plain)).toBe(false)
    }
  })

  test('is never looked for outside of its root', () => {
    expect(readReferences('0 5 - a/b', 5)).toHaveLength(1)
    for (const text of [
      '0 5 - ../b',
      '0 5 - /b',
      '0 5 - a//b',
      '0 5 - a/./b',
      '0 5 - a\0b',
      '0 5 -',
      '0 5 - ',
      ' ',
      '',
    ])
      expect(readReferences(text, 5)).toBe(undefined)
    for (const text of [
      '0 6 - a',
      '1 5 - a',
      '0 3 - a 2 1 - b',
      '0 5 B75 a',
      '0 5 B0 a',
      '0 5 Bx a',
      '0 5 D a',
      '-1 5 - a',
    ])
      expect(readReferences(text, 5)).toBe(undefined)
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('0', '5', ' ', '-', 'B', 'C', '/', '.', 'a') }),
        fc.nat(20),
        (text, size) => {
          for (const part of readReferences(text, size) ?? []) expect(part.start + part.size).toBeLessThanOrEqual(size)
        },
      ),
      { numRuns: numRuns * 4 },
    )
  })
})

describe('a store of Dovecot', () => {
  test('is found in a home directory, or by itself, and not among several', async () => {
    const files = { [`${DIRECTORY}/u.1`]: fileBytes({ body: 'x' }) }
    expect((await openDovecot(await fsOf(files), '')).kind).toBe('sdbox')
    expect((await openDovecot(await fsOf(files), 'sdbox')).kind).toBe('sdbox')
    await expect(openDovecot(await fsOf(files), DIRECTORY)).rejects.toMatchObject({ code: 'BOX_NOT_FOUND' })
    await expect(storeOf({ ...files, 'mdbox/storage/m.1': 'x' })).rejects.toThrow(TypeError)
  })

  test('says where lists of rights are, and whether users had flags of their own', async () => {
    const at = 'sdbox/mailboxes'
    await using store = await storeOf({
      [`${at}/INBOX/dbox-Mails/u.1`]: fileBytes({ body: 'x' }),
      [`${at}/Work/Sub/dbox-Mails/u.1`]: fileBytes({ body: 'x' }),
      [`${at}/Work/Sub/dbox-Mails/dovecot.index.pvt`]: '',
    })
    expect(store.defaults).toMatchObject({ path: at, shown: at })
    const told = store.mailboxes.map(async (mailbox) => [
      mailbox.name,
      mailbox.directory?.path,
      await mailbox.hasPrivateFlags(),
    ])
    expect(await Promise.all(told)).toEqual([
      ['INBOX', `${at}/INBOX/dbox-Mails`, false],
      ['Work', undefined, false],
      ['Work/Sub', `${at}/Work/Sub/dbox-Mails`, true],
    ])
  })
  test('has messages in alternate storage, beside it or where one says', async () => {
    const inAlt = { 'mailboxes/INBOX/dbox-Mails/u.2': fileBytes({ body: 'there' }) }
    const here = { [`${DIRECTORY}/u.1`]: fileBytes({ body: 'here' }) }
    const texts = async (store: DovecotStore): Promise<readonly string[]> =>
      Promise.all((await messagesOf(store)).map(async (message) => String(await bytesOf(message))))
    const beside = Object.fromEntries(Object.entries(inAlt).map(([name, bytes]) => [`alt/${name}`, bytes]))
    expect(await texts(await storeOf({ ...here, ...beside }))).toEqual(['here', 'there'])
    expect(await texts(await storeOf(here, { alt: { fs: await fsOf(inAlt), path: '' } }))).toEqual(['here', 'there'])
    const without = await storeOf({ ...here, 'sdbox/dbox-alt-root': '' })
    expect(await texts(without)).toEqual(['here'])
    expect(without.faults[0]).toMatchObject({ kind: 'alt-unknown', file: 'sdbox/dbox-alt-root' })
  })

  test('that has nothing but mdbox files has their mailboxes', async () => {
    const guid = (n: number): string => String(n).padStart(32, '0')
    const store = await storeOf({
      'mdbox/storage/m.1': fileBytes(
        { body: 'one', guid: guid(1), lines: ['BB&APw-ro'] },
        { body: 'two', guid: guid(2) },
      ),
      'alt/storage/m.2': fileBytes({ body: 'three', guid: guid(3), lines: ['BB&APw-ro'] }),
    })
    const found: unknown[] = []
    for (const mailbox of store.mailboxes)
      for (const message of (await Array.fromAsync(mailbox.messages())).flat())
        found.push([mailbox.name, mailbox.uidValidity, message.uid, String(await bytesOf(message)), message.shared])
    expect(found).toEqual([
      ['Büro', undefined, 1, 'one', 'mdbox/storage/m.1:16'],
      ['Büro', undefined, 2, 'three', 'alt/storage/m.2:16'],
      [
        'Recovered',
        undefined,
        1,
        'two',
        `mdbox/storage/m.1:${16 + recordBytes({ body: 'one', guid: guid(1), lines: ['BB&APw-ro'] }).length}`,
      ],
    ])
  })

  test('has the subscriptions of both versions of their file, and those that only the log has', async () => {
    expect(readSubscriptions(Buffer.from('V\t2\n\nA\tB\u0001tc\nInbox\n\n'), '/')).toEqual(['A/B\tc', 'INBOX'])
    expect(readSubscriptions(Buffer.from('A/&APw-\nA.B\n'), '/')).toEqual(['A/ü', 'A.B'])
    const record = (type: number, name: string): Buffer => {
      const out = Buffer.alloc(24)
      out[0] = type
      createHash('sha1').update(name).digest().copy(out, 4, 0, 16)
      return out
    }
    const fs = await fsOf({
      'dovecot.mailbox.log.2': Buffer.concat([record(4, 'A'), record(4, 'C')]),
      'dovecot.mailbox.log': Buffer.concat([
        record(4, 'B'),
        record(5, 'C'),
        record(1, 'D'),
        record(4, 'E'),
        Buffer.alloc(24),
        record(5, 'F'),
      ]),
    })
    const faults = new Faults()
    expect(
      await checkSubscriptions({ fs, path: '', shown: '' }, 'subscriptions', ['B', 'F'], ['A', 'B', 'C', 'D'], faults),
    ).toEqual(['B', 'F', 'A'])
    expect(faults.list.map((fault) => fault.kind)).toEqual([
      'log-damaged',
      'subscriptions-differ',
      'subscriptions-differ',
      'subscriptions-differ',
    ])
  })
})

test('a table of GUIDs finds every place of each', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(200), { maxLength: 400 }), (numbers) => {
      const table = new GuidTable()
      const guid = (n: number): Uint8Array => Uint8Array.from({ length: 16 }, (_, i) => (i === 3 ? n : 7))
      const model = new Map<number, number[]>()
      for (const [offset, n] of numbers.entries()) {
        table.add(guid(n), { root: n % 2, file: n, offset })
        model.set(n, [...(model.get(n) ?? []), offset])
      }
      for (let n = 0; n <= 201; n++) {
        expect([...table.places(guid(n))].map((place) => place.offset)).toEqual(model.get(n) ?? [])
        expect(table.has(guid(n))).toBe(model.has(n))
      }
    }),
    { numRuns: 20 },
  )
})

test('a cache may be anything, and what it says is what it holds', async () => {
  const names = ['flags', 'date.received', 'date.save', 'pop3.uidl', 'size.virtual']
  const sizes = [4, 4, 4, 0xffff_ffff, 8]
  const head = Buffer.alloc(32)
  head[0] = 1
  head.writeUInt32LE(99, 8)
  head.set([0x80, 0x80, 0x80, 0x88], 28)
  const block = Buffer.alloc(12 + names.length * 10)
  const text = Buffer.from(`${names.join('\0')}\0`)
  block.writeUInt32LE(block.length + text.length, 4)
  block.writeUInt32LE(names.length, 8)
  for (const [i, size] of sizes.entries()) block.writeUInt32LE(size, 12 + names.length * 4 + i * 4)
  const fields = Buffer.concat([block, text, Buffer.alloc((4 - ((block.length + text.length) % 4)) % 4)])
  const record = (before: number, ...words: readonly number[]): Buffer => {
    const out = Buffer.alloc(8 + words.length * 4)
    out.writeUInt32LE(before, 0)
    out.writeUInt32LE(out.length, 4)
    for (const [i, word] of words.entries()) out.writeUInt32LE(word, 8 + i * 4)
    return out
  }
  const first = 32 + fields.length
  const older = record(0, 1, 1000, 3, 2, 0x6261)
  const whole = Buffer.concat([head, fields, older, record(first, 1, 2000, 2, 3000)])
  const index = new MailIndex(true)
  index.addExtension('cache', 99, 4)
  const read = async (bytes: Uint8Array, offset: number): Promise<unknown> => {
    const fs = await fsOf({ 'dovecot.index.cache': bytes })
    const cache = await FieldCache.open({ fs, path: '', shown: '' }, index, new Faults(), 'Box')
    return cache?.fields(offset)
  }
  expect(await read(whole, first + older.length)).toEqual({ receivedMs: 2_000_000, savedMs: 3_000_000, pop3Uidl: 'ab' })
  const changes = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 5 })
  await fc.assert(
    fc.asyncProperty(changes, fc.nat(whole.length + 8), async (list, offset) => {
      const bytes = Uint8Array.from(whole)
      for (const [at, value] of list) bytes[at] = value
      await read(bytes, offset)
    }),
    { numRuns },
  )
})
