/** FLAGS lists as wire bytes, made once for each combination that occurs: nothing is formatted per message. */
import { formatFlags } from '@mailstead/imap/wire'

/** Beside the five system flags: this session was told that the message is recent. */
const RECENT = 32
const COMBINATIONS = 64

export class FlagLists {
  #sets: readonly (readonly number[])[] = []
  #keywords: readonly string[] = []
  #lists: (Uint8Array | undefined)[] = []

  /** What later calls of `list` are about. Costs nothing while the sets are the same. */
  use(keywordSets: readonly (readonly number[])[], keywords: readonly string[]): void {
    if (keywordSets === this.#sets && keywords === this.#keywords) return
    this.#sets = keywordSets
    this.#keywords = keywords
    this.#lists = []
  }

  /** The parenthesised list. */
  list(flags: number, recent: boolean, keywordSet: number): Uint8Array {
    const at = keywordSet * COMBINATIONS + (recent ? flags | RECENT : flags)
    return this.#lists[at] ?? this.#make(at, flags, recent, keywordSet)
  }

  #make(at: number, flags: number, recent: boolean, keywordSet: number): Uint8Array {
    const names = (this.#sets[keywordSet] ?? []).map((index) => this.#keywords[index]!)
    const made = formatFlags(flags, names, recent)
    this.#lists[at] = made
    return made
  }
}
