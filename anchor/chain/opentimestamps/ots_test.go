package opentimestamps_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/talosprotocol/talos/anchor"
	"github.com/talosprotocol/talos/anchor/chain"
	"github.com/talosprotocol/talos/anchor/chain/opentimestamps"
	"github.com/talosprotocol/talos/contracts"
)

// Files that the official library (opentimestamps 0.4.5 for Python) has written for
// SHA-256 of "talos vector".
const (
	begin = "004f70656e54696d657374616d7073000050726f6f6600bf89e2e884e89294010895544d760f4fa2c18ea48ed0dc81d42634165c7f405069de342367f57abce573"
	block = begin + "f010000102030405060708090a0b0c0d0e0f08f12001010101010101010101010101010101010101010101010101010101010101010808000588960d73d7190103f7ef15"
	both  = begin + "fff010aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa080083dfe30d2ef90c8e2e2d68747470733a2f2f616c6963652e6274632e63616c656e6461722e6f70656e74696d657374616d70732e6f7267f110bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb08ff000588960d73d7190103e0dc2a0083dfe30d2ef90c8e2c2b68747470733a2f2f626f622e6274632e63616c656e6461722e6f70656e74696d657374616d70732e6f7267"

	withSHA1    = begin + "02000588960d73d719010101"
	withReverse = begin + "f2000588960d73d719010101"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestFilesOfTheOfficialLibrary(t *testing.T) {
	digest, ways, err := opentimestamps.ParseFile(unhex(block))
	if err != nil || digest != sha256.Sum256([]byte("talos vector")) || len(ways) != 1 {
		t.Fatalf("%x, %d ways, %v", digest, len(ways), err)
	}
	w := ways[0]
	if !w.Bitcoin || w.Height != 358391 || hex.EncodeToString(w.Message) != "88efb7bca667fffc6f21d0fa7316051445b8f6b9e6f9fd5b8a7d68c2f6568c70" {
		t.Errorf("%+v", w)
	}
	if !bytes.Equal(w.File(digest), unhex(block)) {
		t.Errorf("it is written as %x", w.File(digest))
	}
	_, ways, err = opentimestamps.ParseFile(unhex(both))
	if err != nil || len(ways) != 3 || ways[0].URI != "https://alice.btc.calendar.opentimestamps.org" || !ways[1].Bitcoin || ways[1].Height != 700000 ||
		ways[2].URI != "https://bob.btc.calendar.opentimestamps.org" || hex.EncodeToString(ways[1].Message) != "1b6ae28656e65ea3d5cb505cc079ede66642fe5702931b09e41d67fcdfbd6b55" {
		t.Errorf("%+v, %v", ways, err)
	}
	for _, other := range []string{withSHA1, withReverse} {
		if _, _, err := opentimestamps.ParseFile(unhex(other)); contracts.CodeOf(err) != contracts.UnsupportedVersion {
			t.Errorf("%s: %v", other[len(begin):], err)
		}
	}
}

// Row 36: what a hostile calendar can answer is refused, bounded and without a panic.
func TestRow36_HostileProofs(t *testing.T) {
	deep := bytes.Repeat([]byte{0x08}, 300)
	long := append([]byte{0xf0, 0x80, 0x10}, make([]byte, 2048)...)
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"reverse":              {0xf2, 0x00},
		"hexlify":              {0xf3, 0x00},
		"too many operations":  append(deep, unhex("000588960d73d719010101")...),
		"a long message":       append(append(long, long...), long...),
		"forks for ever":       bytes.Repeat([]byte{0xff}, 10000),
		"a huge length":        {0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a needless byte":      {0xf0, 0x81, 0x00, 1},
		"an empty operation":   {0xf0, 0x00},
		"a cut attestation":    {0x00, 0x05, 0x88},
		"a payload too long":   append(unhex("0083dfe30d2ef90c8e"), 0xff, 0x7f),
		"bytes after it":       unhex("000588960d73d71901010100"),
		"more in a payload":    unhex("000588960d73d7190102010100"),
		"more than 16 KiB":     make([]byte, 17<<10),
		"a number of 10 bytes": append([]byte{0xf0}, bytes.Repeat([]byte{0xff}, 10)...),
	} {
		if ways, err := opentimestamps.ParseTimestamp(make([]byte, 32), b); err == nil {
			t.Errorf("%s: %+v", name, ways)
		}
	}
}

// calendar is a calendar, and the Bitcoin node that knows its block.
type calendar struct {
	mu      sync.Mutex
	down    bool
	written bool
	lie     bool
	handed  [][]byte
	above   uint64
	root    [32]byte
}

const height = 812345

// commitment is what the calendar makes of a digest, root what the block has of that.
func commitment(digest []byte) [32]byte {
	return sha256.Sum256(append(bytes.Clone(digest), "a nonce"...))
}

func (c *calendar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch {
	case c.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case c.lie:
		_, _ = w.Write(bytes.Repeat([]byte{0xff}, 1<<20))
	case r.URL.Path == "/digest":
		c.handed = append(c.handed, body)
		const uri = "https://calendar.example/x"
		answer := append(append(unhex("f007"), "a nonce"...), unhex("080083dfe30d2ef90c8e")...)
		_, _ = w.Write(append(append(answer, 1+byte(len(uri)), byte(len(uri))), uri...))
	case strings.HasPrefix(r.URL.Path, "/timestamp/"):
		if !c.written {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(unhex("f1020102080808000588960d73d7190103"))
		_, _ = w.Write(appendHeight())
	default:
		c.node(w, body)
	}
}

func appendHeight() []byte { return []byte{height&0x7f | 0x80, height>>7&0x7f | 0x80, height >> 14} }

// put writes what was handed in last into a block.
func (c *calendar) put(above uint64) opentimestamps.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := commitment(c.handed[len(c.handed)-1])
	one := sha256.Sum256(append([]byte{1, 2}, m[:]...))
	two := sha256.Sum256(one[:])
	c.root, c.written, c.above = sha256.Sum256(two[:]), true, above
	return c.header()
}

func (c *calendar) header() (h opentimestamps.Header) {
	copy(h[36:], c.root[:])
	binary.LittleEndian.PutUint32(h[68:], 1_790_000_000)
	return h
}

func (c *calendar) node(w io.Writer, body []byte) {
	var q struct{ Method string }
	_ = json.Unmarshal(body, &q)
	h := c.header()
	one := sha256.Sum256(h[:])
	two := sha256.Sum256(one[:])
	for i := range 16 {
		two[i], two[31-i] = two[31-i], two[i]
	}
	result := map[string]any{"getblockhash": hex.EncodeToString(two[:]), "getblockheader": hex.EncodeToString(h[:]), "getblockcount": height + c.above}[q.Method]
	_ = json.NewEncoder(w).Encode(map[string]any{"result": result, "error": nil})
}

func (c *calendar) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w.Result(), nil
}

func headOf(size uint64) *anchor.Note {
	seed := sha256.Sum256([]byte("the anchor's log"))
	n, err := anchor.Sign(anchor.Checkpoint{
		Origin: "did:talos:zQmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR/audit/1", Size: size, Root: sha256.Sum256(fmt.Append(nil, size)),
	}, anchor.Key(ed25519.NewKeyFromSeed(seed[:])))
	if err != nil {
		panic(err)
	}
	return n
}

func (c *calendar) driver(t testing.TB, node bool) *opentimestamps.Driver {
	t.Helper()
	client := &http.Client{Transport: c}
	o := opentimestamps.Config{Calendars: []string{"http://one.example", "http://two.example/"}, HTTP: client}
	if node {
		o.Node = &opentimestamps.Node{URL: "http://node.example/", HTTP: client}
	}
	d, err := opentimestamps.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A head through a calendar into a block, and to the auditor. CHAIN-8, CHAIN-14.
func TestCalendar(t *testing.T) {
	c, ctx, head := &calendar{}, context.Background(), headOf(7)
	d := c.driver(t, true)
	state, err := d.Prepare(ctx, head)
	if err != nil {
		t.Fatal(err)
	}
	c.down = true
	if _, err := d.Status(ctx, head, state); contracts.CodeOf(err) != contracts.Unavailable {
		t.Errorf("with calendars that are down: %v", err)
	}
	c.down, c.lie = false, true
	if st, err := d.Status(ctx, head, state); err == nil || st.State != nil {
		t.Errorf("with calendars that send a megabyte of nothing: %+v, %v", st, err)
	}
	c.lie = false
	st, err := d.Status(ctx, head, state)
	if err != nil || st.Phase != chain.Pending || st.State == nil || len(c.handed) != 2 {
		t.Fatalf("%+v, %v, %d digests handed in", st, err, len(c.handed))
	}
	state = st.State
	if st, err = d.Status(ctx, head, state); err != nil || st.Phase != chain.Pending || st.State != nil || len(c.handed) != 2 {
		t.Errorf("the second time: %+v, %v, %d digests", st, err, len(c.handed))
	}
	h := c.put(3)
	if st, err = d.Status(ctx, head, state); err != nil || st.Phase != chain.Pending {
		t.Errorf("in a block that is not deep: %+v, %v", st, err)
	}
	c.put(6)
	if st, err = d.Status(ctx, head, state); err != nil || st.Phase != chain.Final {
		t.Fatalf("in a block: %+v, %v", st, err)
	}
	r := &anchor.Receipt{Driver: d.Name(), Chain: d.Chain(), Head: head.Checkpoint, Body: st.Body}
	if err := d.Check(r); err != nil {
		t.Fatal(err)
	}
	judge(t, c, r, h)
}

// judge has auditors with more and less trust look at a receipt.
func judge(t *testing.T, c *calendar, r *anchor.Receipt, h opentimestamps.Header) {
	t.Helper()
	node := &opentimestamps.Node{URL: "http://node.example/", HTTP: &http.Client{Transport: c}}
	other := h
	other[40] ^= 1
	for name, w := range map[string]struct {
		v    opentimestamps.Verifier
		want anchor.Outcome
	}{
		"no trust":       {opentimestamps.Verifier{}, anchor.CannotTell},
		"the header":     {opentimestamps.Verifier{Headers: map[uint64]opentimestamps.Header{height: h}}, anchor.Valid},
		"another header": {opentimestamps.Verifier{Headers: map[uint64]opentimestamps.Header{height: other}}, anchor.NotValid},
		"a node":         {opentimestamps.Verifier{Node: node}, anchor.Valid},
	} {
		f := w.v.VerifyReceipt(r)
		if f.Outcome != w.want || f.Why == "" || f.Outcome == anchor.Valid && f.Existed.IsZero() {
			t.Errorf("%s: %+v", name, f)
		}
	}
	c.above = 2
	if f := (&opentimestamps.Verifier{Node: node}).VerifyReceipt(r); f.Outcome != anchor.CannotTell {
		t.Errorf("not deep: %+v", f)
	}
	c.root[0] ^= 1
	c.above = 9
	if f := (&opentimestamps.Verifier{Node: node}).VerifyReceipt(r); f.Outcome != anchor.NotValid {
		t.Errorf("a node with another block: %+v", f)
	}
	bits(t, r)
}

// bits checks that no bit of a receipt is free: another height is another block.
func bits(t *testing.T, r *anchor.Receipt) {
	t.Helper()
	at, root, err := opentimestamps.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(r.Body) * 8 {
		r.Body[i/8] ^= 1 << (i % 8)
		if n, got, err := opentimestamps.Open(r); err == nil && n == at && got == root {
			t.Errorf("bit %d is free", i)
		}
		r.Body[i/8] ^= 1 << (i % 8)
	}
	other := *r
	other.Head.Size++
	if _, _, err := opentimestamps.Open(&other); contracts.CodeOf(err) != contracts.ProofInvalid {
		t.Errorf("a receipt of another head: %v", err)
	}
	other = *r
	other.Body = unhex(both)
	if _, _, err := opentimestamps.Open(&other); err == nil {
		t.Error("a file of many ways is a receipt")
	}
}

// Row 36: a calendar that promises for another digest, or not at all, brings nothing.
func TestRow36_CalendarOfAnotherDigest(t *testing.T) {
	c, ctx, head := &calendar{}, context.Background(), headOf(8)
	d := c.driver(t, true)
	state, _ := d.Prepare(ctx, head)
	st, err := d.Status(ctx, head, state)
	if err != nil {
		t.Fatal(err)
	}
	c.handed = append(c.handed, make([]byte, 32)) // the block is of another's digest
	c.put(9)
	if st, err = d.Status(ctx, head, st.State); err != nil || st.Phase != chain.Pending {
		t.Errorf("%+v, %v", st, err)
	}
}

// FuzzFile hunts for panics, and for a receipt with two encodings.
func FuzzFile(f *testing.F) {
	for _, s := range []string{block, both, withSHA1, withReverse} {
		f.Add(unhex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		digest, ways, err := opentimestamps.ParseFile(b)
		if err != nil {
			return
		}
		for i := range ways {
			if !ways[i].Bitcoin {
				continue
			}
			again := ways[i].File(digest)
			_, one, err := opentimestamps.ParseFile(again)
			if err != nil || len(one) != 1 || one[0].Height != ways[i].Height || !bytes.Equal(one[0].Message, ways[i].Message) {
				t.Errorf("%x is written as %x: %v", b, again, err)
			}
		}
	})
}

var _ chain.Driver = (*opentimestamps.Driver)(nil)
