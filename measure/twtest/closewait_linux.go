package twtest

import (
	"fmt"
	"net"

	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/sockdiag"
)

// CloseWait fails the test if more of the watched connections are in
// CLOSE_WAIT: the server has closed them and the client has not. It asks the
// kernel, and is there on Linux only. It says whether they are not.
func (w *Watcher) CloseWait(atMost int) bool {
	if h, ok := w.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	ports := map[uint16]bool{}
	w.mu.Lock()
	for _, c := range w.conns {
		if a, ok := c.LocalAddr().(*net.TCPAddr); ok && !c.closed {
			ports[uint16(a.Port)] = true
		}
	}
	w.mu.Unlock()
	n := 0
	diag, err := sockdiag.Open()
	if err == nil {
		_, err = diag.Sockets(func(s measure.Socket) {
			if s.State == measure.CloseWait && ports[s.LocalPort] {
				n++
			}
		})
	}
	if err != nil {
		w.t.Errorf("count sockets in CLOSE_WAIT: %v", err)
		return false
	}
	if n <= atMost {
		return true
	}
	return w.fail(fmt.Sprintf("%d connections are in CLOSE_WAIT, at most %d were expected: the server has closed them, the client has not", n, atMost),
		func(r *request) (string, bool) {
			return "its connection is still open", r.conn != nil && r.conn.owner == r && !r.conn.closed
		})
}
