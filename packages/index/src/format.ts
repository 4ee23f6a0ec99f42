export { dumpFile } from './lib/dump-file.ts'
