package capability

import (
	"bytes"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// oracle reads arguments with another reader of tokens; ok is false where they do not
// read.
func oracle(text []byte) (items []arg, ok bool) {
	if len(text) > MaxArgsBytes {
		return nil, false
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(text))
	if d.PeekKind() != '{' {
		return nil, false
	}
	for ended := 0; ; {
		t, err := d.ReadToken()
		if err == io.EOF {
			break
		}
		if err != nil || ended > 0 || d.StackDepth() > maxArgsDepth {
			return nil, false
		}
		if d.StackDepth() == 0 {
			ended++
		}
		// Between a name and its value an object's length is odd: that was the name.
		if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 || strings.IndexByte("{}[]", byte(t.Kind())) >= 0 || d.StackDepth() > maxPointer {
			continue
		}
		if len(items) == maxArgs {
			return nil, false
		}
		items = append(items, oracleArg(string(d.StackPointer()), t))
	}
	slices.SortFunc(items, func(x, y arg) int { return strings.Compare(x.ptr, y.ptr) })
	return items, true
}

func oracleArg(ptr string, t jsontext.Token) arg {
	switch t.Kind() {
	case '"':
		return arg{ptr: ptr, kind: argString, str: t.String(), path: pathKindOf(t.String())}
	case 't':
		return arg{ptr: ptr, kind: argBool, num: 1}
	case 'f':
		return arg{ptr: ptr, kind: argBool}
	case '0':
		n, err := strconv.ParseInt(t.String(), 10, 64)
		if err == nil && t.String() != "-0" && n <= 1<<53-1 && n >= -1<<53+1 {
			return arg{ptr: ptr, kind: argInt, num: n}
		}
	}
	return arg{ptr: ptr}
}

func sameAsOracle(t *testing.T, text []byte) bool {
	t.Helper()
	a, err := ParseArgs(text)
	want, ok := oracle(text)
	if (err == nil) != ok {
		t.Fatalf("%q: %v, the oracle reads it: %v", text, err, ok)
	}
	if ok && len(a.items)+len(want) > 0 && !reflect.DeepEqual(a.items, want) {
		t.Fatalf("%q:\n%+v\n%+v", text, a.items, want)
	}
	return ok
}

var argTexts = []string{
	`{}`, ` {"a" : 1 , "b":["x",true,null,[2,{"c":-3}]],"d":{"e/f":{"~g":{"h":{"i":1}}}}} `, `{"a":"\u0061\n\ud83d\ude00\"\\\/"}`, `{"a":-0,"b":1e3,"c":0.5,"d":9007199254740992,"e":-9007199254740991}`,
	`{"a":1,"\u0061":2}`, `{"a":"\ud800"}`, `{"a":"\ud800\u0061"}`, `{"a":01}`, `{"a":1,}`, `{"a":[1,]}`, `{"a":.5}`, `{"a":5.}`, `{"a":1e}`, `{"a":tru}`, `[]`, `{}{}`, `{"a":"x` + "\x01" + `"}`, "\ufeff{}", `{"a":"` + "\xff" + `"}`, `{"a"}`, `{"":""}`,
	`{"k0":0,"k1":0,"k2":0,"k3":0,"k4":0,"k5":0,"k6":0,"k7":0,"k8":0,"k9":0,"k10":0,"k11":0,"k12":0,"k13":0,"k14":0,"k15":0,"k16":0,"k17":0,"k3":1}`,
	`{"a":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`, `{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, `{"a":[` + strings.Repeat("1,", 4095) + `1]}`, `{"a":[` + strings.Repeat("1,", 4096) + `1]}`,
}

// Row 3 of the acceptance table, for arguments; CAP-14: what is read of a text, and
// whether anything is, is what another reader says; also of texts changed at random.
func TestRow3_ArgumentsAsAnotherReader(t *testing.T) {
	for _, s := range argTexts {
		sameAsOracle(t, []byte(s))
	}
	r, read := rand.NewPCG(3, 5), 0
	of := func(n int) int { return int(r.Uint64() % uint64(n)) }
	const rounds, letters = 60_000, "{}[]:,\"\\ /~01.-eEutfn a\x00\x1f\x7f\x80\xc3\xff"
	for range rounds {
		b := []byte(argTexts[of(len(argTexts)-4)]) // the long ones tell no more
		for range 1 + of(3) {
			switch i, c := of(len(b)), letters[of(len(letters))]; of(4) {
			case 0:
				b[i] = c
			case 1:
				b = slices.Insert(b, i, c)
			case 2:
				if len(b) > 1 {
					b = slices.Delete(b, i, i+1)
				}
			case 3:
				j := of(len(b))
				b = slices.Insert(b, i, b[min(i, j):max(i, j)]...)
			}
		}
		if sameAsOracle(t, b) {
			read++
		}
	}
	t.Logf("%d of %d read", read, rounds)
}

func FuzzArgsAsAnotherReader(f *testing.F) {
	for _, s := range argTexts {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { sameAsOracle(t, b) })
}
