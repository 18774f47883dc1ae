// Package execution keeps a record of each call that changes something, and sees to it
// that none is done twice.
//
//	log.go   the log: begin, start, end; what a crash left; what is old
//	steps.go the chain of steps: how one is made, and how a stranger checks it
//	kept.go  answers that are still in memory, for whoever asks again
//
// An execution begins when somebody asks. If its caller gave an idempotency key, whoever
// asks again with that key waits for the first, and learns what became of it. What was
// authorised, and that it runs, is durable before the work begins; how it ended is durable
// before anybody is told. What ran when the program died is unknown from then on, and is
// never done again by itself. The normative text is contracts/spec/execution.md.
package execution
