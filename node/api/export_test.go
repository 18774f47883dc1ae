package api

import (
	"maps"
	"net/http"
	"slices"
)

// Patterns gives the routes.
func (s *Server) Patterns() []string { return slices.Sorted(maps.Keys(s.routes())) }

// ServeHTTP answers as the listeners do.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.http.Handler.ServeHTTP(w, r) }

// LocalCard and LocalResult edit cards.
var (
	LocalCard   = localCard
	LocalResult = localResult
)

// Described reports whether a route is described.
func Described(pattern string) bool { _, ok := descriptions[pattern]; return ok }
