/**
 * Cache field `hdr`: the header fields that clients ask for, raw.
 *
 * FORMAT   the fields whose names are in `cachedHeaderFields`, whole, canonical, in their order in the message, then the
 *          empty line. The list must not change: on disk (a longer list is a field of another name).
 *          An empty record: ask the message.
 */
import { FieldNames, filterHeader, type HeaderFields } from '@mailstead/message'

/** Lower case. What Thunderbird, mutt, Apple Mail, K-9, Roundcube and mbsync fetch for their lists. */
export const cachedHeaderFields: ReadonlySet<string> = new Set([
  'bcc',
  'cc',
  'content-description',
  'content-type',
  'date',
  'disposition-notification-to',
  'from',
  'importance',
  'in-reply-to',
  'lines',
  'list-id',
  'list-post',
  'list-subscribe',
  'list-unsubscribe',
  'message-id',
  'mime-version',
  'newsgroups',
  'priority',
  'references',
  'reply-to',
  'sender',
  'subject',
  'to',
  'x-k9mail-identity',
  'x-label',
  'x-original-to',
  'x-priority',
  'x-tuid',
  'x-uniform-type-identifier',
  'x-universally-unique-identifier',
])

const cachedNames: FieldNames = new FieldNames(cachedHeaderFields)

export function writeHeaderField(header: Uint8Array | HeaderFields): Uint8Array {
  return filterHeader(header, cachedNames)
}

/** Whether BODY[HEADER.FIELDS (fields)] can be answered from `hdr`. `fields` in lower case. */
export function headerFieldsCached(fields: readonly string[]): boolean {
  for (const field of fields) if (!cachedHeaderFields.has(field)) return false
  return true
}

/** BODY[HEADER.FIELDS (fields)] from a record that is not empty. */
export function readHeaderFields(record: Uint8Array, fields: ReadonlySet<string>): Uint8Array {
  return filterHeader(record, fields)
}
