/** The limits of an index. What they bound is refused with INDEX_LIMIT (or, while a transaction is built, a RangeError). */

/** Rows of a full chunk: what one flag change copies, and the unit of snapshot pages. */
export const CHUNK_ROWS = 1024
/** Extension columns of a table. */
export const COLUMNS_MAX = 24
/** Width of an extension column, in bytes. */
export const COLUMN_BYTES_MAX = 64
/** Largest UID that is ever assigned. 2 ** 32 - 1 stays free, as IMAP's UIDNEXT must be a UID too. */
export const UID_LAST: number = 2 ** 32 - 2
/** Largest modseq that a row or table from elsewhere may bring: what is exact as a number, less as many as will ever follow. */
export const MODSEQ_GIVEN_MAX: number = 2 ** 52
/** Longest value of a table, in bytes. */
export const VALUE_MAX = 65_536
/** Longest key of a value, in bytes of UTF-8. */
export const VALUE_KEY_MAX = 1_024
/** Values of one table. */
export const VALUES_MAX: number = 1 << 20
/** Longest keyword, in bytes of UTF-8. */
export const KEYWORD_BYTES_MAX = 255
/** Distinct keywords of one table. */
export const KEYWORDS_MAX = 65_536
/** Distinct sets of keywords of one table. */
export const KEYWORD_SETS_MAX: number = 1 << 20
/** Longest payload of one frame, in bytes. Anything larger in a length field is damage, not data. Must not change: on disk. */
export const FRAME_MAX: number = 1 << 24
/** Longest header of one frame, in bytes. Must not change: on disk. */
export const FRAME_HEADER_MAX: number = 1 << 22
/** Longest transaction, in bytes of its frames' payloads. */
export const TRANSACTION_MAX: number = 1 << 30
/** Ranges of expunged UIDs that a table remembers; when there are more, the oldest are merged, then forgotten. */
export const TOMBSTONES_MAX = 65_536
/** Dropped tables that an index remembers, for `changesSince`. */
export const DROPPED_TABLES_MAX = 1_024
/** How far above the last modseq a flushed frame raises the ceiling for lazy changes. */
export const LAZY_MODSEQS = 4_096
/** Longest cache file of a table, in bytes: its offsets have 32 bits, and a last append has to fit. */
export const CACHE_BYTES_MAX: number = 2 ** 32 - 1 - (1 << 23)
