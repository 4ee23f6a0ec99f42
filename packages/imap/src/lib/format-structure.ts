/**
 * ENVELOPE, BODY and BODYSTRUCTURE as wire bytes (RFC 9051 §7.5.2). Text is built with one character for each byte; values
 * are as they stand in the message, encoded words included, with literals where a quoted string cannot hold them.
 */
import {
  type Address,
  bodyParameters,
  type Envelope,
  type MessagePart,
  type MessageStructure,
  type Parameters,
  parseEnvelope,
  tidyBlanks,
} from '@mailstead/message'
import { formatByteString } from './format.ts'

/** The ENVELOPE of a header. */
export function formatEnvelope(envelope: Envelope): Uint8Array {
  return Buffer.from(envelopeText(envelope), 'latin1')
}

/** BODY: the structure without extension data. */
export function formatBody(structure: MessageStructure): Uint8Array {
  return Buffer.from(partText(structure.root, false), 'latin1')
}

export function formatBodyStructure(structure: MessageStructure): Uint8Array {
  return Buffer.from(partText(structure.root, true), 'latin1')
}

function nstring(value: string | undefined): string {
  return value === undefined ? 'NIL' : formatByteString(value)
}

/** For people: with blanks tidied. */
function readable(value: string | undefined): string {
  return value === undefined ? 'NIL' : formatByteString(tidyBlanks(value))
}

export function envelopeText(envelope: Envelope): string {
  const { date, subject, from, sender, replyTo, to, cc, bcc, inReplyTo, messageId } = envelope
  const first = addresses(from)
  // Most messages name neither sender nor reply-to.
  const senders = sender === from ? first : addresses(sender)
  const repliesTo = replyTo === from ? first : addresses(replyTo)
  return `(${nstring(date)} ${readable(subject)} ${first} ${senders} ${repliesTo} ${addresses(to)} ${addresses(cc)} ${addresses(bcc)} ${nstring(inReplyTo)} ${nstring(messageId)})`
}

function addresses(list: readonly Address[]): string {
  if (list.length === 0) return 'NIL'
  let text = '('
  for (const { name, route, mailbox, host } of list)
    text += `(${readable(name)} ${nstring(route)} ${nstring(mailbox)} ${nstring(host)})`
  return `${text})`
}

function parameterList(list: Parameters): string {
  if (list.length === 0) return 'NIL'
  let text = '('
  for (const [name, value] of list) {
    if (text.length > 1) text += ' '
    text += `${formatByteString(name)} ${formatByteString(value)}`
  }
  return `${text})`
}

/** Disposition, language, location: the end of the extension data of every part. */
function extension({ disposition, language, location }: MessagePart): string {
  const shown =
    disposition === undefined
      ? 'NIL'
      : `(${formatByteString(disposition.type)} ${parameterList(disposition.parameters)})`
  const languages =
    language === undefined || language.length === 0 ? 'NIL' : `(${language.map(formatByteString).join(' ')})`
  return `${shown} ${languages} ${nstring(location)}`
}

/** A multipart without parts: the grammar wants one. */
const NO_PART = '("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0'

function partText(part: MessagePart, extended: boolean): string {
  if (part.kind === 'multipart') {
    let children = ''
    for (const child of part.children) children += partText(child, extended)
    if (children === '') children = `${NO_PART}${extended ? ' NIL NIL NIL NIL' : ''})`
    const rest = extended ? ` ${parameterList(part.parameters)} ${extension(part)}` : ''
    return `(${children} ${formatByteString(part.subtype)}${rest})`
  }
  let { type, subtype } = part
  const type7 = type.toLowerCase()
  if (part.message === undefined && type7 === 'message' && subtype.toLowerCase() === 'rfc822') {
    // Too deep to be looked into. The grammar has no message/rfc822 without envelope and structure.
    type = 'application'
    subtype = 'octet-stream'
  }
  let text = `(${formatByteString(type)} ${formatByteString(subtype)} ${parameterList(bodyParameters(part))} ${nstring(part.id)} ${nstring(part.description)} ${formatByteString(part.encoding ?? '7bit')} ${part.bodyEnd - part.bodyStart}`
  if (part.message !== undefined) {
    const envelope = envelopeText(parseEnvelope(part.message.header ?? nothing))
    text += ` ${envelope} ${partText(part.message, extended)} ${part.bodyLines}`
  } else if (type7 === 'text') text += ` ${part.bodyLines}`
  if (extended) text += ` ${nstring(part.md5)} ${extension(part)}`
  return `${text})`
}

const nothing: Uint8Array = new Uint8Array(0)
