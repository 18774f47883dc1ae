package contracts

import (
	_ "embed"
	"fmt"
	"sync"
)

//go:embed surfaces.json
var surfacesJSON []byte

// Surfaces gives the registry of surfaces (surfaces.json): all that a node does for
// anybody, and what each needs. The slice is shared and must not be changed.
var Surfaces = sync.OnceValue(func() []Surface {
	r, err := ParseSurfaceRegistry(surfacesJSON)
	if err != nil {
		panic(fmt.Sprintf("contracts/surfaces.json: %v", err)) // it is part of the program, and tested
	}
	return r.Surfaces
})
