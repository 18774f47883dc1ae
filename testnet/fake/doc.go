// Package fake has upstreams for tests and for the demo: they answer at once, cost nothing
// and are the same every time. What a real model says nobody can test; how it is spoken
// to, how it fails and what it counts, these do as the real ones.
package fake
