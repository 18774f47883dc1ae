// Package contracts is the vocabulary of Talos and the promises that other
// programs may rely on: the error codes that cross the wire, the names of
// streams, topics and domains of signatures, and the Go types and validators
// generated from the JSON Schemas in schemas/. The normative text is in spec/,
// one page a protocol with numbered MUSTs; the known answers are in vectors/,
// one scenario a file.
//
// The package imports nothing of ours but contracts/jcs. Every other package
// validates with what is here and never re-implements it.
package contracts

//go:generate go run ./internal/gen -schemas schemas -out .
