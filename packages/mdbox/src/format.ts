export { dumpMdboxFile } from './lib/dump.ts'
export { dumpJournal } from './lib/journal-dump.ts'
export { dumpSdboxIdentity } from './lib/sdbox/dump.ts'
export { dumpTier } from './lib/tier-record.ts'
export {
  CHUNK_BYTES,
  type FileLine,
  HEADER_BYTES,
  readFileLine,
  type TrailerFields,
  writeFileLine,
  writeFrame,
} from './lib/format.ts'
