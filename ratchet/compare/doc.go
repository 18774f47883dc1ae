// Package compare measures the ratchet beside other Go implementations on the same
// work in the same run. It is a module of its own, so that their dependencies stay
// out of the product: cd ratchet/compare && go test -bench . -benchmem
package compare
