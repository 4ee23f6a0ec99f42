export { type CacheField, type CacheInput, imapCacheFields } from './lib/cache-fields.ts'
export { foldText, foldToBytes } from './lib/fold-text.ts'
export { formatBody, formatBodyStructure, formatEnvelope } from './lib/format-structure.ts'
export { cachedHeaderFields, headerFieldsCached, readHeaderFields } from './lib/header-field.ts'
export { readSearchField, type SearchedField, searchFieldHas, writeSearchField } from './lib/search-field.ts'
export {
  isReplyOrForward,
  readSortField,
  sentDayOf,
  sentMsOf,
  type SortField,
  type SortInput,
  type SortKey,
  sortKeyOf,
  writeSortField,
} from './lib/sort-field.ts'
export { readThreadField, type ThreadField, type ThreadInput, writeThreadField } from './lib/thread-field.ts'
