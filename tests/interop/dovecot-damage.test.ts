/**
 * Damaged stores of Dovecot: what is intact is read, what is not is named, and no message is ever another one's.
 *
 * Files are cut, lost, cannot be read, or lose a sector: then every difference from the truth has to have a fault that names the message, its
 * mailbox or the file. A single flipped bit of what Dovecot keeps once, and without a checksum, nobody can find; such
 * differences are counted. Bytes of another message under a GUID are never among them.
 */
import { createHash } from 'node:crypto'
import { type DovecotFault, type DovecotMailbox, type DovecotMessage, openDovecot } from '@mailstead/mdbox/dovecot'
import { describe, expect } from 'vitest'
import { below, depth, runSeed, say, seeded } from '../support/depth.ts'
import { testUnless } from '../support/test-unless.ts'
import {
  type Files,
  type Fixture,
  filesFs,
  fixtureLack,
  guidHex,
  loadFixture,
  type TrueMailbox,
} from './lib/dovecot-fixture.ts'

const NAMES = ['mdbox', 'mdbox-sis', 'sdbox', 'sdbox-sis']
const KINDS: readonly RegExp[] = [
  /dovecot\.index$/,
  /dovecot\.index\.backup$/,
  /dovecot\.index\.log$/,
  /dovecot\.index\.cache$/,
  /dovecot\.map\.index$/,
  /dovecot\.map\.index\.log$/,
  /dovecot\.list\.index$/,
  /dovecot\.list\.index\.log/,
  /\/[mu]\.\d+$/,
  /^attachments\//,
  /subscriptions$/,
]
const WAYS = ['cut', 'flip', 'sector', 'lose', 'break'] as const
const SECTOR = 512
const runs = { normal: 20, ci: 400, soak: 1_000_000 }[depth()]

interface Difference {
  readonly mailbox: string | undefined
  readonly uid?: number
  readonly what: string
}

interface Judged {
  readonly messages: number
  readonly differences: readonly Difference[]
  readonly unnamed: readonly Difference[]
  /** Messages whose bytes are not those of their GUID. */
  readonly wrong: number
  /** Bodies that differ, and were told to have zeros as a lost sector leaves them. */
  readonly zeroed: number
  readonly faults: readonly DovecotFault[]
}

function sha256(pieces: readonly Uint8Array[]): string {
  const text = Buffer.concat(pieces).toString('latin1').replace(/\r?\n/g, '\r\n')
  return createHash('sha256').update(text, 'latin1').digest('hex')
}

async function bodyHash(message: DovecotMessage): Promise<string | undefined> {
  const pieces: Uint8Array[] = []
  try {
    for await (const piece of message.open()) pieces.push(Uint8Array.from(piece))
  } catch (error) {
    expect(['BOX_DAMAGED', 'BOX_UNSUPPORTED', 'FS_IO']).toContain((error as { code?: string }).code)
    return undefined
  }
  return sha256(pieces)
}

function fieldsOf(message: DovecotMessage): readonly unknown[] {
  const { keywords, modSeq, receivedMs, savedMs, pop3Uidl, pop3Order, flags } = message
  return [
    message.guid === undefined ? '' : Buffer.from(message.guid).toString('hex'),
    flags,
    [...keywords].sort().join(' '),
    modSeq,
    receivedMs,
    savedMs,
    pop3Uidl ?? '',
    String(pop3Order ?? ''),
  ]
}

const BITS = ['\\Answered', '\\Flagged', '\\Deleted', '\\Seen', '\\Draft']

function trueFields(truth: TrueMailbox['mail'][number]): readonly unknown[] {
  return [
    guidHex(truth.guid),
    truth.flags.reduce((bits, flag) => bits | (BITS.includes(flag) ? 1 << BITS.indexOf(flag) : 0), 0),
    [...truth.keywords].sort().join(' '),
    truth.modseq,
    truth['date.received'] * 1000,
    truth['date.saved'] * 1000,
    truth['pop3.uidl'],
    truth['pop3.order'],
  ]
}

const FIELDS = ['guid', 'flags', 'keywords', 'modseq', 'received', 'saved', 'uidl', 'order']

/** Reads everything of a store and compares it with the truth. */
async function judge(
  { truth, files: all }: Fixture,
  files: Files,
  damaged: ReadonlySet<string>,
  broken: ReadonlySet<string> = new Set(),
): Promise<Judged> {
  await using store = await openDovecot(filesFs(files, all.keys(), broken), '')
  const bodies = new Map<string, string>()
  for (const { mail } of Object.values(truth.mailboxes))
    for (const one of mail) bodies.set(guidHex(one.guid), one.sha256)
  const differences: Difference[] = []
  let wrong = 0
  let zeroed = 0
  let messages = 0
  const seen = new Set<string>()
  const judgeMailbox = async (mailbox: DovecotMailbox, expected: TrueMailbox | undefined): Promise<void> => {
    const { name } = mailbox
    const differ = (what: string, uid?: number): void => {
      differences.push(uid === undefined ? { mailbox: name, what } : { mailbox: name, uid, what })
    }
    if (expected === undefined) differ('a mailbox that there is not')
    else if (mailbox.guid === undefined || Buffer.from(mailbox.guid).toString('hex') !== expected.guid) differ('guid')
    if (mailbox.uidValidity !== expected?.uidvalidity) differ('uidValidity')
    if (mailbox.uidNext !== expected?.uidnext) differ('uidNext')
    if (mailbox.highestModSeq !== expected?.highestmodseq) differ('highestModSeq')
    const left = new Map((expected?.mail ?? []).map((one) => [one.uid, one]))
    for await (const page of mailbox.messages())
      for (const message of page) {
        messages++
        const { uid } = message
        const one = left.get(uid)
        left.delete(uid)
        if (one === undefined) differ('a message that there is not', uid)
        else
          for (const [at, value] of trueFields(one).entries())
            if (fieldsOf(message)[at] !== value) differ(FIELDS[at]!, uid)
        const hash = await bodyHash(message)
        const known = message.guid === undefined ? undefined : bodies.get(Buffer.from(message.guid).toString('hex'))
        // Of a message that was expunged nothing is known here, but that it has a GUID of its own.
        if (hash === undefined) differ('no body', uid)
        else if (known !== undefined && known !== hash) {
          // A lost sector within a plain body is told, and the bytes are given as they are.
          const isTold = store.faults.some(
            (one) => one.kind === 'zeros' && one.mailbox === mailbox.name && one.uid === uid,
          )
          if (isTold) zeroed++
          else wrong++
          differ('body', uid)
        }
      }
    for (const uid of left.keys()) differ('lost', uid)
  }
  for (const mailbox of store.mailboxes)
    if (mailbox.selectable) {
      seen.add(mailbox.name)
      await judgeMailbox(mailbox, truth.mailboxes[mailbox.name])
    }
  for (const name of Object.keys(truth.mailboxes))
    if (!seen.has(name)) differences.push({ mailbox: name, what: 'no such mailbox' })
  if ([...store.subscriptions].sort().join() !== 'Archive,Work/Projects,Ünïcode & ☃')
    differences.push({ mailbox: undefined, what: 'subscriptions' })
  const { faults } = store
  const named = ({ mailbox, uid }: Difference): boolean =>
    faults.some(
      (fault) =>
        (fault.file !== undefined && damaged.has(fault.file)) ||
        (mailbox !== undefined &&
          fault.mailbox === mailbox &&
          (fault.uid === undefined || uid === undefined || fault.uid === uid)),
    )
  return { messages, differences, unnamed: differences.filter((one) => !named(one)), wrong, zeroed, faults }
}

function damage(bytes: Uint8Array, way: (typeof WAYS)[number], random: () => number): Uint8Array | undefined {
  const at = below(random, bytes.length)
  if (way === 'lose') return undefined
  if (way === 'break') return bytes
  if (way === 'cut') return bytes.subarray(0, at)
  const changed = Uint8Array.from(bytes)
  if (way === 'flip') changed[at]! ^= 1 << below(random, 8)
  else changed.fill(0, at - (at % SECTOR), at - (at % SECTOR) + SECTOR)
  return changed
}

describe('a damaged store of Dovecot', () => {
  testUnless(fixtureLack(), 'is read as far as it is intact, and every difference is named', async () => {
    const fixtures = NAMES.map(loadFixture)
    const first = runSeed()
    let differences = 0
    let unnamed = 0
    let rotten = 0
    let zeroed = 0
    let messages = 0
    for (let run = 0; run < runs; run++) {
      const seed = first + run
      const random = seeded(seed)
      const fixture = fixtures[below(random, fixtures.length)]!
      const files = new Map(fixture.files)
      const damaged = new Set<string>()
      const broken = new Set<string>()
      const done: string[] = []
      let flipped = false
      let rot = false
      let sectors = false
      for (let i = below(random, 3); i >= 0; i--) {
        const kinds = KINDS.filter((kind) => [...files.keys()].some((path) => kind.test(path)))
        const kind = kinds[below(random, kinds.length)]!
        const paths = [...files.keys()].filter((path) => kind.test(path))
        const path = paths[below(random, paths.length)]!
        const way = WAYS[below(random, WAYS.length)]!
        const bytes = files.get(path)!
        if (bytes.length === 0) continue
        const changed = damage(bytes, way, random)
        if (changed === undefined) files.delete(path)
        else files.set(path, changed)
        damaged.add(path)
        if (way === 'break') broken.add(path)
        done.push(`${way} ${path}`)
        flipped ||= way === 'flip'
        // Nothing tells that a byte of a message is another one, unless it is compressed, or kept by its hash.
        const inMessages = /\/[mu]\.\d+$/.test(path)
        rot ||= way === 'flip' && inMessages
        sectors ||= way === 'sector' && inMessages
      }
      const judged = await judge(fixture, files, damaged, broken)
      const context = `seed ${seed}: ${fixture.name}, ${done.join(', ')}`
      if (!rot) expect(judged.wrong, context).toBe(0)
      if (!sectors) expect(judged.zeroed, context).toBe(0)
      if (!flipped) expect(judged.unnamed, context).toEqual([])
      differences += judged.differences.length
      unnamed += judged.unnamed.length
      rotten += judged.wrong
      zeroed += judged.zeroed
      messages += judged.messages
    }
    say(
      `${runs} damaged stores (seed ${first}), ${messages} messages read: ${differences} differences, ${unnamed} unnamed (of single bits), ${rotten} bodies with a flipped bit, ${zeroed} told to have lost a sector`,
    )
  })

  testUnless(
    fixtureLack(),
    '(mdbox) that has nothing left but messages is read by the mailboxes they were saved to',
    async () => {
      const { files, truth } = loadFixture('mdbox')
      const left = new Map([...files].filter(([path]) => /\/m\.\d+$/.test(path)))
      await using store = await openDovecot(filesFs(left), '')
      const found = new Map<string, string | undefined>()
      for (const mailbox of store.mailboxes) {
        expect([mailbox.guid, mailbox.uidValidity]).toEqual([undefined, undefined])
        for await (const page of mailbox.messages())
          for (const message of page)
            if (message.guid !== undefined)
              found.set(Buffer.from(message.guid).toString('hex'), await bodyHash(message))
      }
      expect(store.mailboxes.map((mailbox) => mailbox.name)).toContain('Work/Projects')
      for (const mailbox of Object.values(truth.mailboxes))
        for (const one of mailbox.mail) expect(found.get(guidHex(one.guid))).toBe(one.sha256)
    },
  )

  const scenarios: readonly (readonly [string, string, (path: string) => boolean])[] = [
    ['mdbox', 'without its map', (path) => /dovecot\.map\.index/.test(path)],
    ['mdbox', 'without the indexes of its mailboxes', (path) => /dbox-Mails\/dovecot\.index/.test(path)],
    ['mdbox-sis', 'without any index', (path) => /dovecot\.(?:map\.|list\.)?index/.test(path)],
    ['mdbox', 'without alternate storage', (path) => path.startsWith('alt/')],
    ['sdbox', 'without the indexes of its mailboxes', (path) => /dbox-Mails\/dovecot\.index/.test(path)],
    ['sdbox-sis', 'without any index', (path) => /dovecot\.(?:list\.)?index/.test(path)],
    ['sdbox-sis', 'without attachments', (path) => path.startsWith('attachments/')],
  ]
  for (const [name, how, gone] of scenarios)
    testUnless(fixtureLack(), `(${name}) is read ${how}`, async () => {
      const fixture = loadFixture(name)
      const files = new Map([...fixture.files].filter(([path]) => !gone(path)))
      const judged = await judge(fixture, files, new Set([...fixture.files.keys()].filter(gone)))
      expect(judged.wrong).toBe(0)
      expect(judged.unnamed).toEqual([])
      await using store = await openDovecot(filesFs(files, fixture.files.keys()), '')
      const found = new Map<string, string | undefined>()
      for (const mailbox of store.mailboxes)
        for await (const page of mailbox.messages())
          for (const message of page)
            if (message.guid !== undefined)
              found.set(Buffer.from(message.guid).toString('hex'), await bodyHash(message))
      let whole = 0
      let all = 0
      for (const mailbox of Object.values(fixture.truth.mailboxes))
        for (const one of mailbox.mail) {
          all++
          const hash = found.get(guidHex(one.guid))
          if (hash !== undefined) {
            expect(hash).toBe(one.sha256)
            whole++
          }
        }
      say(`${name} ${how}: ${whole} of ${all} messages whole, ${judged.faults.length} faults`)
      if (how === 'without alternate storage' || how === 'without attachments') expect(whole).toBeGreaterThan(all / 2)
      else expect(whole).toBe(all)
    })
})
