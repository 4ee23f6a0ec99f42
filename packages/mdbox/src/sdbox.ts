export { sdbox } from './lib/sdbox/sdbox.ts'
export type { SdboxOptions } from './lib/sdbox/options.ts'
