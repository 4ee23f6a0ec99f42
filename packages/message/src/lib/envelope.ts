/**
 * The fields an IMAP ENVELOPE is made of (RFC 3501 §7.4.2). Values are as in the message: encoded words are not decoded.
 */

import { type Address, parseAddressList } from './address.ts'
import { plain } from './content.ts'
import { asBuffer, colonOf, emptyLine, fieldEnd, folded, isField, unfold } from './header.ts'

export interface Envelope {
  /** Unfolded, one char per byte; the last field of that name wins. */
  readonly date: string | undefined
  readonly subject: string | undefined
  /** Several fields of one name are read as one list, so that none of them can hide an address. */
  readonly from: readonly Address[]
  /** Equal to `from` when the field is absent or empty, as ENVELOPE wants; so is `replyTo`. */
  readonly sender: readonly Address[]
  readonly replyTo: readonly Address[]
  readonly to: readonly Address[]
  readonly cc: readonly Address[]
  readonly bcc: readonly Address[]
  readonly inReplyTo: string | undefined
  readonly messageId: string | undefined
}

/** Reads the header of a message; LF or CRLF. Never fails. */
export function parseEnvelope(header: Uint8Array): Envelope {
  const bytes = asBuffer(header)
  let date: string | undefined
  let subject: string | undefined
  let inReplyTo: string | undefined
  let messageId: string | undefined
  const from: Address[] = []
  const sender: Address[] = []
  const replyTo: Address[] = []
  const to: Address[] = []
  const cc: Address[] = []
  const bcc: Address[] = []
  let at = 0
  while (at < bytes.length && emptyLine(bytes, at) === 0) {
    const end = fieldEnd(bytes, at)
    // One look at the first letter spares most fields (Received, X-*, DKIM) any further one.
    switch (bytes[at]! | 0x20) {
      case 0x64: // d
        if (isField(bytes, at, 'date')) date = text(bytes, at, end)
        break
      case 0x73: // s
        if (isField(bytes, at, 'subject')) subject = text(bytes, at, end)
        else if (isField(bytes, at, 'sender')) add(sender, bytes, at, end)
        break
      case 0x66: // f
        if (isField(bytes, at, 'from')) add(from, bytes, at, end)
        break
      case 0x72: // r
        if (isField(bytes, at, 'reply-to')) add(replyTo, bytes, at, end)
        break
      case 0x74: // t
        if (isField(bytes, at, 'to')) add(to, bytes, at, end)
        break
      case 0x63: // c
        if (isField(bytes, at, 'cc')) add(cc, bytes, at, end)
        break
      case 0x62: // b
        if (isField(bytes, at, 'bcc')) add(bcc, bytes, at, end)
        break
      case 0x69: // i
        if (isField(bytes, at, 'in-reply-to')) inReplyTo = text(bytes, at, end)
        break
      case 0x6d: // m
        if (isField(bytes, at, 'message-id')) messageId = text(bytes, at, end)
        break
    }
    at = end
  }
  return {
    date,
    subject,
    from,
    sender: sender.length > 0 ? sender : from,
    replyTo: replyTo.length > 0 ? replyTo : from,
    to,
    cc,
    bcc,
    inReplyTo,
    messageId,
  }
}

function text(bytes: Buffer, start: number, end: number): string {
  return plain(unfold(bytes, colonOf(bytes, start, end) + 1, end))
}

function add(list: Address[], bytes: Buffer, start: number, end: number): void {
  for (const address of parseAddressList(folded(bytes, colonOf(bytes, start, end) + 1, end))) list.push(address)
}
