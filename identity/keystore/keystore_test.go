package keystore_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
	"github.com/talosprotocol/talos/identity/keystore"
)

func code(t *testing.T, err error, want contracts.Code) {
	t.Helper()
	if contracts.CodeOf(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestSealedAtRest(t *testing.T) {
	for name, kek := range map[string]func(dir string) keystore.KEK{
		"file":       func(dir string) keystore.KEK { return keystore.File(filepath.Join(dir, "kek")) },
		"passphrase": func(string) keystore.KEK { return keystore.Passphrase("correct horse") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "keys")
			k, err := keystore.Create(path, kek(dir))
			if err != nil {
				t.Fatal(err)
			}
			key, err := identity.Generate[identity.Control](rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Put(map[string][]byte{"control": key.Seed(), "other": {1}}); err != nil {
				t.Fatal(err)
			}
			if err := k.Put(map[string][]byte{"other": nil}); err != nil {
				t.Fatal(err)
			}
			again, err := keystore.Open(path, kek(dir))
			if err != nil {
				t.Fatal(err)
			}
			got, err := keystore.Key[identity.Control](again, "control")
			if err != nil || !got.Public().Equal(key.Public()) || fmt.Sprint(again.Names()) != "[control]" {
				t.Errorf("read back: %v, %v, names %v", got, err, again.Names())
			}
			_, err = keystore.Key[identity.Control](again, "none")
			code(t, err, contracts.NotFound)
			onDisk, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{string(key.Seed()), hex.EncodeToString(key.Seed()), base64.StdEncoding.EncodeToString(key.Seed())} {
				if bytes.Contains(onDisk, []byte(s)) {
					t.Error("the file shows the secret")
				}
			}
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
			_, err = keystore.Create(path, kek(dir))
			code(t, err, contracts.Conflict)
		})
	}
}

func TestEveryByteIsProtected(t *testing.T) {
	dir := t.TempDir()
	path, kek := filepath.Join(dir, "keys"), keystore.File(filepath.Join(dir, "kek"))
	k, err := keystore.Create(path, kek)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Put(map[string][]byte{"a": []byte("secret")}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keystore.Open(path, kek); err == nil {
			t.Fatalf("byte %d changed: opens", i)
		}
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	dir := t.TempDir()
	path, kekPath := filepath.Join(dir, "keys"), filepath.Join(dir, "kek")
	_, err := keystore.Open(path, keystore.File(kekPath))
	code(t, err, contracts.NotFound)
	if _, err := keystore.Create(path, keystore.File(kekPath)); err != nil {
		t.Fatal(err)
	}
	_, err = keystore.Open(path, keystore.Passphrase("x"))
	code(t, err, contracts.Unauthorized)
	_, err = keystore.Open(path, keystore.File(filepath.Join(dir, "another")))
	code(t, err, contracts.Unauthorized)
	if err := os.Chmod(kekPath, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = keystore.Open(path, keystore.File(kekPath)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key file that others may read: %v", err)
	}
	if err := os.WriteFile(kekPath, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = keystore.Open(path, keystore.File(kekPath))
	code(t, err, contracts.StorageCorrupt)
	if _, err := keystore.Create(filepath.Join(dir, "p"), keystore.Passphrase("")); contracts.CodeOf(err) != contracts.Unauthorized {
		t.Errorf("an empty passphrase: %v", err)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", keystore.Passphrase("hunter2"), keystore.Passphrase("hunter2"), keystore.Passphrase("hunter2"), keystore.Passphrase("hunter2")); strings.Contains(s, "hunter2") {
		t.Error("a passphrase was printed")
	}
}
