package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
)

// maxWait bounds a long poll.
const maxWait = 60 * time.Second

// Routes gives each pattern and its handler: all that the API does.
func (s *Server) Routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /health/live":               func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, map[string]bool{"live": true}) },
		"GET /health/ready":              s.ready,
		"GET /v1/status":                 func(w http.ResponseWriter, r *http.Request) { write(w, http.StatusOK, s.node.Status(r.Context())) },
		"GET /v1/peers":                  func(w http.ResponseWriter, r *http.Request) { write(w, http.StatusOK, s.node.Peers(r.Context())) },
		"GET /1.0/identifiers/{did}":     s.resolve,
		"POST /a2a/messages":             s.send,
		"GET /a2a/messages":              s.inbox,
		"POST /a2a/messages/acknowledge": s.acknowledge,
		"GET /a2a/sessions":              func(w http.ResponseWriter, r *http.Request) { v, err := s.node.Sessions(r.Context()); reply(w, v, err) },
		"POST /a2a/sessions/{did}/rotate": func(w http.ResponseWriter, r *http.Request) {
			reply(w, struct{}{}, s.node.RotateSession(r.Context(), r.PathValue("did")))
		},
		"DELETE /a2a/sessions/{did}": func(w http.ResponseWriter, r *http.Request) {
			reply(w, struct{}{}, s.node.CloseSession(r.Context(), r.PathValue("did")))
		},
		"GET /v1/audit/events":               s.events,
		"GET /v1/audit/events/{index}/proof": s.prove,
		"GET /v1/audit/evidence":             func(w http.ResponseWriter, r *http.Request) { v, err := s.node.Evidence(r.Context()); reply(w, v, err) },
		"POST /v1/keys/rotate":               s.rotateKeys,
		"POST /v1/keys/deactivate":           s.deactivate,
	}
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	st := s.node.Status(r.Context())
	code := http.StatusOK
	if !st.Ready {
		code = http.StatusServiceUnavailable
	}
	write(w, code, map[string]any{"ready": st.Ready, "reasons": st.NotReady})
}

// Media types of DID Resolution.
const (
	typeResolution = "application/did-resolution"
	typeDID        = "application/did"
)

// resolve is DID Resolution's HTTP binding.
func (s *Server) resolve(w http.ResponseWriter, r *http.Request) {
	accept := r.Header.Get("Accept")
	bare := strings.Contains(accept, typeDID) && !strings.Contains(accept, typeResolution)
	if accept != "" && !bare && !strings.Contains(accept, typeResolution) && !strings.Contains(accept, "*/*") && !strings.Contains(accept, "application/json") {
		s.refuse(w, http.StatusNotAcceptable, "REPRESENTATION_NOT_SUPPORTED", "ask for "+typeResolution+" or "+typeDID, nil)
		return
	}
	res, err := s.node.Resolve(r.Context(), r.PathValue("did"), r.URL.Query().Get("fresh") == "true")
	switch contracts.CodeOf(err) {
	case "":
	case contracts.InvalidDID, contracts.KeyInvalid, contracts.Malformed:
		s.refuse(w, http.StatusBadRequest, "INVALID_DID", contracts.Message(err), nil)
		return
	case contracts.MethodUnsupported:
		s.refuse(w, http.StatusNotImplemented, "METHOD_NOT_SUPPORTED", contracts.Message(err), nil)
		return
	case contracts.NotFound:
		s.refuse(w, http.StatusNotFound, "NOT_FOUND", contracts.Message(err), nil)
		return
	case contracts.Deactivated:
		s.refuse(w, http.StatusGone, "", contracts.Message(err), res)
		return
	default:
		s.refuse(w, http.StatusInternalServerError, "INTERNAL_ERROR", contracts.Message(err), nil)
		return
	}
	if bare {
		w.Header().Set("Content-Type", typeDID)
		_, _ = w.Write(res.Document)
		return
	}
	res.Resolution.ContentType = typeDID
	w.Header().Set("Content-Type", typeResolution)
	encode(w, http.StatusOK, res)
}

// refuse answers with an error of DID Resolution.
func (s *Server) refuse(w http.ResponseWriter, status int, name, detail string, res *Resolution) {
	if res == nil {
		res = &Resolution{}
	}
	if name != "" {
		res.Resolution.Error = &Problem{Type: "https://www.w3.org/ns/did#" + name, Title: strings.ReplaceAll(strings.ToLower(name), "_", " "), Detail: detail}
	}
	res.Metadata.Deactivated = status == http.StatusGone
	w.Header().Set("Content-Type", typeResolution)
	encode(w, status, res)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	b, err := body(r)
	if err != nil {
		fail(w, err)
		return
	}
	req, err := contracts.ParseSendRequest(b)
	if err != nil {
		fail(w, err)
		return
	}
	if (req.Text == "") == (req.BodyB64u == "") {
		fail(w, contracts.Errorf(contracts.Malformed, "give text or body_b64u, one of them and not empty"))
		return
	}
	payload := []byte(req.Text)
	if req.BodyB64u != "" {
		if payload, err = base64.RawURLEncoding.Strict().DecodeString(req.BodyB64u); err != nil {
			fail(w, contracts.Errorf(contracts.Malformed, "body_b64u: not base64url without padding"))
			return
		}
	}
	sent, err := s.node.Send(r.Context(), req.To, payload)
	reply(w, sent, err)
}

func (s *Server) inbox(w http.ResponseWriter, r *http.Request) {
	after, err1 := number(r, "after", 0, 1<<62)
	limit, err2 := number(r, "limit", 100, 1000)
	wait, err3 := number(r, "wait", 0, uint64(maxWait/time.Second))
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			fail(w, err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), max(time.Duration(wait)*time.Second, time.Second))
	defer cancel()
	msgs, err := s.node.Inbox(ctx, after, int(limit), wait > 0)
	if msgs == nil {
		msgs = []Message{}
	}
	reply(w, msgs, err)
}

func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request) {
	upTo, err := number(r, "up_to", 0, 1<<62)
	if err == nil {
		err = s.node.Acknowledge(r.Context(), upTo)
	}
	reply(w, struct{}{}, err)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	after, err := number(r, "after", 0, 1<<62)
	if err != nil {
		fail(w, err)
		return
	}
	limit, err := number(r, "limit", 100, 1000)
	if err != nil {
		fail(w, err)
		return
	}
	v, err := s.node.Events(r.Context(), after, int(limit), r.URL.Query().Get("last") == "true")
	reply(w, v, err)
}

func (s *Server) prove(w http.ResponseWriter, r *http.Request) {
	i, err := strconv.ParseUint(r.PathValue("index"), 10, 62)
	if err != nil {
		fail(w, contracts.Errorf(contracts.Malformed, "%.40q is no index of an event", r.PathValue("index")))
		return
	}
	b, err := s.node.Prove(r.Context(), i, r.URL.Query().Get("sealed") == "true")
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // canonical: not a byte may be added
}

func (s *Server) rotateKeys(w http.ResponseWriter, r *http.Request) {
	v, err := s.node.RotateKeys(r.Context(), r.URL.Query().Get("recovery"), r.URL.Query().Get("compromised") == "true")
	reply(w, v, err)
}

func (s *Server) deactivate(w http.ResponseWriter, r *http.Request) {
	v, err := s.node.Deactivate(r.Context(), r.URL.Query().Get("recovery"))
	reply(w, v, err)
}
