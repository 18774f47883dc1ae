package ratchet_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// script builds one vector step by step; its randomness is a fixed stream.
type script struct {
	vector
	r *stream
}

const alice, bob = "initiator", "responder"

func newScript(name, expect string, must ...string) *script {
	k := func(b byte) hexBytes { x := fill(b); return x[:] }
	return &script{r: &stream{seed: 0x7461}, vector: vector{
		Name: name, Must: must, Expect: expect, TimeMS: t0.UnixMilli(),
		Session: session{
			Conversation: bytes.Repeat([]byte{0xc0}, 16), Transcript: k(0x10),
			DIDA: "did:key:zInitiator", DIDB: "did:key:zResponder", RatchetKey: k(0x20),
			Root: k(0x30), FirstChain: k(0x31), HeaderA: k(0x32), NextHeaderA: k(0x33),
			HeaderB: k(0x34), Confirm: k(0x35), Exporter: k(0x36),
		},
	}}
}

// seal adds a message and gives the index of its step.
func (s *script) seal(by, body string) int {
	r := make([]byte, 12+32)
	_, _ = s.r.Read(r)
	s.Steps = append(s.Steps, step{Op: "seal", By: by, Body: hexBytes(body), Rand: r})
	return len(s.Steps) - 1
}

func (s *script) lose(by string, n int) {
	s.Steps = append(s.Steps, step{Op: "lose", By: by, Count: n})
}

// open adds the opening of the frame that an earlier step seals; edit changes it.
func (s *script) open(t *testing.T, by string, from int, edit func(f []byte) []byte) {
	t.Helper()
	probe := *s
	probe.Expect = "ok"
	probe.Steps = append([]step(nil), s.Steps[:from+1]...)
	probe.play(t, true)
	s.Steps[from].Frame = probe.Steps[from].Frame
	f := bytes.Clone(s.Steps[from].Frame)
	body := s.Steps[from].Body
	if edit != nil {
		f, body = edit(f), nil
	}
	s.Steps = append(s.Steps, step{Op: "open", By: by, Frame: f, Body: body})
}

// send seals and opens at once.
func (s *script) send(t *testing.T, from, to, body string) int {
	t.Helper()
	i := s.seal(from, body)
	s.open(t, to, i, nil)
	return i
}

func (s *script) turn(t *testing.T) {
	t.Helper()
	s.send(t, alice, bob, "ping")
	s.send(t, bob, alice, "pong")
}

func writeVectors(t *testing.T) {
	t.Helper()
	flip := func(i int) func([]byte) []byte {
		return func(f []byte) []byte { f[i] ^= 1; return f }
	}
	set := func(i int, b byte) func([]byte) []byte {
		return func(f []byte) []byte { f[i] = b; return f }
	}
	build := map[string]func() *script{
		"first-message": func() *script {
			s := newScript("one message from the initiator", "ok", "RAT-1", "RAT-4", "RAT-6", "RAT-8", "RAT-10", "RAT-11", "RAT-12")
			s.send(t, alice, bob, "hello")
			return s
		},
		"three-turns": func() *script {
			s := newScript("three turns each way: DH steps, confirmation", "ok", "RAT-9", "RAT-14", "RAT-17", "RAT-19")
			for range 3 {
				s.turn(t)
			}
			return s
		},
		"out-of-order-over-a-step": func() *script {
			s := newScript("late frames of an old chain, after a restart", "ok", "RAT-22", "RAT-23", "RAT-31")
			s.turn(t)
			one, two := s.seal(alice, "one"), s.seal(alice, "two")
			s.send(t, alice, bob, "three")
			s.send(t, bob, alice, "turn")
			s.send(t, alice, bob, "four")
			s.Steps = append(s.Steps, step{Op: "restart", By: bob})
			s.open(t, bob, two, nil)
			s.open(t, bob, one, nil)
			return s
		},
		"padding-1024": func() *script {
			s := newScript("a body of 1 KiB is padded to 1,088 bytes", "ok", "RAT-6")
			s.send(t, alice, bob, string(make([]byte, 1024)))
			return s
		},
		"gap-1000": func() *script {
			s := newScript("1,000 lost messages", "ok", "RAT-22")
			s.lose(alice, 1000)
			s.send(t, alice, bob, "after the gap")
			return s
		},
		"gap-1001": func() *script {
			s := newScript("1,001 lost messages", "RATCHET_MAX_SKIP_EXCEEDED", "RAT-22")
			s.lose(alice, 1001)
			s.send(t, alice, bob, "too far")
			return s
		},
		"replay": func() *script {
			s := newScript("a frame comes twice", "A2A_FRAME_REPLAY_DETECTED", "RAT-16")
			i := s.send(t, alice, bob, "once")
			s.open(t, bob, i, nil)
			return s
		},
		"reflection": func() *script {
			s := newScript("a frame comes back to its sender", "RATCHET_AUTH_FAILED", "RAT-10")
			s.open(t, alice, s.seal(alice, "mine"), nil)
			return s
		},
		"ack-asked-and-given": func() *script {
			s := newScript("message 256 of a chain asks for a fresh key, an empty answer brings it", "ok", "RAT-7", "RAT-25")
			s.lose(alice, 255)
			s.send(t, alice, bob, "message 256")
			i := s.seal(bob, "")
			s.Steps[i].Kind = 1
			s.open(t, alice, i, nil)
			s.send(t, alice, bob, "healed")
			return s
		},
		"rollback-alarm": func() *script {
			s := newScript("an acknowledgement of what was never sent", "A2A_SESSION_ROLLBACK_DETECTED", "RAT-18")
			s.send(t, alice, bob, "one")
			i := s.seal(bob, "two")
			s.Steps[i].RecipientSeq = 2
			s.open(t, alice, i, nil)
			return s
		},
		"tampered-payload": tampered(t, "the last byte of a frame", "RATCHET_AUTH_FAILED", "RAT-21", func(f []byte) []byte { return flip(len(f) - 1)(f) }),
		"tampered-header":  tampered(t, "a byte of the sealed header", "RATCHET_AUTH_FAILED", "RAT-20", flip(40)),
		"tampered-nonce":   tampered(t, "a byte of the nonce", "RATCHET_AUTH_FAILED", "RAT-20", flip(4)),
		"unknown-version":  tampered(t, "frame version 3", "UNSUPPORTED_VERSION", "RAT-1", set(0, 3)),
		"unknown-suite":    tampered(t, "suite 0x0003", "UNSUPPORTED_VERSION", "RAT-1", set(2, 3)),
		"unknown-flag":     tampered(t, "flag 0x80", "RATCHET_INVALID_HEADER", "RAT-2", set(3, 0x80)),
		"truncated":        tampered(t, "a frame of 169 bytes", "MALFORMED", "RAT-1", func(f []byte) []byte { return f[:169] }),
		"trailing-byte":    tampered(t, "a byte too many", "RATCHET_AUTH_FAILED", "RAT-1", func(f []byte) []byte { return append(f, 0) }),
		"too-large":        tampered(t, "65,537 bytes", "A2A_FRAME_SIZE_EXCEEDED", "RAT-3", func(f []byte) []byte { return append(f, make([]byte, 65537-len(f))...) }),
	}
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, f := range build {
		s := f()
		s.play(t, true)
		raw, err := json.MarshalIndent(&s.vector, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorDir, name+".json"), append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tampered is a frame of a confirmed session that was changed on its way.
func tampered(t *testing.T, name, expect, must string, edit func([]byte) []byte) func() *script {
	return func() *script {
		s := newScript("changed on its way: "+name, expect, must)
		s.turn(t)
		s.turn(t)
		s.open(t, bob, s.seal(alice, "genuine"), edit)
		return s
	}
}
