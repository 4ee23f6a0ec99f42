/** Numbers that a seed repeats: a failure is found again by its seed. */
export interface Random {
  /** 0 … `limit` - 1. */
  below(limit: number): number
  /** One of `list`, which is not empty. */
  pick<T>(list: readonly T[]): T
}

/** A generator of 32 bits of state (a Weyl sequence whose steps are mixed): enough to choose by, nothing else. */
export function random(seed: number): Random {
  let state = seed >>> 0
  const below = (limit: number): number => {
    state = (state + 0x9e3779b9) >>> 0
    let mixed = state
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    mixed ^= mixed >>> 15
    return Math.floor(((mixed >>> 0) / 2 ** 32) * limit)
  }
  return { below, pick: (list) => list[below(list.length)]! }
}
