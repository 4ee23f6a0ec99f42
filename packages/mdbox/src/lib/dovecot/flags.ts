/**
 * Flags of a Dovecot index record. The five that clients see have the bits of `@mailstead/index`; the others are Dovecot's
 * own and stay here.
 */
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'

/** What clients see. */
export const SYSTEM_FLAGS: number = FLAG_ANSWERED | FLAG_FLAGGED | FLAG_DELETED | FLAG_SEEN | FLAG_DRAFT
/** dbox: the message is wanted in alternate storage. */
export const DOVECOT_ALT = 0x40
/** Flags that change without a client seeing anything of it. */
export const DOVECOT_INTERNAL = 0xc0
