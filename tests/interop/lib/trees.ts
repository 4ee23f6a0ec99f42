/**
 * ENVELOPE and BODYSTRUCTURE compared by meaning: strings as bytes, NIL as NIL, numbers as numbers; words that the RFCs call
 * case-insensitive (types, subtypes, encodings, parameter names, dispositions, languages) in lower case; parameters as a
 * set. The differences of two trees are named by kind, so that they can be listed and explained.
 */
import { type Value, textOf } from './values.ts'

export type Tree = null | number | string | readonly Tree[]

/** Strings, literals and atoms become the same kind of string. */
export function treeOf(value: Value): Tree {
  if (value === null || typeof value === 'number') return value
  if (Array.isArray(value)) return (value as readonly Value[]).map(treeOf)
  return textOf(value)
}

const ENVELOPE = ['date', 'subject', 'from', 'sender', 'reply-to', 'to', 'cc', 'bcc', 'in-reply-to', 'message-id']

/** The kinds of difference between two envelopes; empty when they are equal. */
export function envelopeDifferences(theirs: Tree, ours: Tree): readonly string[] {
  if (!Array.isArray(theirs) || !Array.isArray(ours)) return same(theirs, ours) ? [] : ['envelope: shape']
  if (ours.length !== ENVELOPE.length) return ['envelope: shape']
  return ENVELOPE.flatMap((field, at) => {
    const a = theirs[at] as Tree
    const b = ours[at] as Tree
    return same(a, b) ? [] : [`envelope ${field}: ${how(a, b)}`]
  })
}

/** The kinds of difference between two body structures; empty when they mean the same. */
export function bodyDifferences(theirs: Tree, ours: Tree): readonly string[] {
  const found = new Set<string>()
  compareParts(theirs, ours, found)
  return [...found]
}

type List = readonly Tree[]

function isMultipart(part: List): boolean {
  return Array.isArray(part[0])
}

function compareParts(theirs: Tree, ours: Tree, found: Set<string>): void {
  if (!Array.isArray(theirs) || !Array.isArray(ours)) {
    if (!same(theirs, ours)) found.add('body: shape')
    return
  }
  const a = theirs as List
  const b = ours as List
  if (isMultipart(a) !== isMultipart(b)) {
    found.add(isMultipart(a) ? 'body: multipart there, single part here' : 'body: single part there, multipart here')
    return
  }
  if (isMultipart(a)) {
    const partsA = a.filter((_, at) => at < firstString(a))
    const partsB = b.filter((_, at) => at < firstString(b))
    if (partsA.length !== partsB.length) {
      found.add(`body: ${partsA.length > partsB.length ? 'fewer' : 'more'} parts here`)
      return
    }
    for (const [at, part] of partsA.entries()) compareParts(part, partsB[at]!, found)
    const restA = a.slice(firstString(a))
    const restB = b.slice(firstString(b))
    for (const [at, name] of ['subtype', 'parameters', 'disposition', 'language', 'location'].entries()) {
      field(`body multipart ${name}`, name, restA[at], restB[at], found)
    }
    if (restA.length !== restB.length) found.add('body multipart: number of fields')
    return
  }
  const names = ['type', 'subtype', 'parameters', 'id', 'description', 'encoding', 'size']
  for (const [at, name] of names.entries()) field(`body ${name}`, name, a[at], b[at], found)
  const kindA = kindOf(a)
  if (kindA !== kindOf(b)) return
  let at = names.length
  if (kindA === 'message') {
    for (const difference of envelopeDifferences(a[at] as Tree, b[at] as Tree)) found.add(`body inner ${difference}`)
    compareParts(a[at + 1] as Tree, b[at + 1] as Tree, found)
    at += 2
  }
  if (kindA !== 'other') field('body lines', 'lines', a[at], b[at++], found)
  for (const name of ['md5', 'disposition', 'language', 'location']) field(`body ${name}`, name, a[at], b[at++], found)
  if (a.length !== b.length) found.add('body: number of fields')
}

function firstString(part: List): number {
  const at = part.findIndex((value) => !Array.isArray(value))
  return at < 0 ? part.length : at
}

function kindOf(part: List): 'text' | 'message' | 'other' {
  if (lower(part[0]) === 'text') return 'text'
  return lower(part[0]) === 'message' && lower(part[1]) === 'rfc822' && Array.isArray(part[8]) ? 'message' : 'other'
}

function field(kind: string, name: string, theirs: Tree | undefined, ours: Tree | undefined, found: Set<string>): void {
  const a = normal(name, theirs)
  const b = normal(name, ours)
  if (!same(a, b)) found.add(`${kind}: ${how(a, b)}`)
}

function lower(value: Tree | undefined): Tree | undefined {
  return typeof value === 'string' ? value.toLowerCase() : value
}

function normal(name: string, value: Tree | undefined): Tree {
  if (value === undefined) return '(absent)'
  if (name === 'type' || name === 'subtype' || name === 'encoding') return lower(value)!
  if (name === 'parameters') return parameters(value)
  if (name === 'disposition' && Array.isArray(value)) return [lower(value[0] as Tree)!, parameters(value[1] as Tree)]
  if (name === 'language') {
    const list = Array.isArray(value) ? (value as List) : value === null ? [] : [value]
    return list.map((word) => lower(word)!)
  }
  return value
}

function parameters(value: Tree): Tree {
  if (!Array.isArray(value)) return value
  const list = value as List
  const pairs: [string, Tree][] = []
  for (let at = 0; at + 1 < list.length; at += 2) pairs.push([String(lower(list[at])), list[at + 1]!])
  return pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
}

function how(theirs: Tree, ours: Tree): string {
  if (theirs === null) return 'NIL there, present here'
  if (ours === null) return 'present there, NIL here'
  if (Array.isArray(theirs) && Array.isArray(ours) && theirs.length !== ours.length) {
    return ours.length > theirs.length ? 'more elements here' : 'fewer elements here'
  }
  return 'other value'
}

function same(a: Tree, b: Tree): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
