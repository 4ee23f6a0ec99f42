export { memoryBackend, type MemoryBackendOptions } from './lib/testing-backend.ts'
export { ImapTestClient, type Reply } from './lib/testing-client.ts'
