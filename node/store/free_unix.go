//go:build unix

package store

import "syscall"

// FreeBytes gives the space in dir's file system that an ordinary user may fill.
func FreeBytes(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:unconvert // int64 on some systems
}
