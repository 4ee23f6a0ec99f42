/** The nodes of a file system in memory, and who listens to what happens to them: how `crashableFs` knows what was flushed. */
import type { FsFile, FsMetadata } from './contract.ts'

export interface FileNode {
  readonly kind: 'file'
  readonly id: number
  data: Uint8Array
  /** Whether `data` belongs to somebody else too: copied before it is changed. */
  shared: boolean
  size: number
  modifiedMs: number
  version: number
  readonly metadata: FsMetadata
  /** Handles that hold the kernel-like lock of this file. */
  readonly holders: Map<object, 'shared' | 'exclusive'>
}
export interface DirectoryNode {
  readonly kind: 'directory'
  readonly entries: Map<string, FileNode | DirectoryNode>
  modifiedMs: number
}

/** One entry of a directory, as it is from now on; without a node it is gone. */
export interface MemorySlot {
  readonly directory: DirectoryNode
  readonly name: string
  readonly node: FileNode | DirectoryNode | undefined
}

/** Hears of every change in the instant in which it takes effect, and is asked to flush. Needs `directories`. */
export interface MemoryDisk {
  /** What there is from the beginning can be put into the root here. */
  attach(root: DirectoryNode, newFile: (data: Uint8Array, metadata?: FsMetadata) => FileNode): void
  opened(file: FsFile, node: FileNode): void
  written(node: FileNode, path: string, position: number, parts: readonly Uint8Array[]): void
  resized(node: FileNode, path: string, size: number): void
  /** A directory was made on the way to something else. */
  directory(path: string, slot: MemorySlot): void
  /** These entries changed as one. Resolves when new parent directories, and of a `writeFile` the entry too, are durable. */
  named(operation: string, path: string, slots: readonly MemorySlot[]): Promise<void>
  /** Resolves when all directories made until now are durable. */
  settle(): Promise<void>
  sync(node: FileNode, path: string): Promise<void>
  syncDirectory(node: DirectoryNode, path: string): Promise<void>
}
