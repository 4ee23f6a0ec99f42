export { UID_MAX } from './lib/limits.ts'
export { UidSet, UidSetBuilder, type UidSetParseOptions } from './lib/uid-set.ts'
