package jcs_test

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	oracle "github.com/gowebpki/jcs"

	"github.com/talosprotocol/talos/contracts/jcs"
)

// The samples of RFC 8785: section 3.2.2 (serialization), 3.2.3 (sorting), and the
// numbers of appendix B.
func TestRFC8785(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"section 3.2.2": {
			"{\n  \"numbers\": [333333333.33333329, 1E30, 4.50,\n              2e-3, 0.000000000000000000000000001],\n  \"string\": \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\",\n  \"literals\": [null, true, false]\n}",
			"{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
		},
		"section 3.2.3": {
			`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
		"empty":  {" { } ", "{}"},
		"nested": {`[56,{"d":true,"10":null,"1":[]}]`, `[56,{"1":[],"10":null,"d":true}]`},
	} {
		got, err := jcs.Canonicalize([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", name, got, err, c.want)
		}
	}
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0", 0x8000000000000000: "0", 0x0000000000000001: "5e-324", 0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308", 0x4340000000000000: "9007199254740992", 0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000", 0x44b52d02c7e14af5: "9.999999999999997e+22", 0x44b52d02c7e14af6: "1e+23", 0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000", 0x444b1ae4d6e2ef4f: "999999999999999900000", 0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7", 0x3eb0c6f7a0b5ed8d: "0.000001", 0x41b3de4355555553: "333333333.3333332", 0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333", 0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		in := strconv.FormatFloat(math.Float64frombits(bits), 'e', -1, 64)
		if got, err := jcs.Canonicalize([]byte(in)); err != nil || string(got) != want {
			t.Errorf("%016x: got %s, %v, want %s", bits, got, err, want)
		}
	}
}

// The data of the RFC's authors, as the oracle's module carries it.
func TestOfficialFiles(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gowebpki/jcs").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "testdata")
	files, _ := filepath.Glob(filepath.Join(dir, "input", "*.json"))
	if len(files) < 5 {
		t.Fatalf("%d files in %s", len(files), dir)
	}
	for _, f := range files {
		in, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, "output", filepath.Base(f)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := jcs.Canonicalize(in); err != nil || !bytes.Equal(got, bytes.TrimSpace(want)) {
			t.Errorf("%s: %s, %v", filepath.Base(f), got, err)
		}
	}
}

func TestCanonicalizeRefuses(t *testing.T) {
	for _, in := range []string{"", "{", `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `"\ud800"`, "\"\xff\"", "01", "+1", "1_0", ".5", "1.", "1e400", "nul", "{} {}", "\ufeff{}", `{"a":NaN}`} {
		if got, err := jcs.Canonicalize([]byte(in)); err == nil {
			t.Errorf("%q: accepted as %s", in, got)
		}
	}
}

// ID-1: the strict profile.
func TestCheck(t *testing.T) {
	for _, good := range []string{`{}`, `{"a":1,"b":[true,"x"]}`, `{"a":9007199254740991}`, `{"a":-9007199254740991}`, `"é"`} {
		if err := jcs.Check([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`{ }`, `{"b":1,"a":2}`, `{"a":1.5}`, `{"a":1.0}`, `{"a":1e3}`, `{"a":-0}`, `{"a":null}`, `{"a":9007199254740992}`, `{"a":-9007199254740992}`,
		`{"a":"\u0061"}`, "\"e\u0301\"", `{"a":1,"a":1}`, strings.Repeat("[", 40) + strings.Repeat("]", 40), strings.Repeat("[", 100000),
	} {
		if err := jcs.Check([]byte(bad)); err == nil {
			t.Errorf("%.60s: accepted", bad)
		}
	}
}

func TestAppendString(t *testing.T) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\n\r\t\b\f", "é€😀", "\u2028</script>"} {
		got := jcs.AppendString(nil, s)
		if again, err := jcs.Canonicalize(got); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%q: %s is not canonical (%v)", s, got, err)
		}
	}
}

func FuzzAgainstOracle(f *testing.F) {
	for _, s := range []string{`{"b":[1,2.5,"x"],"a":{"\u00e9":null}}`, `[1e21,1e-7,0.1]`, `"\u20ac"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, err := jcs.Canonicalize(in)
		if err != nil {
			return
		}
		// The oracle takes objects and arrays only.
		if in = bytes.TrimSpace(in); in[0] != '{' && in[0] != '[' {
			return
		}
		theirs, err := oracle.Transform(in)
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("%q: ours %q, theirs %q (%v)", in, ours, theirs, err)
		}
	})
}
