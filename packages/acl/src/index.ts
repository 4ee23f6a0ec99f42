export { Acl, type AclOptions } from './lib/acl.ts'
export { AclError, type AclErrorCode } from './lib/error.ts'
export {
  type AclDecision,
  type AclExplanation,
  type AclStep,
  type AclStepEffect,
  explainAcl,
} from './lib/explain.ts'
export {
  formatIdentifier,
  formatImapIdentifier,
  IDENTIFIER_KINDS,
  IDENTIFIER_MAX,
  type Identifier,
  type IdentifierKind,
  type ImapIdentifier,
  parseIdentifier,
  parseImapIdentifier,
} from './lib/identifier.ts'
export type { AclLayer } from './lib/layer.ts'
export {
  ACL_ENTRIES_MAX,
  type AclChange,
  type AclChangeMode,
  type AclEntry,
  type AclList,
  aclList,
  type BrokenEffect,
  type BrokenLine,
  changeAcl,
  EMPTY_ACL,
  inheritedAcl,
  withoutBroken,
} from './lib/list.ts'
export {
  ADMIN,
  ALL_RIGHTS,
  CREATE,
  DELETE,
  EXPUNGE,
  formatImapRights,
  formatRights,
  INSERT,
  LOOKUP,
  parseRightNames,
  parseRights,
  POST,
  READ,
  RIGHT_LETTERS,
  RIGHT_NAMES,
  type RightName,
  rightNames,
  WRITE,
  WRITE_DELETED,
  WRITE_SEEN,
} from './lib/rights.ts'
export { ACL_VALUE_MAX, decodeAcl, encodeAcl } from './lib/stored.ts'
export { ANONYMOUS, type Subject, subjectOf } from './lib/subject.ts'
