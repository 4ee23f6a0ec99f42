import { hexDump, toHex } from '@mailstead/bytes'
import { decodeRoot, FsError, ROOT_FILE } from '@mailstead/fs'
import { dumpCacheFile } from './dump-cache.ts'
import { dumpIndexFile } from './dump.ts'

/**
 * A file of an index as text, one line at a time: segments of the log, snapshots, caches, the control file, the list of
 * tables, root markers, locks. `name` is the file's own name, with or without directories: a cache is named after its table, and
 * a file whose first bytes are damaged is known by its name. Never fails on damage, and leaves out no byte: what cannot be
 * decoded is shown in hex. Undefined for what is no file of an index.
 */
export function dumpFile(bytes: Uint8Array, name: string): Iterable<string> | undefined {
  const base = name.slice(name.lastIndexOf('/') + 1)
  if (base === ROOT_FILE) return dumpRoot(bytes)
  if (base.endsWith('.cache')) {
    const lines = dumpCacheFile(bytes, base.slice(0, -'.cache'.length))
    if (lines !== undefined) return lines
  }
  return dumpIndexFile(bytes, base)
}

function* dumpRoot(bytes: Uint8Array): Generator<string> {
  try {
    const { uuid, role } = decodeRoot(bytes)
    yield `root marker: ${role}, ${toHex(uuid)}`
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    yield error.message
    for (const line of hexDump(bytes).split('\n')) if (line !== '') yield `    ${line}`
  }
}
