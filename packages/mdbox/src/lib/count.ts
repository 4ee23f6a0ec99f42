/** Line ends: what decides whether stored bytes are the canonical form, and how long that form is. */

const LF = 0x0a
const CR = 0x0d

/** Number of LFs without a CR before them. `before` is the byte before the first (0 at the beginning of a message). */
export function countLoneLf(bytes: Uint8Array, before: number): number {
  let lone = 0
  for (let at = bytes.indexOf(LF); at >= 0; at = bytes.indexOf(LF, at + 1))
    if ((at === 0 ? before : bytes[at - 1]) !== CR) lone++
  return lone
}
