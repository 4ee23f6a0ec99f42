/** An expunge journal as lines for people: what it says by its end, not how it came to say it. */
import { hex8 } from './format.ts'
import { isJournal, readJournal } from './journal-format.ts'

/** One line for the file, one for each damaged place, one for each message that nobody has. Undefined: these bytes are no journal. */
export function dumpJournal(bytes: Uint8Array): readonly string[] | undefined {
  if (!isJournal(bytes)) return undefined
  const { dead, sequence, end, damage } = readJournal(bytes)
  const lines = [`0 journal of expunged messages, ${sequence} records, ${end} of ${bytes.length} bytes`]
  for (const { offset, message } of damage) lines.push(`${offset} DAMAGED ${message}`)
  for (const [file, messages] of dead)
    for (const [offset, sum] of messages) lines.push(`expunged: file ${file}, offset ${offset}, sum ${hex8(sum)}`)
  return lines
}
