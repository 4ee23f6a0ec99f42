/** Mailboxes and messages of an mdbox or sdbox. */
import type { Fs } from '@mailstead/fs'
import type { DovecotStore, OpenDovecotOptions } from './contract.ts'
import { Faults } from './fault.ts'

export function openDbox(
  kind: 'mdbox' | 'sdbox',
  _fs: Fs,
  _path: string,
  _opened: string,
  _options: OpenDovecotOptions,
): Promise<DovecotStore> {
  return Promise.resolve({
    kind,
    mailboxes: [],
    subscriptions: [],
    faults: new Faults().list,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  })
}
