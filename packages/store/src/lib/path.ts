/** Where a store has its index, in its file system. Must not change: on disk. */
export const INDEX_PATH = 'index'
