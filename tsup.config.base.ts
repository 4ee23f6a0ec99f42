import type { Options } from 'tsup'

/** JavaScript only: the declarations come from `tsc`, which the build runs beside tsup. */
export const base: Options = {
  format: ['esm'],
  target: 'node24',
  platform: 'node',
  sourcemap: true,
  clean: true,
  dts: false,
  // Node 24 has `using`. What esbuild writes instead keeps the error of one round of a loop, and throws it again at the
  // end of every later round.
  esbuildOptions: (options) => {
    options.supported = { ...options.supported, using: true }
  },
}
