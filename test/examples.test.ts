import "../examples/testing.ts"
