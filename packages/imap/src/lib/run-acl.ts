/** The commands of RFC 4314, and the rights that LIST tells (RFC 8440). */
import type { AclSession } from './acl-session.ts'
import type { Command } from './command.ts'
import { ImapError } from './error.ts'
import { formatAstring, formatMailboxName } from './format.ts'
import type { Output } from './output.ts'
import { formatRights } from './rights.ts'

export type AclCommand = Extract<
  Command,
  { readonly name: 'GETACL' | 'SETACL' | 'DELETEACL' | 'LISTRIGHTS' | 'MYRIGHTS' }
>

export async function runAcl(output: Output, acl: AclSession | undefined, command: AclCommand): Promise<string> {
  if (acl === undefined) return 'BAD There are no access control lists here.'
  const { mailbox } = command
  switch (command.name) {
    case 'GETACL': {
      let reply = `* ACL ${formatMailboxName(mailbox)}`
      for (const { identifier, rights } of await acl.getAcl(mailbox))
        reply += ` ${formatAstring(identifier)} ${rightsAsAstring(rights)}`
      output.text(`${reply}\r\n`)
      return 'OK Getacl completed.'
    }
    case 'SETACL':
      await acl.setAcl(mailbox, command.identifier, command.change)
      return 'OK Setacl completed.'
    case 'DELETEACL':
      await acl.deleteAcl(mailbox, command.identifier)
      return 'OK Deleteacl completed.'
    case 'LISTRIGHTS': {
      const { required, optional } = await acl.listRights(mailbox, command.identifier)
      const parts = [rightsAsAstring(required), ...optional.map(formatTied), ...virtualOf(optional)]
      output.text(
        `* LISTRIGHTS ${formatMailboxName(mailbox)} ${formatAstring(command.identifier)} ${parts.join(' ')}\r\n`,
      )
      return 'OK Listrights completed.'
    }
    case 'MYRIGHTS':
      writeMyRights(output, mailbox, await acl.myRights(mailbox))
      return 'OK Myrights completed.'
  }
}

/** LIST RETURN (MYRIGHTS): whatever may not be known is passed over. */
export async function listMyRights(output: Output, acl: AclSession, mailbox: string): Promise<void> {
  let rights: string
  try {
    rights = await acl.myRights(mailbox)
  } catch (error) {
    if (!(error instanceof ImapError)) throw error
    return
  }
  writeMyRights(output, mailbox, rights)
}

function writeMyRights(output: Output, mailbox: string, rights: string): void {
  output.text(`* MYRIGHTS ${formatMailboxName(mailbox)} ${rightsAsAstring(rights)}\r\n`)
}

function rightsAsAstring(rights: string): string {
  const text = formatRights(rights)
  return text === '' ? '""' : text
}

/** Without those of RFC 2086, which stand for several. */
function formatTied(rights: string): string {
  return formatRights(rights).replace(/[cd]/g, '')
}

/** RFC 4314 §2.1.1: told at the end, where something they stand for may be given. */
function virtualOf(optional: readonly string[]): string[] {
  return Array.from(formatRights(optional.join('')).replace(/[^cd]/g, ''))
}
