package api

import (
	"context"
	"encoding/json"
	"time"
)

// Node is what a node does for local programs. Errors carry codes of contracts.
type Node interface {
	Powers
	Services
	Governance
	Status(ctx context.Context) Status
	Peers(ctx context.Context) []Peer
	Resolve(ctx context.Context, did string, fresh bool) (*Resolution, error)
	// Send accepts a message, and waits up to wait until it is delivered.
	Send(ctx context.Context, to string, body []byte, wait time.Duration) (*Sent, error)
	Inbox(ctx context.Context, after uint64, limit int, wait bool) ([]Message, error)
	Acknowledge(ctx context.Context, upTo uint64) error
	Sessions(ctx context.Context) ([]Session, error)
	RotateSession(ctx context.Context, did string) error
	CloseSession(ctx context.Context, did string) error
	Events(ctx context.Context, after uint64, limit int, last bool) (*Events, error)
	Prove(ctx context.Context, index uint64, sealed bool) ([]byte, error)
	Evidence(ctx context.Context) (map[string]json.RawMessage, error)
	// Anchoring says where the epochs and chains of an anchor stand.
	Anchoring(ctx context.Context, limit int) (json.RawMessage, error)
	RotateKeys(ctx context.Context, recovery string, compromised bool) (*Status, error)
	Deactivate(ctx context.Context, recovery string) (*Status, error)
}

// Status of a node.
type Status struct {
	DID         string    `json:"did"`
	Version     string    `json:"version"`
	Network     string    `json:"network"`
	Roles       []string  `json:"roles"`
	State       string    `json:"state_version"`
	Strangers   string    `json:"strangers"` // what agents without a capability may do: ask, or message
	PeerID      string    `json:"peer_id"`
	Addresses   []string  `json:"addresses"`
	Started     time.Time `json:"started"`
	Peers       int       `json:"peers"`
	Table       int       `json:"routing_table"`
	Bootstraps  int       `json:"kept_peers"`
	Reached     int       `json:"kept_peers_connected"`
	Published   string    `json:"published_version"`
	Acks        int       `json:"publish_acks"`
	PublishErr  string    `json:"publish_error,omitempty"`
	Sessions    int       `json:"sessions"`
	AuditOrigin string    `json:"audit_origin"`
	AuditSize   uint64    `json:"audit_size"`
	Witnessed   uint64    `json:"witnessed_size"`
	Cosigners   int       `json:"cosigners"`
	AuditErr    string    `json:"audit_error,omitempty"`
	Evidence    int       `json:"evidence"`
	Ready       bool      `json:"ready"`
	NotReady    []string  `json:"not_ready,omitempty"` // why, in words
}

// Peer is a connected peer.
type Peer struct {
	ID        string `json:"id"`
	DID       string `json:"did,omitempty"`
	Address   string `json:"address"`
	Direction string `json:"direction"`
	LatencyMS int64  `json:"latency_ms"`
	Agent     string `json:"agent,omitempty"`
}

// Resolution is the answer of a resolution, after DID Resolution.
type Resolution struct {
	Document   json.RawMessage    `json:"didDocument"`
	Metadata   DocumentMetadata   `json:"didDocumentMetadata"`
	Resolution ResolutionMetadata `json:"didResolutionMetadata"`
}

// DocumentMetadata says of which version the document is.
type DocumentMetadata struct {
	VersionID   string     `json:"versionId,omitempty"`
	Updated     *time.Time `json:"updated,omitempty"`
	NextUpdate  *time.Time `json:"nextUpdate,omitempty"`
	Deactivated bool       `json:"deactivated,omitempty"`
}

// ResolutionMetadata says where the answer came from, or what went wrong.
type ResolutionMetadata struct {
	ContentType string     `json:"contentType,omitempty"`
	Source      string     `json:"source,omitempty"`
	VerifiedAt  *time.Time `json:"verifiedAt,omitempty"`
	Stale       bool       `json:"stale,omitempty"`
	Error       *Problem   `json:"error,omitempty"`
}

// Problem is an error of DID Resolution (RFC 9457's form).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
}

// Sent says that a message is durable and on its way. Names are those of the
// original A2A frame contract.
type Sent struct {
	SessionID      string `json:"session_id"`
	SenderID       string `json:"sender_id"`
	RecipientID    string `json:"recipient_id"`
	SenderSeq      uint64 `json:"sender_seq"`
	CiphertextHash string `json:"ciphertext_hash"`
	Delivered      bool   `json:"delivered"` // the recipient's node has it durably; false: not yet, as far as known
}

// Message is a received message. Index is the cursor.
type Message struct {
	Index          uint64    `json:"index"`
	SenderID       string    `json:"sender_id"`
	SessionID      string    `json:"session_id"`
	SenderSeq      uint64    `json:"sender_seq"`
	CiphertextHash string    `json:"ciphertext_hash"`
	Received       time.Time `json:"received_at"`
	Text           string    `json:"text,omitempty"`      // if the body is UTF-8
	Body           string    `json:"body_b64u,omitempty"` // otherwise
}

// Session with a peer.
type Session struct {
	ID        string    `json:"session_id"`
	Peer      string    `json:"peer"`
	Active    bool      `json:"active"`
	Confirmed bool      `json:"confirmed"`
	Created   time.Time `json:"created_at"`
	Sent      uint64    `json:"sent"`
	Acked     uint64    `json:"acknowledged"`
	Received  uint64    `json:"received"`
}

// Event is an entry of the audit log; Event is null once it was erased.
type Event struct {
	Index uint64          `json:"index"`
	Leaf  string          `json:"leaf_hash"`
	Event json.RawMessage `json:"event"`
}

// Events is a page of the audit log.
type Events struct {
	Origin string  `json:"origin"`
	Size   uint64  `json:"size"`
	Next   uint64  `json:"next"` // the cursor after this page
	Events []Event `json:"events"`
}

// Failure is the body of an error answer.
type Failure struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"`
}
