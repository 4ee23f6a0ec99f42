export {
  ACL_FILE_MAX,
  type AclFileContent,
  type AclFinding,
  BROKEN_LINES_MAX,
  changeAclFile,
  FINDINGS_MAX,
  formatAclFile,
  parseAclFile,
  readAclFile,
  writeAclFile,
} from './lib/acl-file.ts'
export { GlobalAcl } from './lib/global-acl.ts'
export { type GlobalAclFile, type GlobalAclFileOptions, openGlobalAcl } from './lib/global-file.ts'
export { PRECEDENCE_MAX } from './lib/global-line.ts'
