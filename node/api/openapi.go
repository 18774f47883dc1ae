package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

type object = map[string]any

// openAPI makes the description of this API (OpenAPI 3.1) of its routes, the registry of
// surfaces, and the types of what is asked and answered.
func (s *Server) openAPI() object {
	c := components{}
	paths := map[string]object{}
	routes := s.routes()
	for _, pattern := range slices.Sorted(maps.Keys(routes)) {
		method, path, _ := strings.Cut(pattern, " ")
		if paths[path] == nil {
			paths[path] = object{}
		}
		paths[path][strings.ToLower(method)] = c.operation(s.cfg.Gate.Registry().HTTP(pattern), pattern, path, descriptions[pattern])
	}
	failed := c.schema(reflect.TypeFor[Failure]())
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Talos, the loopback API of a node", "version": "1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "For programs of the same machine. The address stands in api.address of the node's home, the token in api.token; on the unix socket api.sock its owner needs no token.",
		},
		"servers":  []any{object{"url": "/"}},
		"security": []any{object{"token": []any{}}},
		"paths":    paths,
		"components": object{
			"schemas":         c.schemas(),
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}},
			"responses":       object{"failure": object{"description": "what went wrong, in words, with a code of contracts/spec/errors.md", "content": media("application/json", failed)}},
		},
	}
}

// openAPIRoute answers with the description.
func (s *Server) openAPIRoute(w http.ResponseWriter, _ *http.Request) error {
	return write(w, http.StatusOK, s.openAPI())
}

func media(kind string, schema any) object { return object{kind: object{"schema": schema}} }

var inPath = regexp.MustCompile(`\{([a-z]+)\}`)

// components are the types that were met.
type components map[string]object

func (c components) operation(surface *contracts.Surface, pattern, path string, d described) object {
	parameters := []any{}
	for _, m := range inPath.FindAllStringSubmatch(path, -1) {
		parameters = append(parameters, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for _, p := range d.query {
		parameters = append(parameters, object{"name": p.name, "in": "query", "description": p.why, "schema": object{"type": p.kind}})
	}
	ok := object{"description": d.as}
	switch {
	case d.out != nil:
		ok = object{"description": "done", "content": media("application/json", c.schema(d.out))}
	case d.as != "":
		ok["content"] = media("application/json", object{})
	}
	op := object{
		"operationId": strings.Trim(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(pattern, "_"), "_"),
		"summary":     surface.Why, "tags": []any{surface.ID[:strings.IndexByte(surface.ID, '.')]}, "x-surface": surface.ID, "parameters": parameters,
		"responses": object{"200": ok, "default": object{"$ref": "#/components/responses/failure"}},
	}
	if strings.HasPrefix(path, healthPath) {
		op["security"] = []any{}
	}
	switch {
	case d.in != nil:
		op["requestBody"] = object{"required": true, "content": media("application/json", c.schema(d.in))}
	case d.inAs != "":
		kind := "application/json"
		if !strings.Contains(d.inAs, "request") && !strings.Contains(d.inAs, "JSON") {
			kind = "text/plain"
		}
		op["requestBody"] = object{"required": true, "description": d.inAs, "content": media(kind, object{})}
	}
	return op
}

func (c components) schemas() object {
	out := object{}
	for name, s := range c {
		out[name] = s
	}
	return out
}

// schema gives the JSON Schema of a type as encoding/json writes it.
func (c components) schema(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return c.schema(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Uint32, reflect.Int32:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": c.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": c.schema(t.Elem())}
	case reflect.Struct:
		return c.structure(t)
	}
	return object{} // anything
}

// structure gives a reference to the schema of a struct, which has its own name.
func (c components) structure(t reflect.Type) object {
	ref := object{"$ref": "#/components/schemas/" + t.Name()}
	if c[t.Name()] != nil {
		return ref
	}
	s := object{"type": "object"}
	c[t.Name()] = s // before its members: they may have it again
	properties, required := object{}, []any{}
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "-" || name == "" {
			continue
		}
		properties[name] = c.schema(f.Type)
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
	}
	s["properties"] = properties
	if len(required) > 0 {
		s["required"] = required
	}
	return ref
}
