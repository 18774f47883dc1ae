// Command gen writes Go types, validators and canonical encoders from the JSON
// Schemas of the contracts. It reads the subset of JSON Schema 2020-12 in
// schema.go and refuses any other keyword. Run it by "go generate ./contracts";
// its output is committed, and CI proves it fresh.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"os"
	"path/filepath"
)

func main() {
	schemas := flag.String("schemas", "schemas", "folder of the JSON Schemas")
	out := flag.String("out", ".", "folder of the Go package")
	flag.Parse()
	if err := run(*schemas, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(schemas, out string) error {
	objects, err := load(schemas)
	if err != nil {
		return err
	}
	w := newWriter(objects)
	var body bytes.Buffer
	for _, o := range objects {
		if err := w.object(&body, o); err != nil {
			return fmt.Errorf("%s: %s: %w", o.s.file, o.name, err)
		}
	}
	src, err := format.Source(append(w.header(), body.Bytes()...))
	if err != nil {
		return fmt.Errorf("the generated code does not parse: %w", err)
	}
	return os.WriteFile(filepath.Join(out, "types_gen.go"), src, 0o644)
}
