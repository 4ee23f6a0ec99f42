/**
 * Mailboxes that are imported in tests: two of them, with the same UIDVALIDITY and the same UIDs, and one message that both have. Of
 * another version all the messages are others.
 */
import { createHash } from 'node:crypto'
import type { ImportMailbox, ImportMessage, ImportOptions, ImportOutcome, Store } from '@mailstead/store'
import { OWNER } from './support.ts'

const md5 = (text: string): Buffer => createHash('md5').update(text).digest()

function message(uid: number, text: string): ImportMessage {
  return {
    uid,
    flags: 1,
    keywords: ['Old'],
    modSeq: uid,
    guid: md5(text),
    receivedMs: 1_000_000,
    savedMs: 1_000_000,
    pop3Uidl: `old-${uid}`,
    pop3Order: undefined,
    shared: uid === SHARED ? text : undefined,
    open: async function* () {
      await Promise.resolve()
      yield Buffer.from(`Subject: ${text}\r\n\r\n${text}`)
    },
  }
}

export const NAMES: readonly string[] = ['INBOX', 'Old']
export const UIDS: readonly number[] = [2, 3, 5, 8]
const SHARED = 3
/** What a message says; the same for those that are the same. */
export function textOf(name: string, uid: number, version = 'there'): string {
  return `${version} ${uid === SHARED ? 'both' : name} ${uid}`
}

export function specOf(name: string): ImportMailbox & { readonly guid: Buffer } {
  return { name, guid: md5(`mailbox ${name}`), uidValidity: 77, uidNext: 10, highestModSeq: 9 }
}

export async function take(
  store: Store,
  names: readonly string[],
  options: ImportOptions = {},
  version?: string,
): Promise<ImportOutcome[]> {
  const importing = store.as(OWNER).importer({ batchMessages: 2, ...options })
  const outcomes: ImportOutcome[] = []
  for (const name of names)
    outcomes.push(
      await importing.mailbox(specOf(name), async function* () {
        await Promise.resolve()
        yield UIDS.map((uid) => message(uid, textOf(name, uid, version)))
      }),
    )
  return outcomes
}
