/**
 * Real mail: 3,730 messages, and what another server (Dovecot 2.3.19) says of each. The data is no part of the project;
 * without it these tests are skipped, and a deep run fails. The formatter here is only for comparing; the one clients see
 * is in the imap package.
 */

import { existsSync, readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import type { Address } from './address.ts'
import type { Envelope } from './envelope.ts'
import { parseEnvelope } from './envelope.ts'
import { decodeStructure, encodeStructure } from './parts-format.ts'
import { canonicalBytes, MessageScanner, scanMessage } from './scanner.ts'
import { bodyParameters, tidyBlanks } from './structure.ts'
import type { MessagePart, Parameters } from './structure.ts'

const corpus = new URL('../../../../../shared/corpus/', import.meta.url)
const present = existsSync(new URL('manifest.json', corpus))
if (!present) {
  if (/^(?:ci|soak)$/.test(process.env['MAILSTEAD_DEPTH'] ?? ''))
    throw new Error('nothing may be skipped in a deep run: no corpus of real mail at ../shared/corpus')
  console.log('skipped: no corpus of real mail at ../shared/corpus')
}

interface Entry {
  readonly archive: string
  readonly member: string | number
  readonly size: number
  readonly category: string
  readonly mbox_offset?: number
}

interface Answer {
  readonly archive: string
  readonly member: string | number
  readonly rfc822_size: number
  readonly envelope: string
  readonly body: string
  readonly bodystructure: string
}

interface Message {
  readonly entry: Entry
  readonly answer: Answer
  readonly bytes: Buffer
}

/** Files of a tar archive by name. */
function untar(tar: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  let longName = ''
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0; ) {
    const text = (from: number, length: number): string =>
      tar.toString('utf8', at + from, at + from + length).replace(/\0.*$/s, '')
    const size = Number.parseInt(text(124, 12), 8)
    const type = text(156, 1)
    const data = tar.subarray(at + 512, at + 512 + size)
    const prefix = text(257, 5) === 'ustar' && tar[at + 262] === 0 ? text(345, 155) : ''
    if (type === 'L') longName = data.toString('utf8').replace(/\0.*$/s, '')
    else if (type === 'x') longName = / path=([^\n]*)\n/.exec(data.toString('utf8'))?.[1] ?? longName
    else {
      files.set(longName || (prefix ? `${prefix}/${text(0, 100)}` : text(0, 100)), data)
      longName = ''
    }
    at += 512 + Math.ceil(size / 512) * 512
  }
  return files
}

function* messages(): Generator<Message> {
  const manifest = JSON.parse(readFileSync(new URL('manifest.json', corpus), 'utf8')) as { messages: Entry[] }
  const answers = new Map<string, Answer>()
  for (const line of gunzipSync(readFileSync(new URL('oracle/dev.jsonl.gz', corpus)))
    .toString('utf8')
    .split('\n')) {
    if (line === '') continue
    const answer = JSON.parse(line) as Answer
    answers.set(`${answer.archive} ${answer.member}`, answer)
  }
  let archive = ''
  let mbox = Buffer.alloc(0)
  let files = new Map<string, Buffer>()
  for (const entry of manifest.messages) {
    if (entry.archive !== archive) {
      archive = entry.archive
      const data = gunzipSync(readFileSync(new URL(archive, corpus)))
      if (archive.endsWith('.tar.gz')) files = untar(data)
      else mbox = data
    }
    const bytes =
      entry.mbox_offset === undefined
        ? files.get(String(entry.member))
        : mbox.subarray(entry.mbox_offset, entry.mbox_offset + entry.size)
    const answer = answers.get(`${archive} ${entry.member}`)
    if (bytes === undefined || answer === undefined) throw new Error(`no ${archive} ${entry.member}`)
    yield { entry, answer, bytes }
  }
}

// ---- a small formatter

function string(value: string): string {
  if (/[\x80-\xff\r\n]/.test(value)) return `{${value.length}}\r\n${value}`
  return `"${value.replace(/["\\]/g, '\\$&')}"`
}
const nstring = (value: string | undefined): string => (value === undefined ? 'NIL' : string(value))
/** Names are told with their blanks tidied. */
const human = (value: string): string => string(tidyBlanks(value))

function addresses(list: readonly Address[]): string {
  if (list.length === 0) return 'NIL'
  const each = (a: Address): string =>
    `(${a.name === undefined ? 'NIL' : human(a.name)} ${nstring(a.route)} ${nstring(a.mailbox)} ${nstring(a.host)})`
  return `(${list.map(each).join('')})`
}

function envelope(e: Envelope): string {
  const lists = [e.from, e.sender, e.replyTo, e.to, e.cc, e.bcc].map(addresses).join(' ')
  return `(${nstring(e.date)} ${e.subject === undefined ? 'NIL' : human(e.subject)} ${lists} ${nstring(e.inReplyTo)} ${nstring(e.messageId)})`
}

function parameters(list: Parameters): string {
  if (list.length === 0) return 'NIL'
  return `(${list.map(([name, value]) => `${string(name)} ${string(value)}`).join(' ')})`
}

function tail(part: MessagePart): string {
  const disposition =
    part.disposition === undefined
      ? 'NIL'
      : `(${string(part.disposition.type)} ${parameters(part.disposition.parameters)})`
  const language =
    part.language === undefined || part.language.length === 0 ? 'NIL' : `(${part.language.map(string).join(' ')})`
  return `${disposition} ${language} ${nstring(part.location)}`
}

function structureOf(part: MessagePart, extended: boolean): string {
  if (part.kind === 'multipart') {
    const children =
      part.children.map((child) => structureOf(child, extended)).join('') ||
      `("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0${extended ? ' NIL NIL NIL NIL' : ''})`
    return `(${children} ${string(part.subtype)}${extended ? ` ${parameters(part.parameters)} ${tail(part)}` : ''})`
  }
  let text = `${string(part.type)} ${string(part.subtype)} ${parameters(bodyParameters(part))} ${nstring(part.id)} `
  text += `${nstring(part.description)} ${string(part.encoding ?? '7bit')} ${part.bodyEnd - part.bodyStart}`
  if (part.message !== undefined) {
    text += ` ${envelope(parseEnvelope(part.message.header!))} ${structureOf(part.message, extended)} ${part.bodyLines}`
  } else if (part.kind === 'text') text += ` ${part.bodyLines}`
  return `(${text}${extended ? ` ${nstring(part.md5)} ${tail(part)}` : ''})`
}

/** What a client makes of it: strings are strings, quoted or literal. */
function asRead(text: string): string {
  const literal = /\{(\d+)\}\r\n|"(?:[^"\\]|\\.)*"/gs
  let out = ''
  let at = 0
  for (let match = literal.exec(text); match !== null; match = literal.exec(text)) {
    if (match[1] === undefined) continue
    const end = literal.lastIndex + Number(match[1])
    const value = text.slice(literal.lastIndex, end)
    out += `${text.slice(at, match.index)}"${value.replace(/["\\]/g, '\\$&')}"`
    at = end
    literal.lastIndex = end
  }
  return out + text.slice(at)
}

describe.skipIf(!present)('real mail', () => {
  test('every message has the size, envelope and structure another server sees', () => {
    const byCategory = new Map<string, { messages: number; size: number; envelope: number; structure: number }>()
    const details: string[] = []
    for (const { entry, answer, bytes } of messages()) {
      let count = byCategory.get(entry.category)
      if (count === undefined)
        byCategory.set(entry.category, (count = { messages: 0, size: 0, envelope: 0, structure: 0 }))
      count.messages++
      const found = scanMessage(bytes)
      const differ = (what: string, theirs: string, ours: string): void => {
        details.push(JSON.stringify([entry.category, entry.archive, entry.member, what, asRead(theirs), asRead(ours)]))
      }
      if (found.size !== answer.rfc822_size) {
        count.size++
        differ('size', String(answer.rfc822_size), String(found.size))
      }
      const ours = envelope(parseEnvelope(found.header))
      if (asRead(ours) !== asRead(answer.envelope)) {
        count.envelope++
        differ('envelope', answer.envelope, ours)
      }
      const structure = structureOf(found.root, true)
      if (
        asRead(structure) !== asRead(answer.bodystructure) ||
        asRead(structureOf(found.root, false)) !== asRead(answer.body)
      ) {
        count.structure++
        differ('structure', answer.bodystructure, structure)
      }
    }
    if (process.env['MAILSTEAD_DETAILS'] !== undefined) console.log(details.join('\n'))
    console.table(Object.fromEntries(byCategory))
    expect(details).toEqual([])
  })

  test('any chunking gives the same structure, of which the encoded form keeps all but the headers', () => {
    let seed = 1
    for (const { bytes } of messages()) {
      if (bytes.length > 200_000) continue
      const whole = scanMessage(bytes)
      const scanner = new MessageScanner()
      for (let at = 0; at < bytes.length; ) {
        seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
        const end = at + 1 + (seed % (seed % 5 === 0 ? 3 : 1000))
        scanner.push(bytes.subarray(at, end))
        at = end
      }
      expect(scanner.finish()).toEqual(whole)
      const plain = JSON.stringify(whole, (key, value: unknown) => (key === 'header' ? undefined : value))
      const decoded = decodeStructure(encodeStructure(whole))
      expect(JSON.stringify(decoded, (key, value: unknown) => (key === 'header' ? undefined : value))).toBe(plain)
    }
  })

  test('the canonical form has the same structure as what was stored', () => {
    for (const { bytes } of messages()) {
      const stored = scanMessage(bytes)
      const canonical = canonicalBytes(bytes)
      expect(stored.size).toBe(canonical.length)
      expect(stored.physicalSize).toBe(bytes.length)
      if (stored.canonical) continue
      expect({ ...scanMessage(canonical), physicalSize: 0, canonical: false }).toEqual({ ...stored, physicalSize: 0 })
    }
  })
})
