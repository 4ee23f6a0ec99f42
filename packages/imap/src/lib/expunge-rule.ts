/**
 * Which command may be followed by what about messages that went (RFC 9051 §7.5.1, RFC 3501 §7.4.1, RFC 5256 §1).
 *
 *   'never'    new messages and flags are told, expunges are withheld: the client may have sent sequence numbers already
 *   'allowed'  everything is told
 *   'none'     the selected mailbox is not looked at
 */
import type { CommandName } from './command.ts'

export type ExpungeRule = 'never' | 'allowed' | 'none'

export function expungeRule(name: CommandName, uid: boolean): ExpungeRule {
  switch (name) {
    case 'FETCH':
    case 'STORE':
    case 'SEARCH':
    case 'SORT':
    case 'THREAD':
      return uid ? 'allowed' : 'never'
    case 'NOOP':
    case 'CHECK':
    case 'IDLE':
    case 'EXPUNGE':
    case 'COPY':
    case 'MOVE':
    case 'APPEND':
      return 'allowed'
    default:
      return 'none'
  }
}
