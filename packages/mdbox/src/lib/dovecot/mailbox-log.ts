/**
 * `dovecot.mailbox.log` (and `.2`): what happened to mailboxes and subscriptions, by the hashes of their names. It tells
 * whether the file of subscriptions is whole.
 *
 * FORMAT, 24 bytes a record
 *   0   1    type: 4 subscribed, 5 unsubscribed; others are of mailboxes and directories
 *   1   3    zeros
 *   4   16   the beginning of the SHA-1 of the name
 *   20  4    seconds since the epoch, big-endian
 */
import { createHash } from 'node:crypto'
import type { Faults } from './fault.ts'
import { join, type NamedRoot, readIfThere } from './root.ts'

const MAILBOX_LOG = 'dovecot.mailbox.log'
const RECORD_BYTES = 24
const LOG_BYTES_MAX: number = 16 * 1024 * 1024
const SUBSCRIBED = 4
const UNSUBSCRIBED = 5
const TYPE_MAX = 6

/**
 * Compares the names in `file` with the log, and gives back with them those that the log knows and the file has lost, as far
 * as they are names of mailboxes. The log does not reach back for ever: what it does not know is not wrong.
 */
export async function checkSubscriptions(
  root: NamedRoot,
  file: string,
  names: readonly string[],
  mailboxes: readonly string[],
  faults: Faults,
): Promise<readonly string[]> {
  const last = new Map<string, number>()
  for (const name of [`${MAILBOX_LOG}.2`, MAILBOX_LOG]) {
    const bytes = await readIfThere(root, name, LOG_BYTES_MAX, faults)
    if (bytes !== undefined)
      readRecords(bytes, last, (at) =>
        faults.add('log-damaged', 'no record', { file: join(root.shown, name), offset: at }),
      )
  }
  const known = new Set<string>()
  for (const name of names) {
    const hash = hashOf(name)
    known.add(hash)
    if (last.get(hash) === UNSUBSCRIBED)
      faults.add('subscriptions-differ', `the log says that ${JSON.stringify(name)} was unsubscribed`, { file })
  }
  const lost = new Set<string>()
  for (const [hash, type] of last) if (type === SUBSCRIBED && !known.has(hash)) lost.add(hash)
  if (lost.size === 0) return names
  const found = mailboxes.filter((name) => lost.has(hashOf(name)))
  for (const name of found)
    faults.add('subscriptions-differ', `the log says that ${JSON.stringify(name)} is subscribed`, {
      file,
      mailbox: name,
    })
  if (found.length < lost.size)
    faults.add('subscriptions-differ', `${lost.size - found.length} subscriptions are lost that are no mailboxes`, {
      file,
    })
  return [...names, ...found]
}

function readRecords(bytes: Uint8Array, last: Map<string, number>, bad: (at: number) => void): void {
  for (let at = 0; at < bytes.length; at += RECORD_BYTES) {
    const type = bytes[at]!
    const zeros = bytes[at + 1] === 0 && bytes[at + 2] === 0 && bytes[at + 3] === 0
    if (type === 0 || type > TYPE_MAX || !zeros || at + RECORD_BYTES > bytes.length) {
      bad(at)
      continue
    }
    if (type !== SUBSCRIBED && type !== UNSUBSCRIBED) continue
    const hash = Buffer.from(bytes.buffer, bytes.byteOffset + at + 4, 16).toString('hex')
    // The order of the records is that of time.
    last.set(hash, type)
  }
}

function hashOf(name: string): string {
  return createHash('sha1').update(name).digest('hex').slice(0, 32)
}
