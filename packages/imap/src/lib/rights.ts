/**
 * Rights as letters (RFC 4314 §2.1), on the wire and towards a session.
 *
 * A session knows the eleven letters of RFC 4314 alone. The two of RFC 2086 that it took apart are the wire's: `c` is told beside `k`
 * or `x`, `d` beside `e` or `t` (§2.1.1), and a client that gives them gives all they stand for.
 */

/** The letters a session may use, in the order they are told. */
export const RIGHTS_LETTERS = 'lrwstipekxa'
/** Rights of RFC 4314 that RFC 2086 has not: what RIGHTS= in CAPABILITY says (§2.2). */
export const NEW_RIGHTS = 'texk'

/** In order, each once, with those of RFC 2086. Throws a RangeError for what is no right. */
export function formatRights(rights: string): string {
  let text = ''
  for (const letter of RIGHTS_LETTERS) if (rights.includes(letter)) text += letter
  for (const letter of rights) if (!RIGHTS_LETTERS.includes(letter)) throw new RangeError(`${letter} is no right`)
  if (/[kx]/.test(rights)) text += 'c'
  if (/[et]/.test(rights)) text += 'd'
  return text
}

/** What a client gave, as the letters of RFC 4314, in order and each once. Undefined if a letter is none. */
export function parseRights(text: string): string | undefined {
  let given = ''
  for (const letter of text) {
    if (letter === 'c') given += 'kx'
    else if (letter === 'd') given += 'et'
    else if (RIGHTS_LETTERS.includes(letter)) given += letter
    else return undefined
  }
  let rights = ''
  for (const letter of RIGHTS_LETTERS) if (given.includes(letter)) rights += letter
  return rights
}
