package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// schema is the subset of JSON Schema 2020-12 that the contracts are written in.
// A keyword that is not here is an error, so a schema never promises what the
// generated code does not check.
type schema struct {
	Schema      string             `json:"$schema"`
	ID          string             `json:"$id"`
	Title       string             `json:"title"`
	Description string             `json:"description"`
	Comment     string             `json:"$comment"`
	Type        string             `json:"type"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Additional  *bool              `json:"additionalProperties"`
	Enum        []string           `json:"enum"`
	Const       *string            `json:"const"`
	Pattern     string             `json:"pattern"`
	MinLength   *int               `json:"minLength"`
	MaxLength   *int               `json:"maxLength"`
	Minimum     *int64             `json:"minimum"`
	Maximum     *int64             `json:"maximum"`
	Items       *schema            `json:"items"`
	MinItems    *int               `json:"minItems"`
	MaxItems    *int               `json:"maxItems"`
	Ref         string             `json:"$ref"`
	Defs        map[string]*schema `json:"$defs"`
	MaxBytes    int                `json:"x-max-bytes"` // of the whole text; ours

	file string
}

// object is one Go struct to write.
type object struct {
	name string
	s    *schema
	root bool
}

// load reads every schema of dir and gives the objects in it, sorted by name.
func load(dir string) ([]object, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no schemas in %s", dir)
	}
	sort.Strings(files)
	var objects []object
	for _, f := range files {
		s, err := read(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
		found, err := s.objects()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
		objects = append(objects, found...)
	}
	slices.SortFunc(objects, func(a, b object) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(objects); i++ {
		if objects[i].name == objects[i-1].name {
			return nil, fmt.Errorf("type %s is defined in %s and in %s", objects[i].name, objects[i-1].s.file, objects[i].s.file)
		}
	}
	return objects, nil
}

func read(file string) (*schema, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	var s schema
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	s.file = filepath.Base(file)
	return &s, nil
}

func (s *schema) objects() ([]object, error) {
	if s.Type != "object" || s.Title == "" {
		return nil, errors.New("the root of a schema is an object with a title")
	}
	out := []object{{name: s.Title, s: s, root: true}}
	for name, d := range s.Defs {
		d.file = s.file
		if d.Type == "object" {
			out = append(out, object{name: name, s: d})
		}
	}
	for _, o := range out {
		if err := o.check(s.Defs); err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return out, nil
}

// check refuses what the writer has no form for, and gives each property that
// refers to a plain (non-object) definition that definition's own keywords.
func (o object) check(defs map[string]*schema) error {
	if o.s.Additional == nil || *o.s.Additional {
		return errors.New("an object closes itself with additionalProperties: false")
	}
	for name, p := range o.s.Properties {
		if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
			return fmt.Errorf("%s: names are ASCII", name)
		}
		if err := p.inline(defs); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, r := range o.s.Required {
		if o.s.Properties[r] == nil {
			return fmt.Errorf("required %s is no property", r)
		}
	}
	return nil
}

func (s *schema) inline(defs map[string]*schema) error {
	if s.Items != nil {
		if err := s.Items.inline(defs); err != nil {
			return err
		}
	}
	if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
		d := defs[name]
		if d == nil {
			return fmt.Errorf("$ref %s: no such definition", s.Ref)
		}
		if d.Type != "object" {
			desc := s.Description
			*s = *d
			if desc != "" {
				s.Description = desc
			}
		}
		return nil
	}
	if _, err := regexp.Compile(s.Pattern); err != nil {
		return err
	}
	switch s.Type {
	case "string", "integer", "boolean":
		return nil
	case "array":
		if s.Items == nil {
			return errors.New("an array says what its items are")
		}
		if s.Items.Type == "array" {
			return errors.New("no arrays of arrays")
		}
		return nil
	case "":
		if s.Ref != "" {
			return nil
		}
	}
	return fmt.Errorf("type %q: use string, integer, boolean, array or a $ref to an object", s.Type)
}
