package api_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Row 1 of the failure list: connections whose header, or whose body, comes a byte at a
// time are broken off, and nobody else waits for them.
func TestRow01_SlowLoris(t *testing.T) {
	const within = 500 * time.Millisecond
	v := serveWithin(t, within)
	addr := strings.TrimPrefix(v.url, "http://")
	var all sync.WaitGroup
	stop := make(chan struct{})
	for i := range 100 {
		head := "GET /v1/status HTTP/1.1\r\nHost: " + addr + "\r\nX-Slow: "
		if i%2 == 0 {
			head = fmt.Sprintf("POST /a2a/messages HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: 100000\r\n\r\n{", addr, v.token)
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // of the test
		all.Go(func() {
			if _, err := io.WriteString(c, head); err != nil {
				t.Error(err)
				return
			}
			tick := time.NewTicker(within / 10)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					if _, err := c.Write([]byte("a")); err != nil {
						return
					}
				case <-stop:
					return
				}
			}
		})
		all.Go(func() { // until the server ends the connection
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still there")
			}
		})
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	for range 20 {
		if status, text, _ := v.do(t, "GET", "/v1/status", "", nil); status != 200 {
			t.Errorf("somebody else: %d %s", status, text)
		}
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		close(stop)
		t.Fatal("slow connections stay")
	}
}
