export { plainBox } from './lib/plain-box.ts'
