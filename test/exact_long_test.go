//go:build long

package test

// randomTimes is how many times of a history are chosen at random and restored, besides those chosen for a reason.
const randomTimes = 20

const long = true
