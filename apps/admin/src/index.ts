export { run } from './lib/run.ts'
