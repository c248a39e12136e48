package twtest_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/measure/twtest"
)

// A server that answers and closes, and a client that never closes the body.
func closeWait(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			// Promises more than it sends, so that the client goes on waiting for its own reader.
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
			_ = c.Close()
		}
	}()
	told := &said{}
	w := twtest.Watch(told)
	c := w.Client(&http.Client{})
	for range 3 {
		resp, err := c.Get("http://" + l.Addr().String())
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
	}
	require.Eventually(t, func() bool { return !w.CloseWait(2) }, 5*time.Second, 10*time.Millisecond)
	require.Contains(t, told.String(), "3 connections are in CLOSE_WAIT, at most 2 were expected: the server has closed them, the client has not")
}
