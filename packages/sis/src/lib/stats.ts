/** What keeping bytes once saves. */
import type { BlobStore } from './blob-store.ts'
import { rowsOf } from './references.ts'

export interface SisStats {
  /** Different blobs that are used. */
  readonly blobs: number
  /** Uses of them all. */
  readonly references: number
  /** Bytes of all uses: what it would be if each had its own. */
  readonly logicalBytes: number
  /** Bytes of the files of those blobs, compressed as they are. */
  readonly storedBytes: number
  /** Blobs that nobody uses any more, until a sweep removes them, and the bytes of their files. */
  readonly unusedBlobs: number
  readonly unusedBytes: number
  /** Share of the logical bytes that is not stored: 0 to 1; below 0 if overhead is more than what is saved. */
  readonly savings: number
}

/** As the rows have it: of a shared directory, what this store alone would need. Reads no blob. */
export async function stats({ host, keys }: BlobStore): Promise<SisStats> {
  await host.refresh()
  await keys.update()
  const sum = { blobs: 0, references: 0, logicalBytes: 0, storedBytes: 0, unusedBlobs: 0, unusedBytes: 0 }
  for await (const rows of rowsOf(host.table))
    for (const row of rows) {
      sum.references += row.uses
      sum.logicalBytes += row.uses * row.size
      const twins = keys.mayHaveOlder(row.key, row.uid) ? await keys.find(row.key, row.instance) : []
      // Rows of one file count their uses apart, and its bytes once: with the first that is used.
      if (twins.some(({ uid, uses }) => uses > 0 === row.uses > 0 && uid < row.uid)) continue
      if (row.uses > 0) {
        sum.blobs++
        sum.storedBytes += row.stored
      } else if (!twins.some(({ uses }) => uses > 0)) {
        sum.unusedBlobs++
        sum.unusedBytes += row.stored
      }
    }
  const savings = sum.logicalBytes === 0 ? 0 : 1 - sum.storedBytes / sum.logicalBytes
  return { ...sum, savings }
}
