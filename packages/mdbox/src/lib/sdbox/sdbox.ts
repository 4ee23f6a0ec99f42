import type { Box, BoxFormat, BoxHost } from '@mailstead/box'
import { type Fs, requireSupport } from '@mailstead/fs'
import { SdboxBox } from './box.ts'
import { type SdboxOptions, withDefaults } from './options.ts'
import { hasMessages } from './directory.ts'
import { COLUMNS } from './row.ts'

/**
 * One file for each message, `<path>/<GUID of the mailbox>/u.<UID>` on `fs`, for a store to open. Nothing is created before
 * the first message is flushed. Needs a file system with `append`, `overwrite`, `rename` and `lock`; with `link` a copy
 * is another name of the same file, without it another file.
 */
export function sdbox(fs: Fs, path: string, options?: SdboxOptions): BoxFormat {
  if (path === '') throw new TypeError('a box needs a directory of its own, not the root of its file system')
  const complete = withDefaults(options)
  return {
    name: 'sdbox',
    refBytes: 4,
    columns: COLUMNS,
    // oxlint-disable-next-line require-await
    open: async (host: BoxHost): Promise<Box> => {
      requireSupport(fs, ['append', 'overwrite', 'rename', 'lock'])
      return new SdboxBox(fs, path, host, complete)
    },
    hasMessages: async () => hasMessages(fs, path),
  }
}
