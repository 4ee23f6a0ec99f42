export { type Compression, LEVEL_MAX } from './lib/compress.ts'
export { mdbox } from './lib/mdbox.ts'
export { type AltOptions, MESSAGE_MAX, type MdboxOptions, SMALL_MAX, WHOLE_MAX } from './lib/options.ts'
export { type Mdbox, type MdboxBatch, type OpenMdboxOptions, openMdbox } from './lib/standalone.ts'
