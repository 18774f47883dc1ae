package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity/keystore"
	"github.com/talosprotocol/talos/node/gate"
)

// Config says where the API listens.
type Config struct {
	Socket      string // path of the unix socket; empty: none
	Address     string // loopback address, port 0 for any; empty: none
	TokenFile   string // where the bearer token is written, readable by the owner only
	AddressFile string // where the address in use is written
	Gate        *gate.Gate
	Attester    *gate.Attester // of signed requests; nil: none are taken
	// How long a request may take to be here; 0: 5 s for its header, 30 s for its body.
	HeaderWithin, BodyWithin time.Duration
}

// Server is the listening API.
type Server struct {
	node      Node
	log       *slog.Logger
	token     string
	cfg       Config
	listeners []net.Listener
	http      *http.Server
}

const (
	healthPath = "/health/" // below it nobody needs a token

	maxBody = 128 << 10 // bytes of a request's body

	headerWithin = 5 * time.Second  // for a request's header to be here
	bodyWithin   = 30 * time.Second // and for its body
	idleFor      = 2 * time.Minute  // that a connection may wait for its next request
)

// New listens; Run serves.
func New(cfg Config, node Node, log *slog.Logger) (*Server, error) {
	s := &Server{node: node, log: log, cfg: cfg}
	handler, err := s.handler()
	if err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		_ = s.Close()
		return nil, err
	}
	s.http = &http.Server{Handler: handler, ReadHeaderTimeout: cmp.Or(cfg.HeaderWithin, headerWithin), IdleTimeout: idleFor, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	return s, nil
}

func (s *Server) listen() error {
	if s.cfg.Socket == "" {
		// None is wanted.
	} else if len(s.cfg.Socket) > 100 {
		// The kernel's limit is 108 bytes; a deep home still has the loopback address.
		s.log.Warn("the home's path is too long for a unix socket; only the loopback address serves", "path", s.cfg.Socket)
	} else {
		_ = os.Remove(s.cfg.Socket) // of a node that was killed; a running one holds the store's lock
		l, err := net.Listen("unix", s.cfg.Socket)
		if err != nil {
			return contracts.Errorf(contracts.Unavailable, "API socket: %w", err)
		}
		s.listeners = append(s.listeners, l)
		if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
			return contracts.Errorf(contracts.Unavailable, "API socket: %w", err)
		}
	}
	if s.cfg.Address == "" {
		return nil
	}
	ap, err := netip.ParseAddrPort(s.cfg.Address)
	if err != nil || !ap.Addr().IsLoopback() {
		return contracts.Errorf(contracts.ConfigInvalid, "the API listens on a loopback address and port, not on %q", s.cfg.Address)
	}
	l, err := net.Listen("tcp", s.cfg.Address)
	if err != nil {
		return contracts.Errorf(contracts.Unavailable, "API address %s: %w; is the port taken?", s.cfg.Address, err)
	}
	s.listeners = append(s.listeners, l)
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	s.token = base64.RawURLEncoding.EncodeToString(raw)
	return errors.Join(keystore.WriteFile(s.cfg.TokenFile, []byte(s.token+"\n")), keystore.WriteFile(s.cfg.AddressFile, []byte("http://"+l.Addr().String()+"\n")))
}

// Run serves until ctx ends, then lets requests finish.
func (s *Server) Run(ctx context.Context) error {
	var g errgroup.Group
	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.http.BaseContext = func(net.Listener) context.Context { return base }
	for _, l := range s.listeners {
		g.Go(func() error {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	<-ctx.Done()
	cancel() // long polls end now
	end, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	_ = s.http.Shutdown(end)
	return g.Wait()
}

// Close stops listening.
func (s *Server) Close() error {
	for _, l := range s.listeners {
		_ = l.Close() // Run may have closed it
	}
	return nil
}

// handler gives the API with its checks of who asks. A route that is on no surface of
// the registry is not served (GATE-1).
func (s *Server) handler() (http.Handler, error) {
	mux := http.NewServeMux()
	for pattern, rt := range s.routes() {
		surface := s.cfg.Gate.Registry().HTTP(pattern)
		if surface == nil {
			return nil, contracts.Errorf(contracts.Internal, "the route %s is on no surface of the registry", pattern)
		}
		mux.HandleFunc(pattern, s.door(surface, rt))
	}
	return s.guard(mapped(mux)), nil
}

type askerKey struct{}

// asker gives who asks, as guard has found out.
func asker(ctx context.Context) gate.Principal {
	p, _ := ctx.Value(askerKey{}).(gate.Principal)
	return p
}

// attested gives who has signed a request, nobody if nobody has. The body is read, and
// put back.
func (s *Server) attested(r *http.Request, surface *contracts.Surface) (gate.Principal, error) {
	a, err := gate.ReadAttestation(r.Header.Get)
	if a == nil || err != nil || s.cfg.Attester == nil {
		return gate.Principal{}, err
	}
	b, err := body(r)
	if err != nil {
		return gate.Principal{}, err
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	return s.cfg.Attester.Verify(r.Context(), time.Now(), a, r.Method, r.RequestURI, surface.ID, b)
}

// asOwner marks a request of the node's owner.
func asOwner(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), askerKey{}, gate.Principal{Proof: gate.Owner}))
}

// guard admits the socket, and on the loopback address those with the token; it
// refuses what a browser sends for a page of somebody else.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
			next.ServeHTTP(w, asOwner(r))
			return
		}
		host, _, err := net.SplitHostPort(r.Host)
		if addr, e := netip.ParseAddr(host); err != nil || (host != "localhost" && (e != nil || !addr.IsLoopback())) || r.Header.Get("Origin") != "" {
			failure(w, contracts.Errorf(contracts.Forbidden, "requests name the loopback address as their host and come from no web page"))
			return
		}
		if strings.HasPrefix(r.URL.Path, healthPath) {
			next.ServeHTTP(w, r)
			return
		}
		if s.cfg.Attester != nil && r.Header.Get(gate.HeaderVersion) != "" {
			next.ServeHTTP(w, r) // the door verifies it, which knows the surface
			return
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok { // as the clients of Anthropic's API send their key
			token = r.Header.Get("X-Api-Key")
			ok = token != ""
		}
		if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) != 1 {
			failure(w, contracts.Errorf(contracts.Unauthorized, "send the token of %s as a bearer token", s.cfg.TokenFile))
			return
		}
		next.ServeHTTP(w, asOwner(r))
	})
}

// statusOf maps codes to HTTP.
func statusOf(c contracts.Code) int {
	switch c {
	case contracts.Malformed, contracts.InvalidDID, contracts.ConfigInvalid, contracts.KeyInvalid, contracts.FrameSize:
		return http.StatusBadRequest
	case contracts.Unauthorized, contracts.SignatureInvalid, contracts.NotYetValid:
		return http.StatusUnauthorized
	case contracts.Forbidden, contracts.NoCapability, contracts.ScopeMismatch, contracts.ConstraintViolation, contracts.DelegationInvalid,
		contracts.AudienceMismatch, contracts.HolderMismatch, contracts.Revoked, contracts.IssuerDuplicitous, contracts.KeyStateVoid, contracts.Expired:
		return http.StatusForbidden
	case contracts.BudgetExhausted:
		return http.StatusPaymentRequired
	case contracts.NotFound, contracts.UnknownTool, contracts.SessionNotFound:
		return http.StatusNotFound
	case contracts.Conflict, contracts.Replay, contracts.SessionState, contracts.Duplicity, contracts.Rollback, contracts.KeyLogInvalid:
		return http.StatusConflict
	case contracts.Deactivated:
		return http.StatusGone
	case contracts.TooLarge:
		return http.StatusRequestEntityTooLarge
	case contracts.RateLimited, contracts.OutboxFull:
		return http.StatusTooManyRequests
	case contracts.MethodUnsupported, contracts.UnsupportedVersion:
		return http.StatusNotImplemented
	case contracts.Unavailable, contracts.StorageFull, contracts.AuditQuarantined, contracts.Busy, contracts.RevocationStale, contracts.IssuerUnresolved, contracts.PublishFailed, contracts.PeerNotBound:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// codeOf gives the code of an error, and of a body over its limit that of the limit.
func codeOf(err error) contracts.Code {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return contracts.TooLarge
	}
	return contracts.CodeOf(err)
}

func failure(w http.ResponseWriter, err error) {
	c := codeOf(err)
	_ = write(w, statusOf(c), Failure{Code: string(c), Message: contracts.Message(err), Retryable: c.Retryable()})
}

// write answers; that the client may be gone is no error of the call.
func write(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return encode(w, status, v)
}

// reply writes v, or gives err to be written.
func reply(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, v)
}

func body(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return nil, contracts.Errorf(contracts.TooLarge, "the request has more than %d bytes, which is the most here", large.Limit)
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.Malformed, "reading the request: %w", err)
	}
	if c, ok := r.Context().Value(contentKey{}).(*content); ok {
		c.body = b
	}
	return b, nil
}

// number reads a query parameter, def where it is absent.
func number(r *http.Request, name string, def, limit uint64) (uint64, error) {
	t := r.URL.Query().Get(name)
	if t == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(t, 10, 64)
	if err != nil || n > limit {
		return 0, contracts.Errorf(contracts.Malformed, "%s=%.40q: want a number from 0 to %d", name, t, limit)
	}
	return n, nil
}

// encode writes v under the content type that is set already.
func encode(w http.ResponseWriter, status int, v any) error {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
	return nil
}
