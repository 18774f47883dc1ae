package gate

import (
	"slices"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// Registry finds surfaces: by id, by route, by stream protocol. It does not change.
type Registry struct {
	byID, byHTTP, byMesh map[string]*contracts.Surface
}

// NewRegistry indexes surfaces and refuses a registry that says two things of one
// route, or whose templates do not read.
func NewRegistry(list []contracts.Surface) (*Registry, error) {
	r := &Registry{byID: map[string]*contracts.Surface{}, byHTTP: map[string]*contracts.Surface{}, byMesh: map[string]*contracts.Surface{}}
	put := func(index map[string]*contracts.Surface, key string, s *contracts.Surface) error {
		if old := index[key]; old != nil {
			return contracts.Errorf(contracts.ConfigInvalid, "surfaces %s and %s both claim %q", old.ID, s.ID, key)
		}
		index[key] = s
		return nil
	}
	for i := range list {
		s := &list[i]
		if err := put(r.byID, s.ID, s); err != nil {
			return nil, err
		}
		for _, route := range s.HTTP {
			if err := put(r.byHTTP, route, s); err != nil {
				return nil, err
			}
		}
		for _, proto := range s.Mesh {
			if err := put(r.byMesh, proto, s); err != nil {
				return nil, err
			}
		}
		for _, t := range append([]string{s.Name, s.Method}, s.Resource...) {
			if strings.ContainsAny(t, "{}") && !isParam(t) {
				return nil, contracts.Errorf(contracts.ConfigInvalid, "surface %s: %q is neither a text nor one {parameter}", s.ID, t)
			}
		}
	}
	return r, nil
}

// Surface gives the surface with an id, nil if there is none.
func (r *Registry) Surface(id string) *contracts.Surface { return r.byID[id] }

// HTTP gives the surface of a route, "METHOD /pattern" as it is registered with the
// router, nil if there is none.
func (r *Registry) HTTP(route string) *contracts.Surface { return r.byHTTP[route] }

// Mesh gives the surface of a stream protocol, "name/version", nil if there is none.
func (r *Registry) Mesh(protocol string) *contracts.Surface { return r.byMesh[protocol] }

func isParam(t string) bool {
	return len(t) > 2 && t[0] == '{' && t[len(t)-1] == '}' && !strings.ContainsAny(t[1:len(t)-1], "{}")
}

// Call is what somebody wants done, in the terms of a scope. Its fields are texts as
// they are: whoever builds a scope of them encodes them, so that no text can pass for
// two fields.
type Call struct {
	Kind, Name, Method string
	Resource           []string
	Access             string // read, write or destructive
	// Args is the canonical JSON of the arguments that constraints may look at, nil if
	// the surface has none.
	Args []byte
}

// call fills the templates of a surface. A parameter that is missing, or one that the
// surface does not have, is an error: a call is never wider than what was asked.
func call(s *contracts.Surface, params map[string]string, args []byte) (Call, error) {
	used := 0
	fill := func(t string) (string, error) {
		if !isParam(t) {
			return t, nil
		}
		v, ok := params[t[1:len(t)-1]]
		if !ok || v == "" {
			return "", contracts.Errorf(contracts.Malformed, "surface %s needs the parameter %s", s.ID, t)
		}
		used++
		return v, nil
	}
	c := Call{Kind: s.Kind, Access: s.Access, Args: args}
	var err error
	if c.Name, err = fill(s.Name); err != nil {
		return c, err
	}
	if c.Method, err = fill(s.Method); err != nil {
		return c, err
	}
	for _, t := range s.Resource {
		seg, err := fill(t)
		if err != nil {
			return c, err
		}
		c.Resource = append(c.Resource, seg)
	}
	if used < len(params) {
		return c, contracts.Errorf(contracts.Malformed, "surface %s has no use for all of its %d parameters", s.ID, len(params))
	}
	return c, nil
}

// Fill gives the parameters of a surface's templates from a function that knows them by
// name, as the path of a request does.
func Fill(s *contracts.Surface, value func(name string) string) map[string]string {
	var params map[string]string
	for _, t := range append([]string{s.Name, s.Method}, s.Resource...) {
		if isParam(t) {
			if params == nil {
				params = map[string]string{}
			}
			params[t[1:len(t)-1]] = value(t[1 : len(t)-1])
		}
	}
	return params
}

// rateOf gives the limit of one subject on a surface.
func rateOf(s *contracts.Surface) Rate {
	if s.PerMinute == nil {
		return Rate{}
	}
	r := Rate{Burst: 1, Every: time.Minute / time.Duration(*s.PerMinute)}
	if s.Burst != nil {
		r.Burst = *s.Burst
	}
	return r
}

func mayAudit(s *contracts.Surface, member string) bool { return slices.Contains(s.Audit, member) }
