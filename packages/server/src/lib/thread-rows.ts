/** Gathers what threading looks at from the caches, for the messages found. */
import type { ThreadAlgorithm, ThreadNode } from '@mailstead/imap'
import { readSortField, readThreadField } from '@mailstead/imap/cache-fields'
import type { Mailbox } from '@mailstead/store'
import type { ClientRows } from './client-rows.ts'
import { Pace } from './pace.ts'
import { rowsOf } from './sort.ts'
import { threadByReferences, threadBySubject } from './thread.ts'

const PACE_EVERY = 512

export interface ThreadOptions {
  readonly mailbox: Mailbox
  readonly rows: ClientRows
  readonly mask: Uint8Array
  readonly algorithm: ThreadAlgorithm
  readonly uid: boolean
}

export async function threadRows({
  mailbox,
  rows,
  mask,
  algorithm,
  uid,
}: ThreadOptions): Promise<readonly ThreadNode[]> {
  const { view } = rows
  const found = rowsOf(mask)
  const { length } = found
  await view.load(['received'])
  const received = view.extension('received')!
  const sorts = view.cache('sort')
  const threads = view.cache('thread')
  const byReferences = algorithm === 'REFERENCES'
  const ids = new Uint32Array(length)
  const dates = new Float64Array(length)
  const replies = new Uint8Array(length)
  const subjects: string[] = []
  const messageIds: string[] = []
  const references: (readonly string[])[] = []
  const pace = new Pace()
  for (let i = 0; i < length; i++) {
    const row = found[i]!
    if (i % PACE_EVERY === 0) {
      const due = pace.due()
      if (due !== undefined) await due
    }
    ids[i] = uid ? view.uid(row) : row + 1
    let sort = sorts.value(row)
    let thread: Uint8Array | undefined
    if (sort === undefined || sort.length === 0) sort = (await mailbox.recompute(view, row)).get('sort')
    const field = sort === undefined || sort.length === 0 ? undefined : readSortField(sort)
    const sentMs = field?.sentMs ?? Number.NaN
    dates[i] = Number.isNaN(sentMs) ? received.number(row) : sentMs
    replies[i] = field?.isReplyOrForward === true ? 1 : 0
    subjects.push(field?.subject.toString('latin1') ?? '')
    if (!byReferences) continue
    thread = threads.value(row)
    if (thread === undefined || thread.length === 0) thread = (await mailbox.recompute(view, row)).get('thread')
    const links = thread === undefined || thread.length === 0 ? undefined : readThreadField(thread)
    messageIds.push(links?.messageId ?? '')
    references.push(links?.references ?? [])
  }
  const messages = { ids, dates, subjects, replies }
  return byReferences ? threadByReferences({ ...messages, messageIds, references }) : threadBySubject(messages)
}
