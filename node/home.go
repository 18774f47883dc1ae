package node

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
)

// Files of a home.
const (
	fileConfig      = "config.json"
	fileIdentity    = "identity.json" // the newest signed state; public
	filePolicy      = "policy.json"
	fileKeys        = "keys.sealed"
	fileKEK         = "kek"
	fileRecovery    = "recovery.sealed" // the pre-rotated key; move it off the machine
	fileRecoveryKEK = "recovery.kek"
	fileHead        = "audit-head.json"
	fileSocket      = "api.sock"
	fileToken       = "api.token"
	fileAddress     = "api.address"
)

// Names of keys in the keystore.
const (
	keyControl    = "control"
	keyInvocation = "invocation"
	keyPeer       = "peer"
	keyLog        = "log"
	keyWitness    = "witness"
	keyAgreement  = "agreement"
	keyStore      = "store"
	keyNext       = "next" // in the recovery keystore
	previous      = ".previous"
)

// Validity of the states that a node signs of itself.
const (
	stateValid = 48 * time.Hour
	stateTTL   = time.Hour
)

// Home is an opened home. It is not safe for concurrent use; a running node guards
// it.
type Home struct {
	Dir    string
	Config *contracts.NodeConfig
	State  *identity.State
	keys   *keystore.Keystore
}

// InitOptions say what Init makes; zero values mean what a newcomer wants.
type InitOptions struct {
	Network   string   // "talos"
	Kind      string   // "private"
	Roles     []string // agent
	Listen    []string // any port, TCP and QUIC
	Announce  []string
	Bootstrap []string
	Anchors   []string
	API       string // a port of 127.0.0.1 that is free
	Interval  int64  // seconds between checkpoints; 0: 60
	Epochs    int64  // seconds between an anchor's epochs; 0: 60
	// Chains are those that an anchor writes to.
	Chains []contracts.AnchorChain
	// Roots are other DIDs that may give capabilities that count here.
	Roots     []contracts.Root
	Strangers string // what agents without a capability may do: "ask", or "message" too; message on a local network
}

// Init makes a home with new keys and a new DID. It refuses a folder that has one.
func Init(dir string, o InitOptions) (*Home, error) {
	if _, err := os.Stat(filepath.Join(dir, fileIdentity)); err == nil {
		return nil, contracts.Errorf(contracts.Conflict, "%s is the home of a node already; choose another with --home", dir)
	}
	cfg := o.config()
	if err := cfg.Validate(); err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "%w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "making %s: %w", dir, err)
	}
	h := &Home{Dir: dir, Config: cfg}
	next, err := identity.Generate[identity.Control](rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := h.putRecovery(next); err != nil {
		return nil, err
	}
	control, err := h.makeKeys()
	if err != nil {
		return nil, err
	}
	_, icp := identity.Incept(control, next.Public(), time.Now())
	if err := h.sign([]contracts.SignedKeyEvent{icp}, 1, 1, nil, time.Now()); err != nil {
		return nil, err
	}
	return h, h.writeConfig()
}

func (o InitOptions) config() *contracts.NodeConfig {
	c := &contracts.NodeConfig{
		V: "talos-config/1", Network: or(o.Network, "talos"), Kind: or(o.Kind, "private"), Roles: o.Roles,
		Listen: o.Listen, Announce: o.Announce, Bootstrap: o.Bootstrap, Anchors: o.Anchors, Roots: o.Roots, API: or(o.API, "127.0.0.1:0"),
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{"agent"}
	}
	if c.Strangers = o.Strangers; c.Strangers == "" && c.Kind == "local" {
		c.Strangers = "message"
	}
	if len(c.Listen) == 0 {
		host := "0.0.0.0"
		if c.Kind == "local" {
			host = "127.0.0.1"
		}
		c.Listen = []string{"/ip4/" + host + "/tcp/0", "/ip4/" + host + "/udp/0/quic-v1"}
	}
	if o.Interval > 0 {
		c.CheckpointSeconds = &o.Interval
	}
	if c.AnchorChains = o.Chains; o.Epochs > 0 {
		c.EpochSeconds = &o.Epochs
	}
	return c
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func (h *Home) path(file string) string { return filepath.Join(h.Dir, file) }

func (h *Home) writeConfig() error {
	return keystore.WriteFile(h.path(fileConfig), h.Config.AppendCanonical(nil))
}

// makeKeys fills a new keystore.
func (h *Home) makeKeys() (identity.ControlKey, error) {
	ks, err := keystore.Create(h.path(fileKeys), keystore.File(h.path(fileKEK)))
	if err != nil {
		return identity.ControlKey{}, err
	}
	h.keys = ks
	secrets := map[string][]byte{}
	for _, name := range []string{keyControl, keyInvocation, keyPeer, keyLog, keyWitness, keyAgreement, keyStore} {
		secrets[name] = make([]byte, 32)
		_, _ = rand.Read(secrets[name]) // never fails
	}
	if err := ks.Put(secrets); err != nil {
		return identity.ControlKey{}, err
	}
	return keystore.Key[identity.Control](ks, keyControl)
}

// putRecovery seals the pre-rotated key in a keystore of its own.
func (h *Home) putRecovery(next identity.ControlKey) error {
	path, kek := h.path(fileRecovery), keystore.File(h.path(fileRecoveryKEK))
	ks, err := keystore.Open(path, kek)
	if contracts.CodeOf(err) == contracts.NotFound {
		ks, err = keystore.Create(path, kek)
	}
	if err != nil {
		return err
	}
	// The key before stays readable: a crash may leave an identity that still commits
	// to it.
	return ks.Put(map[string][]byte{keyNext: next.Seed(), keyNext + previous: ks.Get(keyNext)})
}

// recoveryKey opens the pre-rotated key, from the home or the folder it was moved to.
func (h *Home) recoveryKey(dir string) (identity.ControlKey, error) {
	if dir == "" {
		dir = h.Dir
	}
	ks, err := keystore.Open(filepath.Join(dir, fileRecovery), keystore.File(filepath.Join(dir, fileRecoveryKEK)))
	if err != nil {
		return identity.ControlKey{}, contracts.Errorf(contracts.CodeOf(err), "the recovery key (give its folder with --recovery): %w", err)
	}
	key, err := identity.FromSeed[identity.Control](ks.Get(keyNext))
	if err != nil {
		return key, err
	}
	if old, e := keystore.Key[identity.Control](ks, keyNext+previous); e == nil && h.State.Keys.Commits(old.Public()) {
		return old, nil
	}
	return key, nil
}

// OpenHome reads a home.
func OpenHome(dir string) (*Home, error) {
	h := &Home{Dir: dir}
	b, err := os.ReadFile(h.path(fileConfig))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, contracts.Errorf(contracts.NotFound, "%s is no home of a node; make one with: talos init --home %s", dir, dir)
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "configuration: %w", err)
	}
	if h.Config, err = contracts.ParseNodeConfig(b); err != nil {
		return nil, contracts.Errorf(contracts.ConfigInvalid, "%s: %w", h.path(fileConfig), err)
	}
	raw, err := os.ReadFile(h.path(fileIdentity))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unavailable, "identity: %w", err)
	}
	if h.State, err = identity.VerifyState(raw); err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "%s: %w", h.path(fileIdentity), err)
	}
	h.keys, err = keystore.Open(h.path(fileKeys), keystore.File(h.path(fileKEK)))
	return h, err
}

// Has reports whether the configuration names a role.
func (h *Home) Has(role string) bool { return slices.Contains(h.Config.Roles, role) }

// DID gives the DID of the home.
func (h *Home) DID() identity.DID { return h.State.DID }

// keyset is the keys of a home by purpose.
type keyset struct {
	control    identity.ControlKey
	invocation identity.InvocationKey
	peer       identity.PeerKey
	log        identity.LogKey
	witness    identity.WitnessKey // zero unless the home is an anchor's
	agreement  identity.AgreementKey
}

func (h *Home) keyset() (k keyset, err error) {
	if k.control, err = keystore.Key[identity.Control](h.keys, keyControl); err != nil {
		return k, err
	}
	// After a crash in the middle of a rotation the identity still has the key before.
	if old, e := keystore.Key[identity.Control](h.keys, keyControl+previous); e == nil && h.State != nil && slices.ContainsFunc(h.State.Keys.Keys, old.Public().Equal) {
		k.control = old
	}
	if k.invocation, err = keystore.Key[identity.Invocation](h.keys, keyInvocation); err != nil {
		return k, err
	}
	if k.peer, err = keystore.Key[identity.Peer](h.keys, keyPeer); err != nil {
		return k, err
	}
	if k.log, err = keystore.Key[identity.Log](h.keys, keyLog); err != nil {
		return k, err
	}
	if h.Has("anchor") {
		if k.witness, err = keystore.Key[identity.Witness](h.keys, keyWitness); err != nil {
			return k, err
		}
	}
	k.agreement, err = identity.AgreementFromSeed(h.keys.Get(keyAgreement))
	return k, err
}

// sign makes and stores the next state of the home's DID.
func (h *Home) sign(log []contracts.SignedKeyEvent, incarnation, seq int64, addrs []string, now time.Time) error {
	k, err := h.keyset()
	if err != nil {
		return err
	}
	return h.signWith(k.control, log, incarnation, seq, addrs, now)
}

func (h *Home) signWith(control identity.ControlKey, log []contracts.SignedKeyEvent, incarnation, seq int64, addrs []string, now time.Time) error {
	k, err := h.keyset()
	if err != nil {
		return err
	}
	ks, err := identity.VerifyKeyLog("", log)
	if err != nil {
		return err
	}
	hot := identity.Hot{Invocation: k.invocation.Public(), Peer: k.peer.Public(), Log: k.log.Public(), Agreement: k.agreement.Public()}
	if k.witness.Valid() {
		hot.Witness = k.witness.Public()
	}
	n := identity.NewState{KeyLog: log, Seq: seq, Now: now, Valid: stateValid, TTL: stateTTL}
	if !ks.Ended {
		n.Doc = identity.NewDocument(ks.DID, ks.Keys, hot, incarnation, addrs)
	}
	s, err := identity.SignState(n, control)
	if err != nil {
		return err
	}
	if err := keystore.WriteFile(h.path(fileIdentity), s.Raw); err != nil {
		return contracts.Errorf(contracts.Unavailable, "storing the identity: %w", err)
	}
	h.State = s
	return nil
}

// Resign signs the next state with the given addresses.
func (h *Home) Resign(addrs []string, now time.Time) error {
	return h.ResignAbove(h.State.Seq, addrs, now)
}

// ResignAbove is Resign with a sequence number above seq too.
func (h *Home) ResignAbove(seq int64, addrs []string, now time.Time) error {
	if h.State.Deactivated() {
		return contracts.Errorf(contracts.Deactivated, "%s was deactivated", h.DID())
	}
	return h.sign(h.State.KeyLog, h.State.Doc.Incarnation, max(h.State.Seq, seq)+1, addrs, now)
}

// Rotate reveals the recovery key as the new control key and commits to a fresh one.
// The keys for sessions change with it. compromised also replaces the host and log
// keys, voids what the earlier control keys signed, and begins a new audit log.
func (h *Home) Rotate(recoveryDir string, compromised bool, now time.Time) error {
	revealed, err := h.recoveryKey(recoveryDir)
	if err != nil {
		return err
	}
	next, err := identity.Generate[identity.Control](rand.Reader)
	if err != nil {
		return err
	}
	e, err := identity.Rotate(h.State.Keys, revealed, next.Public(), compromised, now)
	if err != nil {
		return err
	}
	fresh := []string{keyInvocation, keyAgreement}
	incarnation := h.State.Doc.Incarnation
	if compromised {
		fresh = append(fresh, keyPeer, keyLog, keyWitness)
		incarnation++
	}
	secrets := map[string][]byte{keyControl: revealed.Seed()}
	for _, name := range fresh {
		secrets[name] = make([]byte, 32)
		_, _ = rand.Read(secrets[name]) // never fails
	}
	// The new recovery key is safe before anything commits to it. A crash before the
	// state is written leaves the keystores ahead of the identity; the keys before are
	// kept beside the new ones, and the identity says which count.
	if err := h.putRecovery(next); err != nil {
		return err
	}
	addrs := h.State.Doc.Addrs
	if compromised {
		addrs = nil // they end in the old PeerID
	}
	secrets[keyControl+previous] = h.keys.Get(keyControl)
	if err := h.keys.Put(secrets); err != nil {
		return err
	}
	return h.signWith(revealed, append(slices.Clone(h.State.KeyLog), e), incarnation, h.State.Seq+1, addrs, now)
}

// Deactivate ends the DID for ever.
func (h *Home) Deactivate(recoveryDir string, now time.Time) error {
	revealed, err := h.recoveryKey(recoveryDir)
	if err != nil {
		return err
	}
	e, err := identity.End(h.State.Keys, revealed, now)
	if err != nil {
		return err
	}
	if err := h.keys.Put(map[string][]byte{keyControl: revealed.Seed(), keyControl + previous: h.keys.Get(keyControl)}); err != nil {
		return err
	}
	return h.signWith(revealed, append(slices.Clone(h.State.KeyLog), e), h.State.Doc.Incarnation, h.State.Seq+1, nil, now)
}
