import type { Box, BoxFormat, BoxHost } from '@mailstead/box'
import { type Fs, requireSupport } from '@mailstead/fs'
import { hasMessages } from './altmove-tier.ts'
import { MdboxBox } from './box.ts'
import { type MdboxOptions, withDefaults } from './options.ts'
import { COLUMNS } from './place.ts'

/**
 * Message files `<path>/m.<n>` on `fs`, for a store to open. Nothing is created before the first message is flushed.
 * Needs a file system with `append`, `overwrite` and `lock`.
 */
export function mdbox(fs: Fs, path: string, options?: MdboxOptions): BoxFormat {
  if (path === '') throw new TypeError('a box needs a directory of its own, not the root of its file system')
  const complete = withDefaults(options)
  return {
    name: 'mdbox',
    refBytes: 4,
    columns: COLUMNS,
    // oxlint-disable-next-line require-await
    open: async (host: BoxHost): Promise<Box> => {
      requireSupport(fs, ['append', 'overwrite', 'lock'])
      return new MdboxBox(fs, path, host, complete)
    },
    hasMessages: async () => hasMessages(fs, path),
  }
}
