/**
 * One version of an object: its ETag, and who made it from what.
 *
 * An ETag is usually a digest of the content, so two writers of equal bytes have the same one, and an answer that got
 * lost cannot be told from somebody else's success. Every write of this driver therefore names itself: it sets
 *
 *   Content-Type: application/octet-stream; mailstead="<id>.<id>.…"
 *
 * with an id of its own, 72 random bits in base64url, first, and after it the ids of the versions before, newest first, as far as
 * the writer can know them: a write with If-Match continues the history of what it replaced, every other starts anew.
 * A content type is kept by every server, costs nothing of the 2 KiB of user metadata, and other programs ignore its
 * parameters. A version that another program wrote has an id made from its ETag.
 *
 * A tag (`FsStat.tag`) is the ETag without quotes, `~`, and the history: what a later writer needs to continue it.
 * The server compares only the ETag; the id is compared before, by a HEAD. So a tag from before the content went away and came
 * back is refused, unless that happens between the two requests.
 */
import { createHash, randomBytes } from 'node:crypto'
import type { FsStat } from './contract.ts'

/** Versions before its own that a version names. Enough for as many writers who race while one waits for an answer. */
export const HISTORY_BEFORE = 8
const ID_BYTES = 9
const TYPE = 'application/octet-stream'
const HISTORY = /;\s*mailstead="?([\w.-]+)"?/

export interface S3Version {
  /** Without quotes; '' if the server has not told it: then nothing matches. */
  readonly etag: string
  /** Its own id first, then those before it. */
  readonly history: readonly string[]
}

/** A version as the server tells it. */
export interface S3Head extends S3Version {
  readonly stat: FsStat
  /** The server's clock when it answered, in milliseconds since the epoch; NaN if it did not say. */
  readonly serverMs: number
}

export function newVersionId(): string {
  return randomBytes(ID_BYTES).toString('base64url')
}

/** The history of a version with the new id `id` that replaces exactly `before`, if anything. */
export function historyAfter(id: string, before: S3Version | undefined): readonly string[] {
  return before === undefined ? [id] : [id, ...before.history.slice(0, HISTORY_BEFORE)]
}

export function formatContentType(history: readonly string[]): string {
  return `${TYPE}; mailstead="${history.join('.')}"`
}

export function versionOf(quotedEtag: string, contentType: string | undefined): S3Version {
  const etag = bare(quotedEtag)
  const written = HISTORY.exec(contentType ?? '')?.[1]
  return { etag, history: written === undefined ? [foreignId(etag)] : written.split('.') }
}

export function formatTag({ etag, history }: S3Version): string {
  return `${etag}~${history.join('.')}`
}

/** Any text is a tag; one that no server gave matches nothing. */
export function parseTag(tag: string): S3Version {
  const end = tag.lastIndexOf('~')
  if (end < 0) return { etag: tag, history: [foreignId(tag)] }
  return { etag: tag.slice(0, end), history: tag.slice(end + 1).split('.') }
}

export function sameVersion(one: S3Version, other: S3Version): boolean {
  return one.etag === other.etag && one.history[0] === other.history[0]
}

function bare(etag: string): string {
  return etag.replace(/^"(.*)"$/, '$1')
}

function foreignId(etag: string): string {
  return createHash('sha256').update(etag).digest().subarray(0, ID_BYTES).toString('base64url')
}
