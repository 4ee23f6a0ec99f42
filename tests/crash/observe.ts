/** What a client sees of a mailbox, in the words of the judge (`model.ts`). */
import { type ImapClient, quote, type Reply, sectionOf } from '../interop/lib/imap.ts'
import { listOf } from '../interop/lib/values.ts'
import type { Seen } from './model.ts'

/** Flags as `Kept` has them. */
export function flagText(flags: readonly string[]): string {
  return [...flags].sort().join(' ')
}

/** The new UID of the one message that was copied or moved: COPYUID is in the tagged reply, or comes before it. */
export function copyUid({ text, untagged }: Pick<Reply, 'text' | 'untagged'>): number {
  const lines = [text, ...untagged.map(({ raw }) => raw.toString('latin1'))]
  for (const line of lines) {
    const found = /\[COPYUID \d+ \d+ (\d+)\]/i.exec(line)
    if (found !== null) return Number(found[1])
  }
  throw new Error(`no COPYUID: ${lines.join('; ')}`)
}

export async function look(imap: ImapClient, name: string): Promise<Seen> {
  const { untagged } = await imap.ok(`EXAMINE ${quote(name)}`)
  const text = untagged.map(({ raw }) => raw.toString('latin1')).join('\n')
  const rows = await imap.fetch('1:*', '(UID FLAGS BODY.PEEK[])')
  return {
    uidValidity: Number(/\[UIDVALIDITY (\d+)\]/i.exec(text)?.[1]),
    uidNext: Number(/\[UIDNEXT (\d+)\]/i.exec(text)?.[1]),
    messages: new Map(
      rows.map((row) => {
        const flags = listOf(row.get('FLAGS'))
          .map(String)
          .filter((flag) => flag !== '\\Recent')
        return [Number(row.get('UID')), { bytes: sectionOf(row, 'BODY[]'), flags: flagText(flags) }]
      }),
    ),
  }
}
