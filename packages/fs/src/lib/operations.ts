/** The names of what can be asked of a file system and of what is opened in it, for what treats all of it alike. */

export const FS_OPERATIONS = [
  'stat',
  'open',
  'readFile',
  'writeFile',
  'list',
  'makeDirectory',
  'rename',
  'link',
  'remove',
  'syncDirectory',
  'lock',
  'acquire',
  'read',
  'readSync',
  'append',
  'appendSync',
  'write',
  'truncate',
  'sync',
] as const

/** `stat` of a name and of an open file; `list` is one page (and one more that finds the end); `acquire` is of a lock, with the wait. */
export type FsOperation = (typeof FS_OPERATIONS)[number]
