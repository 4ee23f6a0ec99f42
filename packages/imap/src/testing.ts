export { memoryBackend, type MemoryBackendOptions } from './lib/testing-backend.ts'
export { ImapTestClient, type Reply } from './lib/testing-client.ts'
export {
  type BackendsUnderTest,
  type BackendUnderTest,
  imapSessionConformance,
  type Runner,
} from './lib/testing-conformance.ts'
