package directory

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Times of publishing: a record is put again long before its holders drop it (48 h
// after they got it) and before it expires.
const (
	republishEvery = 20 * time.Hour
	checkGrowth    = 3 * time.Second
	firstRetry     = 250 * time.Millisecond
	lastRetry      = 10 * time.Minute
	putTimeout     = 10 * time.Second
)

// PublishStatus says how the last publishing went.
type PublishStatus struct {
	Version string    // of the state that was published
	At      time.Time // zero: never
	Acks    int       // peers that acknowledged it
	Asked   int       // peers that were asked
	Table   int       // size of the routing table then
	Err     error     // nil if enough acknowledged
}

// Published gives how the last publishing went.
func (d *Directory) Published() PublishStatus { return *d.status.Load() }

// Publish puts s at the peers closest to its key, counts who acknowledges, and reads
// it back from one of them. It fails with PublishFailed if fewer than half of them
// (at least one) hold it afterwards.
func (d *Directory) Publish(ctx context.Context, s *identity.State) (PublishStatus, error) {
	st := PublishStatus{Version: s.Version(), At: d.now(), Table: d.h.DHT.RoutingTable().Size()}
	st.Err = d.publish(ctx, s, &st)
	if st.Err != nil {
		if newer := d.newerSelf(ctx, s); newer != nil {
			st.Err = contracts.Errorf(contracts.Rollback, "the network knows version %s of this DID, later than %s of this home: the home is an older copy, or used twice", newer.Version(), s.Version())
			select {
			case d.overtaken <- newer:
			default:
			}
		}
	}
	d.status.Store(&st)
	return st, st.Err
}

// Overtaken gives states of this DID that the network holds and that are later than
// what this node tried to publish.
func (d *Directory) Overtaken() <-chan *identity.State { return d.overtaken }

// maxAsked bounds how many peers are asked for our own state.
const maxAsked = 16

// newerSelf asks the DHT, and the peers that are connected, for a state of this DID
// that is later than s, and gives the latest.
func (d *Directory) newerSelf(ctx context.Context, s *identity.State) *identity.State {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var newest *identity.State
	judge := func(raw []byte, err error) {
		if err != nil {
			return
		}
		got, err := d.validator.State(raw)
		if err != nil || got.DID != s.DID || identity.Compare(got, s) <= 0 {
			return
		}
		if newest == nil || identity.Compare(got, newest) > 0 {
			newest = got
		}
	}
	judge(d.fromDHT(ctx, s.DID, nil))
	peers := d.h.Host.Network().Peers()
	for _, id := range peers[:min(len(peers), maxAsked)] {
		judge(d.fetch(ctx, id, s.DID))
	}
	return newest
}

func (d *Directory) publish(ctx context.Context, s *identity.State, st *PublishStatus) error {
	key := Key(s.DID)
	if err := d.validator.Validate(key, s.Raw); err != nil {
		return err
	}
	if _, err := d.remember(ctx, s, "self"); err != nil {
		return err
	}
	closest, err := d.h.DHT.GetClosestPeers(ctx, key)
	if err != nil || len(closest) == 0 {
		return contracts.Errorf(contracts.PublishFailed, "no peer to publish to; is a bootstrap reachable?")
	}
	messenger, err := dhtpb.NewProtocolMessenger(d.h.DHT.MessageSender())
	if err != nil {
		return err
	}
	rec := record.MakePutRecord(key, s.Raw)
	var acks atomic.Int32
	holders := make(chan peer.ID, len(closest))
	var g errgroup.Group
	for _, p := range closest {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, putTimeout)
			defer cancel()
			if err := messenger.PutValue(ctx, p, rec); err != nil {
				d.log.Debug("state record refused", "peer", p, "err", err)
				return nil
			}
			acks.Add(1)
			holders <- p
			return nil
		})
	}
	_ = g.Wait()
	close(holders)
	st.Acks, st.Asked = int(acks.Load()), len(closest)
	if need := (len(closest) + 1) / 2; st.Acks < need {
		return contracts.Errorf(contracts.PublishFailed, "%d of %d peers acknowledged the record, %d are needed", st.Acks, st.Asked, need)
	}
	return d.readBack(ctx, messenger, key, s.Raw, holders)
}

// readBack asks holders until one shows the record.
func (d *Directory) readBack(ctx context.Context, m *dhtpb.ProtocolMessenger, key string, raw []byte, holders <-chan peer.ID) error {
	for p := range holders {
		rec, _, err := m.GetValue(ctx, p, key)
		if err == nil && rec != nil && bytes.Equal(rec.GetValue(), raw) {
			return nil
		}
	}
	return contracts.Errorf(contracts.PublishFailed, "no peer that acknowledged the record shows it again")
}

// Run publishes this node's state whenever it changes, again before it ages, and
// sooner after a failure, until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	retry := firstRetry
	timer, growth := time.NewTimer(0), time.NewTicker(checkGrowth)
	defer timer.Stop()
	defer growth.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
			retry = firstRetry
		case <-timer.C:
		case <-growth.C:
			// A node that has just joined knows few peers, and put its record there; the
			// peers that are closest to it come to be known later.
			if st := d.status.Load(); st.At.IsZero() || st.Err != nil || d.h.DHT.RoutingTable().Size() < 2*st.Table {
				continue
			}
		}
		wait := republishEvery
		if s := d.self.Load(); s != nil {
			wait = min(wait, s.Until.Sub(s.IssuedAt)/2)
			if _, err := d.Publish(ctx, s); err != nil {
				d.log.Debug("publishing the state", "err", err)
				wait, retry = retry, min(2*retry, lastRetry)
			} else {
				retry = firstRetry
			}
		}
		timer.Reset(wait - wait/10 + time.Duration(rand.Int64N(int64(wait/5)+1)))
	}
}
