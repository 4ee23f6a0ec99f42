import type { Options } from 'tsup'

/** JavaScript only: the declarations come from `tsc`, which the build runs beside tsup. */
export const base: Options = {
  format: ['esm'],
  target: 'node24',
  platform: 'node',
  sourcemap: true,
  clean: true,
  dts: false,
}
