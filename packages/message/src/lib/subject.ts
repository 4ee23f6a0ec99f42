/**
 * Base subjects of RFC 5256 §2.1: what is left of a subject when replies, forwards and list tags are taken off.
 */

export interface BaseSubject {
  /** In no particular case: compare with i;unicode-casemap or in upper case. */
  readonly base: string
  readonly isReplyOrForward: boolean
}

/** Takes a subject already decoded to text. */
export function baseSubject(subject: string): BaseSubject {
  let text = /[\t\r\n]| {2}/.test(subject) ? subject.replace(/[\t\r\n ]+/g, ' ') : subject
  let isReplyOrForward = false
  for (;;) {
    // (2) trailing "(fwd)" and blanks
    for (;;) {
      const trimmed = trimEnd(text)
      if (trimmed.endsWith(')') && trimmed.slice(-5).toLowerCase() === '(fwd)') {
        isReplyOrForward = true
        text = trimmed.slice(0, -5)
      } else {
        text = trimmed
        break
      }
    }
    // (3)-(5) leaders, and blobs that leave something behind
    for (;;) {
      const before = text
      const leader = leaderLength(text)
      if (leader > 0) {
        if (text[0] !== ' ') isReplyOrForward = true
        text = text.slice(leader)
      }
      const blob = blobLength(text)
      if (blob > 0 && blob < text.length) text = text.slice(blob)
      if (text === before) break
    }
    // (6) "[fwd: " … "]"
    if (text.endsWith(']') && text.slice(0, 5).toLowerCase() === '[fwd:') {
      isReplyOrForward = true
      text = text.slice(5, -1)
    } else return { base: text, isReplyOrForward }
  }
}

function trimEnd(text: string): string {
  let end = text.length
  while (end > 0 && text[end - 1] === ' ') end--
  return text.slice(0, end)
}

/** Length of `[...]` and the blanks after it at the beginning; 0 if there is none. */
function blobLength(text: string, from = 0): number {
  if (text[from] !== '[') return 0
  let at = from + 1
  while (at < text.length && text[at] !== '[' && text[at] !== ']') at++
  if (text[at] !== ']') return 0
  at++
  while (text[at] === ' ') at++
  return at - from
}

/** Length of `*subj-blob ("re" / "fw" ["d"]) *WSP [subj-blob] ":"`, or of a blank, at the beginning. */
function leaderLength(text: string): number {
  const first = text.charCodeAt(0)
  if (first === 0x20) return 1
  // Neither R, F nor a bracket: the beginning of most subjects.
  if ((first | 0x20) !== 0x72 && (first | 0x20) !== 0x66 && first !== 0x5b) return 0
  let at = 0
  for (let blob = blobLength(text, at); blob > 0; blob = blobLength(text, at)) at += blob
  const word = text.slice(at, at + 3).toLowerCase()
  if (word === 'fwd') at += 3
  else if (word.startsWith('re') || word.startsWith('fw')) at += 2
  else return 0
  while (text[at] === ' ') at++
  at += blobLength(text, at)
  return text[at] === ':' ? at + 1 : 0
}
