/** Whether tests take all of a long list, or a sample of it: `npm run test:all`, or `TEST_ALL=1 vitest run …`. */
export const everything = process.env["TEST_ALL"] === "1"

/** How much of something is done: in all, and in a run that is short. */
export const amount = (all: number, sample: number): number => everything ? all : sample
