/** Untagged replies, each written whole. */
import type { UidSet } from '@mailstead/uidset'
import type { ListReturn } from './command.ts'
import { formatMailboxName, formatQuoted, systemFlagNames } from './format.ts'
import type { Output } from './output.ts'
import type {
  FetchWriter,
  ListEntry,
  Namespace,
  SelectedMailbox,
  StatusData,
  ThreadNode,
  UpdateWriter,
} from './session.ts'
import type { StatusItem } from './vocabulary.ts'

const ALL_FLAGS = 31

/** FLAGS and PERMANENTFLAGS: at SELECT, and when a keyword is new (RFC 3501 §7.2.6). */
export function writeFlags(
  output: Pick<Output, 'text'>,
  mailbox: Pick<SelectedMailbox, 'keywords' | 'keywordsCanGrow' | 'permanentFlags' | 'readOnly'>,
): void {
  const { keywords, readOnly, keywordsCanGrow, permanentFlags } = mailbox
  output.text(`* FLAGS (${[...systemFlagNames(ALL_FLAGS), ...keywords].join(' ')})\r\n`)
  const permanent: string[] = []
  if (!readOnly) {
    permanent.push(...systemFlagNames(permanentFlags?.flags ?? ALL_FLAGS))
    if (permanentFlags?.keywords !== false) permanent.push(...keywords)
    if (keywordsCanGrow) permanent.push('\\*')
  }
  output.text(`* OK [PERMANENTFLAGS (${permanent.join(' ')})] Flags kept.\r\n`)
}

/** What SELECT and EXAMINE tell (RFC 3501 §6.3.1, RFC 7162 §3.1.2). */
export function writeSelected(output: Output, mailbox: SelectedMailbox): void {
  const { count, recent, firstUnseen, uidValidity, uidNext, highestModSeq } = mailbox
  writeFlags(output, mailbox)
  output.text(`* ${count} EXISTS\r\n* ${recent} RECENT\r\n`)
  if (firstUnseen > 0) output.text(`* OK [UNSEEN ${firstUnseen}] First unseen.\r\n`)
  output.text(
    `* OK [UIDVALIDITY ${uidValidity}] UIDs valid.\r\n* OK [UIDNEXT ${uidNext}] Predicted next UID.\r\n* OK [HIGHESTMODSEQ ${highestModSeq}] Highest.\r\n`,
  )
}

export function writeVanished(output: Output, uids: UidSet, earlier: boolean): void {
  if (uids.isEmpty) return
  output.text(`* VANISHED ${earlier ? '(EARLIER) ' : ''}`)
  output.text(uids.toString())
  output.text('\r\n')
}

export interface ListForm {
  readonly label: 'LIST' | 'LSUB'
  readonly extended: boolean
  readonly returns: ListReturn
  /** The subscribed ones were asked for, so each says whether it is. */
  readonly selectedSubscribed: boolean
  readonly recursiveMatch: boolean
}

/** LIST and LSUB (RFC 3501 §7.2.2, RFC 5258 §5, RFC 6154). */
export function writeListEntry(output: Output, entry: ListEntry, form: ListForm): void {
  const attributes: string[] = []
  const { label, extended, returns } = form
  if (label === 'LSUB') {
    // RFC 3501 §6.3.9: a parent of subscribed mailboxes that is not subscribed itself.
    if (!entry.subscribed) attributes.push('\\Noselect')
  } else {
    if (!entry.exists) attributes.push(extended ? '\\NonExistent' : '\\Noselect')
    attributes.push(entry.hasChildren ? '\\HasChildren' : '\\HasNoChildren')
    if (entry.subscribed && (returns.subscribed || form.selectedSubscribed)) attributes.push('\\Subscribed')
    if (entry.specialUse !== undefined) attributes.push(entry.specialUse)
  }
  const childInfo = label === 'LIST' && form.recursiveMatch && entry.subscribedChildren
  output.text(
    `* ${label} (${attributes.join(' ')}) "/" ${formatMailboxName(entry.name)}${childInfo ? ' ("CHILDINFO" ("SUBSCRIBED"))' : ''}\r\n`,
  )
}

export function writeStatus(
  output: Output,
  mailbox: string,
  items: readonly StatusItem[],
  data: StatusData,
  appendLimit: number,
): void {
  const parts: string[] = []
  for (const item of items) {
    const value = statusValue(item, data, appendLimit)
    if (value !== undefined) parts.push(`${item} ${value}`)
  }
  output.text(`* STATUS ${formatMailboxName(mailbox)} (${parts.join(' ')})\r\n`)
}

function statusValue(item: StatusItem, data: StatusData, appendLimit: number): number | undefined {
  switch (item) {
    case 'MESSAGES':
      return data.messages
    case 'RECENT':
      return data.recent
    case 'UIDNEXT':
      return data.uidNext
    case 'UIDVALIDITY':
      return data.uidValidity
    case 'UNSEEN':
      return data.unseen
    case 'DELETED':
      return data.deleted
    case 'SIZE':
      return data.size
    case 'HIGHESTMODSEQ':
      return data.highestModSeq
    case 'APPENDLIMIT':
      return appendLimit
    case 'MAILBOXID':
      return undefined
  }
}

export function formatNamespaces(list: readonly Namespace[]): string {
  if (list.length === 0) return 'NIL'
  return `(${list.map(({ prefix, delimiter }) => `(${formatNamespacePrefix(prefix)} ${formatQuoted(delimiter)})`).join('')})`
}

function formatNamespacePrefix(prefix: string): string {
  const wire = formatMailboxName(`${prefix}x`)
  return wire.startsWith('"') ? `${wire.slice(0, -2)}"` : `"${wire.slice(0, -1)}"`
}

/** ` 1 2 3` */
export function writeNumbers(output: Output, set: UidSet): void {
  const { ranges } = set
  for (let i = 0; i < ranges.length; i += 2) {
    const hi = ranges[i + 1]!
    for (let value = ranges[i]!; value <= hi; value++) {
      output.gap()
      output.number(value)
    }
  }
}

/** `(1 2 (3)(4 5))`, for each root (RFC 5256 §4). Without recursion: threads may be as deep as they like. */
export function writeThreads(output: Output, roots: readonly ThreadNode[]): void {
  interface Level {
    readonly list: readonly ThreadNode[]
    next: number
  }
  const stack: Level[] = [{ list: roots, next: 0 }]
  while (stack.length > 0) {
    const level = stack[stack.length - 1]!
    if (level.next === level.list.length) {
      stack.pop()
      if (stack.length > 0) output.text(')')
      continue
    }
    let node = level.list[level.next++]!
    output.text('(')
    let written = 0
    for (;;) {
      if (node.id !== 0) {
        if (written++ > 0) output.text(' ')
        output.number(node.id)
      }
      if (node.children.length !== 1) break
      node = node.children[0]!
    }
    if (node.children.length > 0 && written > 0) output.text(' ')
    stack.push({ list: node.children, next: 0 })
  }
}

/** Says what changed in a mailbox, as `sync`, `expunge` and `move` ask for. Notes whether messages went. */
export class Updates implements UpdateWriter {
  readonly fetch: FetchWriter
  readonly wantsVanished: boolean
  readonly wantsUid: boolean
  readonly wantsModSeq: boolean
  expungedAny = false
  readonly #output: Output
  readonly #mayExpunge: boolean

  constructor(
    output: Output,
    options: {
      readonly mayExpunge: boolean
      readonly vanished: boolean
      readonly uid: boolean
      readonly modSeq: boolean
    },
  ) {
    this.#output = output
    this.#mayExpunge = options.mayExpunge
    this.fetch = output
    this.wantsVanished = options.vanished
    this.wantsUid = options.uid
    this.wantsModSeq = options.modSeq
  }

  expunged(sequence: number): void {
    this.#allow()
    this.#output.text(`* ${sequence} EXPUNGE\r\n`)
  }

  vanished(uids: UidSet): void {
    if (uids.isEmpty) return
    this.#allow()
    writeVanished(this.#output, uids, false)
  }

  exists(count: number): void {
    this.#output.text(`* ${count} EXISTS\r\n`)
  }

  recent(count: number): void {
    this.#output.text(`* ${count} RECENT\r\n`)
  }

  // RFC 9051 §7.5.1: a client that is told of an expunge here would count wrongly.
  #allow(): void {
    if (!this.#mayExpunge) throw new Error('an expunge was told where it may not be')
    this.expungedAny = true
  }
}
