package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/node/gate"
)

const maxWait = 60 * time.Second // of a long poll

// action answers a request that has passed the gate. An error is written by the caller.
type action func(w http.ResponseWriter, r *http.Request) error

// route is what answers a pattern. Where the gate must know of what is in the body,
// parse reads it first and gives the action.
type route struct {
	act    action
	reason string // for the audit log
	parse  func(r *http.Request) (params map[string]string, act action, err error)
	max    int64                            // bytes of a body; 0: maxBody
	fail   func(http.ResponseWriter, error) // nil: fail
}

// Routes gives each pattern and what answers it: all that the API does.
func (s *Server) routes() map[string]route {
	n := s.node
	all := map[string]route{
		"GET /health/live": {act: func(w http.ResponseWriter, _ *http.Request) error {
			return write(w, http.StatusOK, map[string]bool{"live": true})
		}},
		"GET /health/ready":              {act: s.ready},
		"GET /openapi.json":              {act: s.openAPIRoute},
		"GET /v1/status":                 {act: func(w http.ResponseWriter, r *http.Request) error { return reply(w, n.Status(r.Context()), nil) }},
		"GET /v1/peers":                  {act: func(w http.ResponseWriter, r *http.Request) error { return reply(w, n.Peers(r.Context()), nil) }},
		"GET /1.0/identifiers/{did}":     {act: s.resolve},
		"POST /a2a/messages":             {parse: s.send},
		"POST /a2a/frames":               {parse: s.send},
		"GET /a2a/messages":              {act: s.inbox},
		"GET /a2a/frames":                {act: s.inbox}, // the original's name
		"POST /a2a/messages/acknowledge": {act: s.acknowledge},
		"GET /a2a/sessions": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Sessions(r.Context())
			return reply(w, v, err)
		}},
		"POST /a2a/sessions/{did}/rotate": {act: func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, struct{}{}, n.RotateSession(r.Context(), r.PathValue("did")))
		}},
		"DELETE /a2a/sessions/{did}": {act: func(w http.ResponseWriter, r *http.Request) error {
			return reply(w, struct{}{}, n.CloseSession(r.Context(), r.PathValue("did")))
		}},
		"GET /v1/audit/events":               {act: s.events},
		"GET /v1/audit/events/{index}/proof": {act: s.prove},
		"GET /v1/audit/evidence": {act: func(w http.ResponseWriter, r *http.Request) error {
			v, err := n.Evidence(r.Context())
			return reply(w, v, err)
		}},
		"GET /v1/anchor": {act: func(w http.ResponseWriter, r *http.Request) error {
			limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
			v, err := n.Anchoring(r.Context(), min(max(limit, 1), 1000))
			return reply(w, v, err)
		}},
		"POST /v1/keys/rotate":     {act: s.rotateKeys, reason: "rotated"},
		"POST /v1/keys/deactivate": {act: s.deactivate, reason: "requested"},
	}
	maps.Copy(all, s.capabilityRoutes())
	maps.Copy(all, s.serviceRoutes())
	maps.Copy(all, s.governanceRoutes())
	maps.Copy(all, s.mcpRoutes())
	maps.Copy(all, s.restRoutes())
	maps.Copy(all, s.agentRoutes())
	return all
}

// door lets a route's requests pass the gate.
func (s *Server) door(surface *contracts.Surface, rt route) http.HandlerFunc {
	limit, fail := rt.max, rt.fail
	if limit == 0 {
		limit = maxBody
	}
	if fail == nil {
		fail = failure
	}
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		if r.ContentLength != 0 {
			c := http.NewResponseController(w)
			_ = c.SetReadDeadline(time.Now().Add(cmp.Or(s.cfg.BodyWithin, bodyWithin))) // a recorder in a test has none
			r.Body = &timedBody{r.Body, c}
		}
		req := &gate.Request{Surface: surface.ID, Who: asker(r.Context()), Params: gate.Fill(surface, r.PathValue), Reason: rt.reason}
		act, err := rt.act, error(nil)
		if req.Who.Proof == gate.Nobody {
			if req.Who, err = s.attested(r, surface); err != nil {
				fail(w, err)
				return
			}
		}
		if rt.parse != nil {
			about := &content{}
			r = r.WithContext(context.WithValue(r.Context(), contentKey{}, about))
			if req.Params, act, err = rt.parse(r); err != nil {
				fail(w, err)
				return
			}
			req.Body = about.body
		}
		err = s.cfg.Gate.Do(r.Context(), req, func(ctx context.Context, _ *gate.Pass) (gate.Result, error) {
			var res gate.Result
			err := act(w, r.WithContext(context.WithValue(ctx, resultKey{}, &res)))
			return res, err
		})
		if begun := (broken{}); errors.As(err, &begun) {
			if !begun.told {
				panic(http.ErrAbortHandler) // ends the connection without a word
			}
			return
		}
		if err != nil {
			fail(w, err)
		}
	}
}

// timedBody takes the deadline of a body back when it is here: the answer may take long,
// and a client that goes away meanwhile must be seen.
type timedBody struct {
	io.ReadCloser
	c *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF { //nolint:errorlint // as io.Reader says; after any other error nothing more is read
		_ = b.c.SetReadDeadline(time.Time{})
	}
	return n, err
}

type (
	resultKey  struct{}
	contentKey struct{}
)

// content is the body of a request, for whoever has to approve it.
type content struct{ body []byte }

// result gives what an action may say of itself for the record, nil outside of one.
func result(ctx context.Context) *gate.Result {
	res, _ := ctx.Value(resultKey{}).(*gate.Result)
	return res
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	st := s.node.Status(r.Context())
	code := http.StatusOK
	if !st.Ready {
		code = http.StatusServiceUnavailable
	}
	return write(w, code, map[string]any{"ready": st.Ready, "reasons": st.NotReady})
}

// Media types of DID Resolution.
const (
	typeResolution = "application/did-resolution"
	typeDID        = "application/did"
)

// resolve is DID Resolution's HTTP binding.
func (s *Server) resolve(w http.ResponseWriter, r *http.Request) error {
	accept := r.Header.Get("Accept")
	bare := strings.Contains(accept, typeDID) && !strings.Contains(accept, typeResolution)
	if accept != "" && !bare && !strings.Contains(accept, typeResolution) && !strings.Contains(accept, "*/*") && !strings.Contains(accept, "application/json") {
		return s.refuse(w, http.StatusNotAcceptable, "REPRESENTATION_NOT_SUPPORTED", "ask for "+typeResolution+" or "+typeDID, nil)
	}
	res, err := s.node.Resolve(r.Context(), r.PathValue("did"), r.URL.Query().Get("fresh") == "true")
	switch contracts.CodeOf(err) {
	case "":
	case contracts.InvalidDID, contracts.KeyInvalid, contracts.Malformed:
		return s.refuse(w, http.StatusBadRequest, "INVALID_DID", contracts.Message(err), nil)
	case contracts.MethodUnsupported:
		return s.refuse(w, http.StatusNotImplemented, "METHOD_NOT_SUPPORTED", contracts.Message(err), nil)
	case contracts.NotFound:
		return s.refuse(w, http.StatusNotFound, "NOT_FOUND", contracts.Message(err), nil)
	case contracts.Deactivated:
		return s.refuse(w, http.StatusGone, "", contracts.Message(err), res)
	default:
		return s.refuse(w, http.StatusInternalServerError, "INTERNAL_ERROR", contracts.Message(err), nil)
	}
	if bare {
		w.Header().Set("Content-Type", typeDID)
		_, err = w.Write(res.Document)
		return err
	}
	res.Resolution.ContentType = typeDID
	w.Header().Set("Content-Type", typeResolution)
	return encode(w, http.StatusOK, res)
}

// refuse answers with an error of DID Resolution.
func (s *Server) refuse(w http.ResponseWriter, status int, name, detail string, res *Resolution) error {
	if res == nil {
		res = &Resolution{}
	}
	if name != "" {
		res.Resolution.Error = &Problem{Type: "https://www.w3.org/ns/did#" + name, Title: strings.ReplaceAll(strings.ToLower(name), "_", " "), Detail: detail}
	}
	res.Metadata.Deactivated = status == http.StatusGone
	w.Header().Set("Content-Type", typeResolution)
	return encode(w, status, res)
}

func (s *Server) send(r *http.Request) (map[string]string, action, error) {
	b, err := body(r)
	if err != nil {
		return nil, nil, err
	}
	req, err := contracts.ParseSendRequest(b)
	if err != nil {
		return nil, nil, err
	}
	if (req.Text == "") == (req.BodyB64u == "") {
		return nil, nil, contracts.Errorf(contracts.Malformed, "give text or body_b64u, one of them and not empty")
	}
	payload := []byte(req.Text)
	if req.BodyB64u != "" {
		if payload, err = base64.RawURLEncoding.Strict().DecodeString(req.BodyB64u); err != nil {
			return nil, nil, contracts.Errorf(contracts.Malformed, "body_b64u: not base64url without padding")
		}
	}
	wait, err := number(r, "wait", 0, uint64(maxWait/time.Second))
	if err != nil {
		return nil, nil, err
	}
	return map[string]string{"peer": req.To}, func(w http.ResponseWriter, r *http.Request) error {
		sent, err := s.node.Send(r.Context(), req.To, payload, time.Duration(wait)*time.Second)
		return reply(w, sent, err)
	}, nil
}

func (s *Server) inbox(w http.ResponseWriter, r *http.Request) error {
	after, err1 := number(r, "after", 0, 1<<62)
	limit, err2 := number(r, "limit", 100, 1000)
	wait, err3 := number(r, "wait", 0, uint64(maxWait/time.Second))
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), max(time.Duration(wait)*time.Second, time.Second))
	defer cancel()
	msgs, err := s.node.Inbox(ctx, after, int(limit), wait > 0)
	if msgs == nil {
		msgs = []Message{}
	}
	return reply(w, msgs, err)
}

func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request) error {
	upTo, err := number(r, "up_to", 0, 1<<62)
	if err == nil {
		err = s.node.Acknowledge(r.Context(), upTo)
	}
	return reply(w, struct{}{}, err)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	after, err := number(r, "after", 0, 1<<62)
	if err != nil {
		return err
	}
	limit, err := number(r, "limit", 100, 1000)
	if err != nil {
		return err
	}
	v, err := s.node.Events(r.Context(), after, int(limit), r.URL.Query().Get("last") == "true")
	return reply(w, v, err)
}

func (s *Server) prove(w http.ResponseWriter, r *http.Request) error {
	i, err := strconv.ParseUint(r.PathValue("index"), 10, 62)
	if err != nil {
		return contracts.Errorf(contracts.Malformed, "%.40q is no index of an event", r.PathValue("index"))
	}
	b, err := s.node.Prove(r.Context(), i, r.URL.Query().Get("sealed") == "true")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(b) // canonical: not a byte may be added
	return err
}

func (s *Server) rotateKeys(w http.ResponseWriter, r *http.Request) error {
	v, err := s.node.RotateKeys(r.Context(), r.URL.Query().Get("recovery"), r.URL.Query().Get("compromised") == "true")
	return reply(w, v, err)
}

func (s *Server) deactivate(w http.ResponseWriter, r *http.Request) error {
	v, err := s.node.Deactivate(r.Context(), r.URL.Query().Get("recovery"))
	return reply(w, v, err)
}
