/**
 * What is computed once when a message is kept, so that FETCH, SEARCH, SORT and THREAD never open it again.
 *
 * name                 what                                             format
 * imap.envelope        ENVELOPE as wire bytes                           format-structure.ts
 * imap.bodystructure   BODYSTRUCTURE as wire bytes                      format-structure.ts
 * imap.body            BODY as wire bytes                               format-structure.ts
 * hdr                  raw header fields for BODY[HEADER.FIELDS (…)]    header-field.ts
 * search               folded text for SEARCH                           search-field.ts
 * sort                 keys for SORT                                    sort-field.ts
 * thread               ids for THREAD                                   thread-field.ts
 * mime.parts           `encodeStructure` of @mailstead/message: offsets of every part
 *
 * Names must not change: on disk.
 */
import {
  encodeStructure,
  type Envelope,
  type HeaderFields,
  type MessageStructure,
  parseEnvelope,
  parseHeader,
} from '@mailstead/message'
import { envelopeText, formatBody, formatBodyStructure } from './format-structure.ts'
import { writeHeaderField } from './header-field.ts'
import { writeSearchField } from './search-field.ts'
import { writeSortField } from './sort-field.ts'
import { writeThreadField } from './thread-field.ts'

export interface CacheInput {
  readonly structure: MessageStructure
  /** The whole canonical header: `structure.header` of a scan. */
  readonly header: Uint8Array
}

/** A value derived from a message, kept under its name. */
export interface CacheField {
  readonly name: string
  /** It depends on the header of the message alone, and on nothing that the bodies of parts decide. */
  readonly headerOnly: boolean
  /** Never fails, whatever the message. */
  readonly compute: (message: CacheInput) => Uint8Array
}

const nothing: Uint8Array = new Uint8Array(0)

interface Reading {
  readonly header: Uint8Array
  readonly fields: HeaderFields
  readonly envelope: Envelope
}

/** One reading of the header serves all fields: those of a message are computed one after the other. */
let latest: Reading | undefined
function readingOf(header: Uint8Array): Reading {
  if (latest?.header !== header) {
    const fields = parseHeader(header)
    latest = { header, fields, envelope: parseEnvelope(fields) }
  }
  return latest
}

/** The header is longer than what was kept of it: its fields say too little. */
function isTruncated({ structure }: CacheInput): boolean {
  return structure.quirks.includes('header-truncated')
}

export const imapCacheFields: readonly CacheField[] = [
  {
    name: 'imap.envelope',
    headerOnly: true,
    compute: ({ header }) => Buffer.from(envelopeText(readingOf(header).envelope), 'latin1'),
  },
  { name: 'imap.bodystructure', headerOnly: false, compute: ({ structure }) => formatBodyStructure(structure) },
  { name: 'imap.body', headerOnly: false, compute: ({ structure }) => formatBody(structure) },
  {
    name: 'hdr',
    headerOnly: true,
    compute: (message) => (isTruncated(message) ? nothing : writeHeaderField(readingOf(message.header).fields)),
  },
  {
    name: 'search',
    headerOnly: true,
    compute: (message) => {
      if (isTruncated(message)) return nothing
      const { fields } = readingOf(message.header)
      return writeSearchField({
        from: fields.all('from'),
        to: fields.all('to'),
        cc: fields.all('cc'),
        bcc: fields.all('bcc'),
        subject: fields.all('subject'),
      })
    },
  },
  {
    name: 'sort',
    headerOnly: true,
    compute: ({ header }) => writeSortField(readingOf(header).envelope),
  },
  {
    name: 'thread',
    headerOnly: true,
    compute: ({ header }) => {
      const { envelope, fields } = readingOf(header)
      const { messageId, inReplyTo } = envelope
      return writeThreadField({ messageId, inReplyTo, references: fields.all('references') })
    },
  },
  { name: 'mime.parts', headerOnly: false, compute: ({ structure }) => encodeStructure(structure) },
]
