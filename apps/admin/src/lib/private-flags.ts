/**
 * `mailstead private`: which flags of a mailbox each user has for himself.
 *
 * A policy is written as in docs/formats/private-flags.md: `shared \Seen $Label*`. Mailboxes without one have that of the nearest
 * mailbox above that has one, or of the store (''). Whoever runs the server acts for the owner, and may consent for him.
 */
import { formatPrivacyPolicy, parsePrivacyPolicy } from '@mailstead/acl/private-flags'
import { Command } from 'commander'
import { type AclFlags, inStore, print, withFlags } from './acl-store.ts'
import { Exit } from './exit.ts'

/** What a shell leaves of a system flag that was not quoted. Nobody has keywords of these names. */
const SYSTEM_NAMES = /^(?:answered|flagged|deleted|seen|draft)$/i

export function privateCommand(): Command {
  const command = new Command('private').description('which flags of a mailbox each user has for himself')
  command.addCommand(
    withFlags(new Command('get').description('the policy that counts for a mailbox').argument('<mailbox>')).action(
      (mailbox: string, flags: AclFlags) =>
        inStore(flags, { write: false }, ({ session }) => {
          const policy = formatPrivacyPolicy(session.privacy(mailbox))
          print(flags, { mailbox, policy }, () => policy)
        }),
    ),
  )
  command.addCommand(
    withFlags(
      new Command('set')
        .description('give a mailbox a policy: `set Team shared "\\Seen" "$Label*"`')
        .argument('<mailbox>')
        .argument('<policy...>', 'private or shared, and then the flags of the other kind'),
    ).action((mailbox: string, words: readonly string[], flags: AclFlags) =>
      inStore(flags, { write: true }, async ({ session }) => {
        const policy = parsePrivacyPolicy(words.join(' '))
        if ('fault' in policy) throw new Exit(2, policy.fault)
        const unquoted = policy.rules.find(({ pattern }) => SYSTEM_NAMES.test(pattern))?.pattern
        if (unquoted !== undefined)
          throw new Exit(
            2,
            `${unquoted} is a keyword; for the flag write '\\${unquoted}', in quotes that the shell keeps`,
          )
        await session.changePrivacy(mailbox, policy)
      }),
    ),
  )
  command.addCommand(
    withFlags(
      new Command('clear').description('take the policy of a mailbox away: it inherits one').argument('<mailbox>'),
    ).action((mailbox: string, flags: AclFlags) =>
      inStore(flags, { write: true }, ({ session }) => session.changePrivacy(mailbox, undefined)),
    ),
  )
  return command
}
