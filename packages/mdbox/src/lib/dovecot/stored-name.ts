/** One level of a mailbox name as Dovecot stores it: modified UTF-7, or (an option of later releases) UTF-8. */
import { readMailboxName } from '../mailbox-name.ts'

/** `known` is false for what is neither: the name is then shown as it is stored. */
export function storedName(stored: string): { readonly name: string; readonly known: boolean } {
  const name = readMailboxName(stored)
  if (name !== undefined) return { name, known: name.isWellFormed() }
  for (let i = 0; i < stored.length; i++) if (stored.charCodeAt(i) > 0x7f) return { name: stored, known: true }
  return { name: stored, known: false }
}
