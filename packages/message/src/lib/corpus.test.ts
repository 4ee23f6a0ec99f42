/**
 * Real mail: 3,730 messages, and what another server (Dovecot 2.3.19) says of each. The data is no part of the project;
 * without it these tests are skipped, and a deep run fails. The formatter here is only for comparing; the one clients see
 * is in the imap package.
 */

import { describe, expect, test } from 'vitest'
import { corpus, corpusIsThere, corpusWithAnswers } from '../../../../tests/support/corpus.ts'
import type { Address } from './address.ts'
import type { Envelope } from './envelope.ts'
import { parseEnvelope } from './envelope.ts'
import { decodeStructure, encodeStructure } from './parts-format.ts'
import { canonicalBytes, MessageScanner, scanMessage } from './scanner.ts'
import { bodyParameters, tidyBlanks } from './structure.ts'
import type { MessagePart, Parameters } from './structure.ts'

const present = corpusIsThere()

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
    for (const { entry, answer } of corpusWithAnswers()) {
      let count = byCategory.get(entry.category)
      if (count === undefined)
        byCategory.set(entry.category, (count = { messages: 0, size: 0, envelope: 0, structure: 0 }))
      count.messages++
      const found = scanMessage(entry.found)
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
    for (const { found: bytes } of corpus()) {
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
    for (const { found: bytes } of corpus()) {
      const stored = scanMessage(bytes)
      const canonical = canonicalBytes(bytes)
      expect(stored.size).toBe(canonical.length)
      expect(stored.physicalSize).toBe(bytes.length)
      if (stored.canonical) continue
      expect({ ...scanMessage(canonical), physicalSize: 0, canonical: false }).toEqual({ ...stored, physicalSize: 0 })
    }
  })
})
