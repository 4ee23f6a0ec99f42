export { type FsUnderTest, fsConformance, type Runner } from './lib/conformance.ts'
