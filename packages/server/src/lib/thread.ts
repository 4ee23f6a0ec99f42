/**
 * THREAD (RFC 5256): ORDEREDSUBJECT and REFERENCES.
 *
 * Messages are numbered 0 … n - 1 in the order of the mailbox. Parents, dummies and links are columns; objects are made
 * once, for the answer.
 *
 * INVARIANTS
 *   1. The links form a forest whatever the headers say: a link that would close a loop is not made.
 *   2. Nothing recurses over the depth of a thread, which the senders of mail decide.
 */
import type { ThreadNode } from '@mailstead/imap'

/** What threading looks at, one element per message. */
export interface ThreadMessages {
  /** What the answer calls the message: UID or sequence number. */
  readonly ids: Uint32Array
  /** Sent date, or INTERNALDATE where there is none that can be read; milliseconds since the epoch. */
  readonly dates: Float64Array
  /** Base subjects (RFC 5256 §2.1), folded so that equal ones are equal strings. */
  readonly subjects: readonly string[]
  /** 1: the subject says that it is a reply or a forward. */
  readonly replies: Uint8Array
}

export interface ReferenceMessages extends ThreadMessages {
  /** Normalised Message-ID; empty where there is none. */
  readonly messageIds: readonly string[]
  /** References, or else the first id of In-Reply-To; oldest first. */
  readonly references: readonly (readonly string[])[]
}

/** RFC 5256 §3, ORDEREDSUBJECT: by base subject; in each thread the first message is the parent of all others. */
export function threadBySubject(messages: ThreadMessages): readonly ThreadNode[] {
  const { ids, dates, subjects } = messages
  const order = byDate(dates)
  const threads = new Map<string, { id: number; children: ThreadNode[] }>()
  for (const at of order) {
    const subject = subjects[at]!
    const thread = threads.get(subject)
    if (thread === undefined) threads.set(subject, { id: ids[at]!, children: [] })
    else thread.children.push({ id: ids[at]!, children: [] })
  }
  return [...threads.values()]
}

const NONE = -1

/** RFC 5256 §3, REFERENCES. The numbers of the steps are the RFC's. */
export function threadByReferences(messages: ReferenceMessages): readonly ThreadNode[] {
  const { ids, dates, subjects, replies } = messages
  const count = ids.length
  const forest = new Forest(count)

  // (1) Message-IDs are nodes; a message without one, or with one that came before, gets a node that nothing names.
  const nodeOfId = new Map<string, number>()
  for (let at = 0; at < count; at++) {
    const id = messages.messageIds[at]!
    if (id !== '' && !nodeOfId.has(id)) nodeOfId.set(id, at)
  }
  for (let at = 0; at < count; at++) {
    let before = NONE
    for (const id of messages.references[at]!) {
      let node = nodeOfId.get(id)
      if (node === undefined) {
        node = forest.dummy()
        nodeOfId.set(id, node)
      }
      // (1.A) Existing links stay.
      if (before !== NONE && forest.parent[node] === NONE) forest.link(before, node)
      before = node
    }
    // (1.B) The last reference is the parent, whatever others said before.
    if (forest.parent[at] !== NONE) forest.unlink(at)
    if (before !== NONE) forest.link(before, at)
  }

  // (2), (3) Dummies without children go; others hand their children up, except to the root if they have several.
  const roots = forest.prune()

  // (4) The root set by date; a dummy counts as its first child.
  const dateOf = (node: number): number => (node < count ? dates[node]! : Number.POSITIVE_INFINITY)
  const firstOf = (node: number): number => (node < count ? node : forest.children[node]![0]!)
  for (const root of roots) if (root >= count) sortByDate(forest.children[root]!, dateOf)
  roots.sort((a, b) => dateOf(firstOf(a)) - dateOf(firstOf(b)) || firstOf(a) - firstOf(b))

  // (5) Roots of one subject are one thread.
  const table = new Map<string, number>()
  for (const root of roots) {
    const message = firstOf(root)
    const subject = subjects[message]!
    if (subject === '') continue
    const known = table.get(subject)
    if (known === undefined) table.set(subject, root)
    else if (known < count && (root >= count || (replies[known] === 1 && replies[message] === 0)))
      table.set(subject, root)
  }
  const merged: number[] = []
  // Where a root was replaced by a dummy that holds it and others.
  const within = new Map<number, number>()
  for (const root of roots) {
    const subject = subjects[firstOf(root)]!
    const known = subject === '' ? root : table.get(subject)!
    if (known === root) {
      merged.push(root)
      continue
    }
    if (known >= count) {
      if (root >= count) forest.children[known]!.push(...forest.children[root]!)
      else forest.children[known]!.push(root)
    } else if (replies[firstOf(root)] === 1 && replies[known] === 0) {
      forest.childrenOf(known).push(root)
    } else {
      const both = forest.dummy()
      forest.children[both] = [known, root]
      within.set(known, both)
      table.set(subject, both)
    }
  }
  for (const [at, root] of merged.entries()) merged[at] = within.get(root) ?? root
  // A root that comes before the one it was merged into: only the latter stays in the list, once.
  const left = [...new Set(merged)]

  // (6) Siblings by date, at every level, deepest first: a dummy counts as its first child.
  const order = forest.preOrder(left)
  for (let i = order.length - 1; i >= 0; i--) {
    const children = forest.children[order[i]!]
    if (children === undefined || children.length < 2) continue
    children.sort((a, b) => dateOf(firstOf(a)) - dateOf(firstOf(b)) || firstOf(a) - firstOf(b))
  }
  left.sort((a, b) => dateOf(firstOf(a)) - dateOf(firstOf(b)) || firstOf(a) - firstOf(b))
  return forest.nodes(left, ids)
}

/** Nodes 0 … messages - 1 are messages, the others dummies. */
class Forest {
  readonly #messages: number
  readonly parent: number[]
  readonly children: (number[] | undefined)[]

  constructor(messages: number) {
    this.#messages = messages
    this.parent = Array.from({ length: messages }, () => NONE)
    this.children = Array.from({ length: messages }, () => undefined)
  }

  dummy(): number {
    this.children.push(undefined)
    return this.parent.push(NONE) - 1
  }

  childrenOf(node: number): number[] {
    return (this.children[node] ??= [])
  }

  link(parent: number, child: number): void {
    if (parent === child) return
    // A node without children is nobody's ancestor, so most links need no look upwards.
    if (this.children[child] !== undefined && this.children[child].length > 0)
      for (let up = parent; up !== NONE; up = this.parent[up]!) if (up === child) return
    this.parent[child] = parent
    this.childrenOf(parent).push(child)
  }

  unlink(child: number): void {
    const siblings = this.children[this.parent[child]!]!
    siblings.splice(siblings.indexOf(child), 1)
    this.parent[child] = NONE
  }

  /** Nodes below `roots`, each before its children. */
  preOrder(roots: readonly number[]): number[] {
    const order: number[] = []
    const stack = [...roots].reverse()
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      order.push(node)
      const children = this.children[node]
      if (children !== undefined) for (let i = children.length - 1; i >= 0; i--) stack.push(children[i]!)
    }
    return order
  }

  /** Step 3. Returns the root set. */
  prune(): number[] {
    const roots: number[] = []
    for (let node = 0; node < this.parent.length; node++) if (this.parent[node] === NONE) roots.push(node)
    const order = this.preOrder(roots)
    for (let i = order.length - 1; i >= 0; i--) {
      const node = order[i]!
      const children = this.children[node]
      if (children === undefined || !children.some((child) => child >= this.#messages)) continue
      // A dummy hands its children up into its own place. It has none itself that is a dummy: they were here before.
      this.children[node] = children.flatMap((child) => (child < this.#messages ? child : (this.children[child] ?? [])))
    }
    const left: number[] = []
    for (const root of roots) {
      const children = this.children[root]
      if (root < this.#messages) left.push(root)
      else if (children !== undefined && children.length === 1) left.push(children[0]!)
      else if (children !== undefined && children.length > 1) left.push(root)
    }
    return left
  }

  /** The answer, built from the leaves up. */
  nodes(roots: readonly number[], ids: Uint32Array): ThreadNode[] {
    const order = this.preOrder(roots)
    const made = new Map<number, ThreadNode>()
    for (let i = order.length - 1; i >= 0; i--) {
      const node = order[i]!
      const children = (this.children[node] ?? []).map((child) => made.get(child)!)
      for (const child of this.children[node] ?? []) made.delete(child)
      made.set(node, { id: node < this.#messages ? ids[node]! : 0, children })
    }
    return roots.map((root) => made.get(root)!)
  }
}

function sortByDate(nodes: number[], dateOf: (node: number) => number): void {
  nodes.sort((a, b) => dateOf(a) - dateOf(b) || a - b)
}

function byDate(dates: Float64Array): Uint32Array {
  const order = new Uint32Array(dates.length)
  for (let at = 0; at < order.length; at++) order[at] = at
  return order.sort((a, b) => dates[a]! - dates[b]! || a - b)
}
