/** Order by bytes, then by length: below, equal to or above 0, for `sort`. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b)
}
