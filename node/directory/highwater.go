package directory

import (
	"bytes"
	"context"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Row is what a node remembers of a DID for good.
type Row struct {
	Record  []byte    // the highest state record seen
	Fetched time.Time // when a source last confirmed it
	Proof   []byte    // a second record whose key log contradicts the first; nil: none
}

// Store keeps rows. Update is atomic and durable when it returns nil: f gets the
// row (nil where there is none) and gives the row to store, or nil to leave it as
// it is; f's error is returned unchanged. Both may be called concurrently. An error
// of the store itself means that nothing was changed, and the record is not believed.
type Store interface {
	Row(did string) (*Row, error)
	Update(ctx context.Context, did string, f func(*Row) (*Row, error)) error
}

// confirmEvery is how often "still the same" is written down; the time only matters
// to a restart, against a TTL of an hour.
const confirmEvery = 10 * time.Minute

// remember stores s as the highest state of its DID, unless a higher one is known
// (Rollback) or its key log contradicts the known one (Duplicity; the proof is
// kept). It gives the state that now counts.
func (d *Directory) remember(ctx context.Context, s *identity.State, source string) (*Resolved, error) {
	r := &Resolved{State: s, Source: source, Fetched: d.now()}
	if s.Doc != nil {
		r.Document = s.Doc.Raw
	}
	var flagged bool
	err := d.store.Update(ctx, string(s.DID), func(old *Row) (*Row, error) {
		row := &Row{Record: s.Raw, Fetched: r.Fetched}
		if old == nil {
			return row, nil
		}
		known, err := d.validator.State(old.Record)
		if err != nil {
			return nil, contracts.Errorf(contracts.StorageCorrupt, "the remembered state of %s does not verify: %w", s.DID, err)
		}
		row.Proof = old.Proof
		if n, bad := identity.Duplicitous(known.KeyLog, s.KeyLog); bad {
			// First seen wins; who is right is not for us to say.
			flagged = true
			d.log.Warn("duplicity: two key logs of one DID", "did", s.DID, "event", n)
			return &Row{Record: old.Record, Fetched: old.Fetched, Proof: s.Raw}, nil
		}
		if identity.Compare(s, known) < 0 {
			return nil, contracts.Errorf(contracts.Rollback, "version %s of %s, but %s was seen before", s.Version(), s.DID.Short(), known.Version())
		}
		r.Duplicitous = old.Proof != nil
		if bytes.Equal(s.Raw, old.Record) && r.Fetched.Sub(old.Fetched) < confirmEvery {
			return nil, nil // nothing new, and no reason to wait for the disk
		}
		return row, nil
	})
	if err != nil {
		return nil, err
	}
	if flagged {
		d.cache.Remove(s.DID)
		return nil, contracts.Errorf(contracts.Duplicity, "%s has two contradicting key logs; both are kept as proof", s.DID)
	}
	d.cache.Add(s.DID, r)
	d.revise(s)
	return r, nil
}

// revise ends bindings that a newer state no longer supports: the DID was ended, or
// the connection's key is not listed any more. The others show the newer state.
func (d *Directory) revise(s *identity.State) {
	for id, p := range d.Peers() {
		if p.DID != s.DID {
			continue
		}
		if s.Doc != nil {
			if now, err := PeerID(s.Doc.Peer); err == nil && now == id {
				d.bind(id, &Peer{DID: s.DID, State: s})
				continue
			}
		}
		d.unbind(id)
		_ = d.h.Host.Network().ClosePeer(id)
	}
}

// recall gives what is remembered of a DID, nil if nothing.
func (d *Directory) recall(did identity.DID) (*Resolved, error) {
	row, err := d.store.Row(string(did))
	if err != nil || row == nil {
		return nil, err
	}
	s, err := d.validator.State(row.Record)
	if err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "the remembered state of %s does not verify: %w", did, err)
	}
	r := &Resolved{State: s, Source: "disk", Fetched: row.Fetched, Duplicitous: row.Proof != nil}
	if s.Doc != nil {
		r.Document = s.Doc.Raw
	}
	return r, nil
}
