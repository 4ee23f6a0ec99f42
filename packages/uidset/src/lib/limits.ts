/** The largest UID (RFC 9051 §9, nz-number: an unsigned 32-bit integer, not zero). */
export const UID_MAX = 0xffff_ffff
