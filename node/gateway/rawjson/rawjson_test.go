package rawjson

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzObject: whatever is JSON is read without a panic, and what is set in it leaves it
// JSON with all other members as they were.
func FuzzObject(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","messages":[{"role":"user","content":"}\"{"}],"stream":true,"stream_options":{"include_usage":false}}`,
		`{}`, ` { "n" : 2 , "max_tokens" : 5 } `, `{"a":{"b":[1,{"c":"]"}]},"model":null}`, `{"model":"\u006d"}`, `[]`, `1`, `""`, `{"":0,"x":-1e5,"y":true}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Parse(body)
		if err != nil {
			return
		}
		var before, after map[string]json.RawMessage
		if err := json.Unmarshal(body, &before); err != nil {
			t.Fatalf("%q was read and is no object: %v", body, err)
		}
		if len(before) != len(r.members) {
			t.Fatalf("%d members of %d in %q", len(r.members), len(before), body)
		}
		out := r.Set(map[string]string{"model": `"x"`, "new": "1"})
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%q became %q: %v", body, out, err)
		}
		for name, v := range before {
			if name != "model" && name != "new" && !bytes.Equal(v, after[name]) {
				t.Fatalf("%q: %q became %q", name, v, after[name])
			}
		}
		less := map[string]json.RawMessage{}
		if err := json.Unmarshal(r.Without("model"), &less); err != nil {
			t.Fatalf("%q became %q: %v", body, r.Without("model"), err)
		}
		delete(before, "model")
		if len(less) != len(before) {
			t.Fatalf("%q became %q", body, r.Without("model"))
		}
		if string(after["model"]) != `"x"` || string(after["new"]) != "1" {
			t.Fatalf("%q became %q", body, out)
		}
	})
}
