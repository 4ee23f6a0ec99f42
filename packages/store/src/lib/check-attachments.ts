/**
 * The passes of a check that look at attachments: every byte of every blob, and that their uses are what the messages say, as of one state of
 * the store, while others work on it.
 */
import type { AttachmentFinding } from '@mailstead/box'
import type { Table, TableView } from '@mailstead/index'
import { attachmentsError } from './attachments.ts'
import { finding, isOutage, PAGE, type Seen } from './check-finding.ts'
import type { StoreFinding } from './contract.ts'
import type { Core } from './core.ts'

/** Every byte that is kept once. */
export async function* checkBlobs(
  core: Core,
  _: Table,
  seen: Seen,
): AsyncGenerator<readonly StoreFinding[], void, undefined> {
  const { store } = core.attachments
  if (store === undefined) return
  for await (const page of attached(store.check())) {
    seen.brokenBlobs ||= page.some(({ severity }) => severity === 'damage')
    yield page.map(ofAttachments)
  }
}

/** Times uses are compared again because the store was changed meanwhile. */
const COUNTS_MAX = 8

/** Uses of blobs are what all messages of the box say, those that wait for a purge among them. */
export async function* checkBlobUses(
  core: Core,
  boxTable: Table,
  seen: Seen,
): AsyncGenerator<readonly StoreFinding[], void, undefined> {
  const { attachments, index } = core
  const { store, table } = attachments
  if (store === undefined || table === undefined) return
  for (let attempt = 1; attempt <= COUNTS_MAX; attempt++) {
    await index.refresh()
    const [box, blobs] = [boxTable.view, table.view]
    const { segments, unread } = await segmentsOf(core, box, seen)
    const messages = async function* (): AsyncGenerator<readonly Uint8Array[], void, undefined> {
      for (let at = 0; at < segments.length; at += PAGE) yield segments.slice(at, at + PAGE)
    }
    const found: StoreFinding[] = []
    for await (const page of attached(store.check(messages(), { blobs: false }))) found.push(...page.map(ofAttachments))
    await index.refresh()
    if (boxTable.view !== box || table.view !== blobs) continue
    // What a message holds that cannot be read nobody knows: uses may be more than are seen.
    if (unread > 0)
      yield [finding('uses-uncounted', `${unread} messages cannot be read: what they hold is not counted`, NOTE)]
    else yield found
    return
  }
  yield [finding('uses-uncounted', 'uses of attachments were not counted: the store is too busy', NOTE)]
}

const NOTE = { severity: 'note' } as const

/** Segments of all messages in the box; those that are not known yet are opened. */
async function segmentsOf(
  { box }: Core,
  view: TableView,
  seen: Seen,
): Promise<{ readonly segments: readonly Uint8Array[]; readonly unread: number }> {
  const segments: Uint8Array[] = []
  let unread = 0
  for (let row = 0; row < view.count; row++) {
    const ref = view.uid(row)
    if (!seen.segments.has(ref))
      try {
        using message = box.openSync?.(ref) ?? (await box.open(ref))
        seen.segments.set(ref, message.segments)
      } catch (error) {
        if (isOutage(error)) throw error
        unread++
        continue
      }
    const one = seen.segments.get(ref)
    if (one !== undefined) segments.push(one)
  }
  return { segments, unread }
}

async function* attached(
  pages: AsyncIterable<readonly AttachmentFinding[]>,
): AsyncGenerator<readonly AttachmentFinding[], void, undefined> {
  try {
    for await (const page of pages) if (page.length > 0) yield page
  } catch (error) {
    throw attachmentsError(error)
  }
}

function ofAttachments({ severity, kind, file, message }: AttachmentFinding): StoreFinding {
  return finding(kind, message, { severity, file })
}
