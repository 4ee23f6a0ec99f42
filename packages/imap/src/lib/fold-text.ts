/** Text for comparing: what SEARCH and SORT disregard is made equal. */

/**
 * Text as SEARCH compares it: in one case, decomposed (so that é written in one way or the other is equal, and ﬁ is fi),
 * line ends and tabs as blanks. After the idea of i;unicode-casemap (RFC 5051), which RFC 5255 §4 recommends.
 */
export function foldText(text: string): string {
  const upper = isAscii(text) ? text.toUpperCase() : text.normalize('NFKD').toUpperCase().normalize('NFKD')
  // Everything below the blank.
  return upper.replace(/[^ -\uffff]/g, ' ')
}

/** The same as UTF-8. */
export function foldToBytes(text: string): Buffer {
  return Buffer.from(foldText(text), 'utf8')
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 127) return false
  return true
}
