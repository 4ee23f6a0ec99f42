/** What CAPABILITY says, which depends on who asks and over what. */

import { NEW_RIGHTS } from './rights.ts'

interface Asking {
  readonly secure: boolean
  readonly mayLogin: boolean
  readonly options: { readonly startTls?: unknown }
  readonly session: { readonly appendLimit: number; readonly acl?: unknown } | undefined
}

/** What does not depend on who asks: clients look for some of it (IDLE, MOVE) before they log in. */
const always = [
  'IMAP4rev1',
  'LITERAL+',
  'ID',
  'ENABLE',
  'IDLE',
  'NAMESPACE',
  'CHILDREN',
  'UIDPLUS',
  'UNSELECT',
  'MOVE',
  'ESEARCH',
  'SEARCHRES',
  'CONDSTORE',
  'QRESYNC',
  'LIST-EXTENDED',
  'LIST-STATUS',
  'SPECIAL-USE',
  'CREATE-SPECIAL-USE',
  'STATUS=SIZE',
  'MULTIAPPEND',
  'SORT',
  'THREAD=REFERENCES',
  'THREAD=ORDEREDSUBJECT',
  'WITHIN',
].join(' ')

export function capabilities(asking: Asking): string {
  if (asking.session !== undefined) {
    // RFC 4314 §2.2, RFC 8440
    const acl = asking.session.acl === undefined ? '' : ` ACL RIGHTS=${NEW_RIGHTS} LIST-MYRIGHTS`
    return `${always}${acl} APPENDLIMIT=${asking.session.appendLimit}`
  }
  const tls = !asking.secure && asking.options.startTls !== undefined ? ' STARTTLS' : ''
  return `${always} SASL-IR${tls}${asking.mayLogin ? ' AUTH=PLAIN AUTH=LOGIN' : ' LOGINDISABLED'}`
}
