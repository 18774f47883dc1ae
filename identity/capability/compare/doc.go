// Package compare asks others about the same decisions in the same run: Cedar, whose
// semantics are proved, as an oracle for a million random decisions; and Biscuit,
// macaroons and UCAN for what comparable work costs. It is a module of its own, so that
// their dependencies stay out of the product:
//
//	cd identity/capability/compare && go test -bench . -benchmem
package compare
