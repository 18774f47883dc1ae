// Package keystore keeps private keys sealed in one file.
//
// The file holds a map from name to secret, encrypted by XChaCha20-Poly1305 under a
// key-encryption key (KEK): 32 random bytes in a file beside it that only its owner
// may read, or Argon2id of a passphrase. A write replaces the whole file atomically
// and durably (temporary file, sync, rename, sync of the folder), so a crash leaves
// the old or the new keys and never a mixture. The pre-rotated recovery key is
// sealed in a keystore of its own, to be moved off the machine.
package keystore

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/talosprotocol/talos/contracts"
	"github.com/talosprotocol/talos/identity"
)

// KEK gives the key-encryption key.
type KEK interface {
	kind() string
	key(salt []byte) ([]byte, error)
}

// Argon2id cost: RFC 9106's second recommended option (64 MiB, 3 passes).
const (
	argonPasses  = 3
	argonKiB     = 64 << 10
	argonThreads = 4
	saltBytes    = 16
)

// Passphrase is a KEK from something a person knows.
type Passphrase string

func (Passphrase) kind() string { return "argon2id" }

func (p Passphrase) key(salt []byte) ([]byte, error) {
	if p == "" {
		return nil, contracts.Errorf(contracts.Unauthorized, "an empty passphrase")
	}
	return argon2.IDKey([]byte(p), salt, argonPasses, argonKiB, argonThreads, chacha20poly1305.KeySize), nil
}

// String keeps the passphrase out of whatever prints it.
func (Passphrase) String() string   { return "passphrase(redacted)" }
func (Passphrase) GoString() string { return "passphrase(redacted)" }

// File is a KEK of 32 bytes in a file, made at the first use.
type File string

func (File) kind() string { return "file" }

func (f File) key([]byte) ([]byte, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, chacha20poly1305.KeySize)
		_, _ = rand.Read(b) // never fails
		if err := WriteFile(string(f), b); err != nil {
			return nil, err
		}
		return b, nil
	}
	if err != nil {
		return nil, contracts.Errorf(contracts.Unauthorized, "key-encryption key: %w", err)
	}
	if len(b) != chacha20poly1305.KeySize {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "%s has %d bytes; a key-encryption key has %d", f, len(b), chacha20poly1305.KeySize)
	}
	if st, err := os.Stat(string(f)); err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, contracts.Errorf(contracts.Unauthorized, "%s is readable by others (mode %04o); run: chmod 600 %s", f, st.Mode().Perm(), f)
	}
	return b, nil
}

// Keystore is an open keystore. It is safe for concurrent use.
type Keystore struct {
	path string
	kek  KEK

	mu      sync.Mutex
	secrets map[string][]byte
}

const version = "talos-keystore/1"

// Create makes an empty keystore; it refuses to replace one.
func Create(path string, kek KEK) (*Keystore, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, contracts.Errorf(contracts.Conflict, "%s exists; move it away first", path)
	}
	k := &Keystore{path: path, kek: kek, secrets: map[string][]byte{}}
	return k, k.save(k.secrets)
}

// Open reads and unseals a keystore.
func Open(path string, kek KEK) (*Keystore, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		code := contracts.Unavailable
		if errors.Is(err, fs.ErrNotExist) {
			code = contracts.NotFound
		}
		return nil, contracts.Errorf(code, "keystore: %w", err)
	}
	f, err := contracts.DecodeKeystoreFile(b)
	if err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "keystore %s: %w", path, err)
	}
	if f.Kek != kek.kind() {
		return nil, contracts.Errorf(contracts.Unauthorized, "keystore %s is sealed by %s, not by %s", path, f.Kek, kek.kind())
	}
	secrets, err := unseal(f, kek)
	if err != nil {
		return nil, contracts.Errorf(contracts.CodeOf(err), "keystore %s: %w", path, err)
	}
	return &Keystore{path: path, kek: kek, secrets: secrets}, nil
}

func unseal(f *contracts.KeystoreFile, kek KEK) (map[string][]byte, error) {
	salt, _ := base64.RawURLEncoding.DecodeString(f.Salt)
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(f.Sealed)
	if err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "not base64url")
	}
	key, err := kek.key(salt)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	head := *f
	head.Sealed = ""
	n := aead.NonceSize()
	plain, err := aead.Open(nil, sealed[:n], sealed[n:], head.AppendCanonical(nil))
	if err != nil {
		return nil, contracts.Errorf(contracts.Unauthorized, "does not open: wrong passphrase or key file, or the file was changed")
	}
	secrets := map[string][]byte{}
	if err := json.Unmarshal(plain, &secrets); err != nil {
		return nil, contracts.Errorf(contracts.StorageCorrupt, "sealed content is not as written")
	}
	return secrets, nil
}

// save writes secrets as the whole new content.
func (k *Keystore) save(secrets map[string][]byte) error {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails
	f := contracts.KeystoreFile{V: version, Kek: k.kek.kind(), Salt: base64.RawURLEncoding.EncodeToString(salt)}
	key, err := k.kek.key(salt)
	if err != nil {
		return err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(secrets, json.Deterministic(true))
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, _ = rand.Read(nonce)
	f.Sealed = base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, f.AppendCanonical(nil)))
	return WriteFile(k.path, f.AppendCanonical(nil))
}

// Get gives a copy of a secret, nil where there is none.
func (k *Keystore) Get(name string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.secrets[name])
}

// Names gives the names of the secrets, sorted.
func (k *Keystore) Names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.secrets))
}

// Put sets secrets, and deletes those that are nil, in one durable write.
func (k *Keystore) Put(secrets map[string][]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := maps.Clone(k.secrets)
	for name, s := range secrets {
		if s == nil {
			delete(next, name)
		} else {
			next[name] = slices.Clone(s)
		}
	}
	if err := k.save(next); err != nil {
		return err
	}
	k.secrets = next
	return nil
}

// Key reads the Ed25519 key of that name.
func Key[P identity.Purpose](k *Keystore, name string) (identity.Private[P], error) {
	seed := k.Get(name)
	if seed == nil {
		return identity.Private[P]{}, contracts.Errorf(contracts.NotFound, "the keystore %s has no key %q", k.path, name)
	}
	return identity.FromSeed[P](seed)
}

// WriteFile replaces path by b, durably and readable by its owner only: after it
// returns nil a crash leaves b, before that the old content.
func WriteFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // read only
	return d.Sync()
}
