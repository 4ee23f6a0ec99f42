/**
 * Access control lists: what a session has beside the Session contract if it offers the ACL extension (RFC 4314, RFC 8440).
 *
 * Rights are strings of the letters `l r w s t i p e k x a`, in any order; an empty string is none. Identifiers are Unicode as the client wrote
 * them, a leading `-` for negative rights included (RFC 4314 §2): what each means is the session's affair.
 *
 * A mailbox that the user may not know of is NONEXISTENT here as everywhere (RFC 4314 §6); what the user may know of and not do is NOPERM.
 */

export interface AclEntry {
  readonly identifier: string
  readonly rights: string
}

export interface RightsChange {
  /** What becomes of the rights that the identifier has: RFC 4314 §3.1. */
  readonly mode: 'replace' | 'add' | 'remove'
  readonly rights: string
}

export interface AclRights {
  /** What the identifier always has here. */
  readonly required: string
  /** What it may be given besides. Letters of one string come and go together. */
  readonly optional: readonly string[]
}

export interface AclSession {
  /** Needs `a`. */
  getAcl(mailbox: string): Promise<readonly AclEntry[]>
  /** Needs `a`. Durable when resolved, and in force for whoever has the mailbox open. CANNOT: the identifier is none, or is not to be changed. */
  setAcl(mailbox: string, identifier: string, change: RightsChange): Promise<void>
  /** Needs `a`. An identifier that has no entry is none to complain of. */
  deleteAcl(mailbox: string, identifier: string): Promise<void>
  /** Needs `a`. */
  listRights(mailbox: string, identifier: string): Promise<AclRights>
  /** NONEXISTENT to whom has no right at all. */
  myRights(mailbox: string): Promise<string>
}
