export { type TestServer, testServer, type TestServerOptions, testStorage } from './lib/test-server.ts'
