//go:build !long

package policy_test

// randomBatches is how many clusters of random databases are neutralized.
const randomBatches = 1

// oneIn is how many of a test's repetitions there are for each that is done: scenes, points of interruption.
const oneIn = 10
