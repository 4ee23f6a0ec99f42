/**
 * The fields an IMAP ENVELOPE is made of (RFC 3501 §7.4.2). Values are as in the message: encoded words are not decoded.
 */

import { type Address, parseAddressList } from './address.ts'
import { plain } from './content.ts'
import { FieldNames } from './field-names.ts'
import { type HeaderFields, parseHeader } from './header.ts'

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

/** In the order of the `switch` below. */
const names: FieldNames = new FieldNames([
  'date',
  'subject',
  'from',
  'sender',
  'reply-to',
  'to',
  'cc',
  'bcc',
  'in-reply-to',
  'message-id',
])

/** Reads the header of a message; LF or CRLF. Never fails. */
export function parseEnvelope(header: Uint8Array | HeaderFields): Envelope {
  const fields = header instanceof Uint8Array ? parseHeader(header) : header
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
  const { count } = fields
  for (let i = 0; i < count; i++) {
    switch (fields.indexIn(names, i)) {
      case 0:
        date = plain(fields.value(i))
        break
      case 1:
        subject = plain(fields.value(i))
        break
      case 2:
        add(from, fields, i)
        break
      case 3:
        add(sender, fields, i)
        break
      case 4:
        add(replyTo, fields, i)
        break
      case 5:
        add(to, fields, i)
        break
      case 6:
        add(cc, fields, i)
        break
      case 7:
        add(bcc, fields, i)
        break
      case 8:
        inReplyTo = plain(fields.value(i))
        break
      case 9:
        messageId = plain(fields.value(i))
        break
    }
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

function add(list: Address[], fields: HeaderFields, index: number): void {
  for (const address of parseAddressList(fields.folded(index))) list.push(address)
}
