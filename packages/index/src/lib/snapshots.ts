import type { Fs } from '@mailstead/fs'
import { Entry, type SnapshotPlace } from './entries.ts'
import type { FileLog, LogTail } from './log.ts'
import type { Settings } from './open-index.ts'
import type { TableState } from './state.ts'
import { IndexError } from './error.ts'

export class Snapshots implements AsyncDisposable {
  constructor(_fs: Fs, _prefix: string, _uuid: Uint8Array, _settings: Settings) {}
  async readDirectory(
    log: FileLog,
  ): Promise<{ entries: Entry[]; nextNumber: number; start: LogTail; logBefore: number }> {
    return { entries: [], nextNumber: 1, start: (await log.startOf(1))!, logBefore: 0 }
  }
  async load(entry: Entry, _place: SnapshotPlace): Promise<{ state: TableState; frame: number }> {
    throw new IndexError('INDEX_CORRUPT', entry.id)
  }
  async directoryChecksum(): Promise<number> {
    return 0
  }
  async [Symbol.asyncDispose](): Promise<void> {}
}
