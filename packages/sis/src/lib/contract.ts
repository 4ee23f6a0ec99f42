/**
 * What the two halves of this package say to each other: extraction finds parts and puts messages together again, the store of
 * blobs keeps bytes once. Neither knows how the other does it.
 */

/** Names the bytes of a blob, for ever: their key (a keyed SHA-256), then which file of them it was. Must not change: on disk. */
export const BLOB_REF_BYTES = 40
/** The first bytes of a reference: equal for equal bytes within one domain. */
export const BLOB_KEY_BYTES = 32
/** The rest: which of the files with these bytes was meant; only a hint when it comes to reading. */
export const BLOB_INSTANCE_BYTES = 8

/** A blob on its way in. Ended or aborted, always. */
export interface BlobWriter {
  /** The next bytes. They are the caller's again once it returned, or once what it returned resolved. */
  write(bytes: Uint8Array): void | Promise<void>
  /** No more bytes: now it is known whether there is such a blob already. Durable after `flush` of the batch. */
  end(): Promise<BlobSaved>
  /** Forgets everything that was written. Never rejects. */
  abort(): Promise<void>
}

export interface BlobSaved {
  /** BLOB_REF_BYTES bytes. */
  readonly ref: Uint8Array
  /** Bytes, as they were written. */
  readonly size: number
  /** These bytes were there already: nothing was stored. */
  readonly shared: boolean
}

/** Where extraction puts the bytes of parts. */
export interface BlobSink {
  begin(): BlobWriter
}

/** An open blob. Memory is bounded, and every byte verified before it is returned. */
export interface BlobReader extends AsyncDisposable {
  /** Bytes, as they were written. */
  readonly size: number
  /** Up to `into.length` bytes from `position`; less only at the end. SisError as for `BlobSource.open`. */
  read(into: Uint8Array, position: number): Promise<number>
}

/** Where the bytes of parts come from. */
export interface BlobSource {
  /**
   * SisError SIS_NOT_FOUND if nothing has these bytes, SIS_CORRUPT if what has them is damaged; an FsError if the storage is
   * away (FS_UNAVAILABLE) or fails.
   */
  open(ref: Uint8Array): Promise<BlobReader>
}
