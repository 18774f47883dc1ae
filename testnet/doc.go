// Package testnet runs many nodes on one machine and plays scenarios on them.
//
// A Scenario is a list of verbs on Members, and does not know what they are: real
// binaries, each a process with a home of its own (StartProcesses), or nodes inside
// this process (StartInProcess), on loopback or on a simulated network in virtual
// time. So what the demo shows is what the tests hold.
package testnet
