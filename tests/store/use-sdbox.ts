/** The tests of stores that are run after this keep their messages in an sdbox. */
import { sdbox } from '@mailstead/mdbox/sdbox'
import { useBox } from '../../packages/store/test/support.ts'

useBox((fs) => sdbox(fs, 'storage'), 1 / 4)
