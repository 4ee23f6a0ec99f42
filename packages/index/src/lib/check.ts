import type { Fs } from '@mailstead/fs'
import type { IndexFinding } from './contract.ts'
import type { Settings } from './settings.ts'
export async function* checkIndex(
  _fs: Fs,
  _prefix: string,
  _settings: Settings,
): AsyncIterable<readonly IndexFinding[]> {}
