package capability

import (
	"math"
	"time"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// Check says whether g may still be used at now, and until when no heartbeat is
// needed to say so again at the same epoch.
func (s *Set) Check(g *Grant, now time.Time) (until time.Time, err error) {
	sec, err := s.check(g.about, now.Unix())
	return time.Unix(sec, 0), err
}

func (s *Set) check(a *about, now int64) (until int64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range a.links {
		if err := s.issuerStands(&a.links[i]); err != nil {
			return 0, nameLink(i, err)
		}
	}
	for i := range a.links {
		if by := s.revokedBy(a.links[:i+1], now); by != "" {
			return 0, nameLink(i, contracts.Errorf(contracts.Revoked, "it was taken back by %s; ask for a new one", by.Short()))
		}
	}
	until = math.MaxInt64
	for i := range a.links {
		k := &a.links[i]
		if k.iss == s.self {
			continue
		}
		// Its issuer had not revoked a token when it made it.
		known := min(k.iat, now)
		if l := s.logs[k.iss]; l != nil {
			known = max(known, min(l.fresh, now))
		}
		if known+a.fresh < now {
			return 0, nameLink(i, contracts.Errorf(contracts.RevocationStale, "what is known of revocations by %s is %d s old, the token allows %d s; wait for its heartbeat",
				k.iss.Short(), now-known, a.fresh))
		}
		until = min(until, known+a.fresh)
	}
	return until, nil
}

// issuerStands asks what was noted of an issuer since.
func (s *Set) issuerStands(k *link) error {
	l := s.logs[k.iss]
	switch {
	case l == nil:
		return nil
	case l.duplicitous || l.fork != nil:
		return contracts.Errorf(contracts.IssuerDuplicitous, "%s has two contradicting histories", k.iss.Short())
	case l.ended:
		return contracts.Errorf(contracts.Deactivated, "%s was ended by its owner", k.iss.Short())
	case k.ksn < l.validFrom:
		return contracts.Errorf(contracts.KeyStateVoid, "%s has voided what its keys signed before key event %d", k.iss.Short(), l.validFrom)
	case k.sn < l.sn:
		return contracts.Errorf(contracts.NoCapability, "%s has rotated its keys since; show the chain again", k.iss.Short())
	}
	return nil
}

// revokedBy asks whether the last of links was taken back: by an issuer of the chain
// until it, or by its subject. "" is no.
func (s *Set) revokedBy(links []link, now int64) identity.DID {
	k := &links[len(links)-1]
	for i := range links {
		if l := s.logs[links[i].iss]; l != nil && now <= l.until(k.id) {
			return links[i].iss
		}
	}
	if l := s.logs[k.sub]; l != nil && now <= l.until(k.id) {
		return k.sub
	}
	l := s.logs[k.iss]
	if l == nil {
		return ""
	}
	sub, ok := l.subs[k.sub]
	if until, there := l.jtis[k.jti]; there && now <= until || k.ksn < l.below && now <= l.lasts || ok && k.iat <= sub.made && now <= sub.until {
		return k.iss
	}
	return ""
}

// until gives when the revocation of id is over, -1 if there is none.
func (l *revLog) until(id TokenID) int64 {
	if t, ok := l.tids[id]; ok {
		return t
	}
	return -1
}
