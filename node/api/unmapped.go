package api

import (
	"net/http"
	"path"
	"strings"

	"github.com/talosprotocol/talos/contracts"
)

// mapped gives mux what it has a route for, as it is spelled. All else is an error of this
// API (API-4): the mux itself would answer in plain text, and send who writes a path with
// // or .. on to another one.
func mapped(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" && spelled(r.URL.EscapedPath()) {
			mux.ServeHTTP(w, r)
			return
		}
		unheard := answerOnly{header: http.Header{}}
		h.ServeHTTP(&unheard, r)
		if unheard.status == http.StatusMethodNotAllowed {
			w.Header()["Allow"] = unheard.header["Allow"]
			_ = write(w, http.StatusMethodNotAllowed, Failure{Code: string(contracts.MethodUnsupported), Message: "this path is of other methods, see Allow"})
			return
		}
		failure(w, contracts.Errorf(contracts.NotFound, "no such route"))
	})
}

// spelled says whether a path is as the mux would clean it.
func spelled(p string) bool {
	c := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c == p
}

// answerOnly takes an answer's status and headers, for its writer to be asked what it
// would have said.
type answerOnly struct {
	header http.Header
	status int
}

func (a *answerOnly) Header() http.Header         { return a.header }
func (a *answerOnly) Write(p []byte) (int, error) { return len(p), nil }
func (a *answerOnly) WriteHeader(status int)      { a.status = status }
