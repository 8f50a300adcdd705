//go:build long

package policy_test

// randomBatches is how many clusters of random databases are neutralized.
const randomBatches = 12
