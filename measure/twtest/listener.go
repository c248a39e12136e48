package twtest

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// A Listener is a watched listener: it sees what clients do that cannot be
// watched themselves, other programs for instance.
type Listener struct {
	net.Listener
	t T

	mu    sync.Mutex
	conns []*accepted
}

// accepted is a connection that a Listener accepted.
type accepted struct {
	net.Conn
	l      *Listener
	begun  time.Time
	closed time.Time // zero while it is open
}

// Listen watches a listener, and reports to t.
func Listen(t T, l net.Listener) *Listener { return &Listener{Listener: l, t: t} }

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a := &accepted{Conn: c, l: l, begun: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, a)
	return a, nil
}

// Close notes the end of a connection.
func (a *accepted) Close() error {
	a.l.mu.Lock()
	if a.closed.IsZero() {
		a.closed = time.Now()
	}
	a.l.mu.Unlock()
	return a.Conn.Close()
}

// Count returns how many connections were accepted, and how many of them the
// server has not closed yet.
func (l *Listener) Count() (accepted, open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		if c.closed.IsZero() {
			open++
		}
	}
	return len(l.conns), open
}

// Accepted fails the test if more connections were accepted. It says whether
// they were not.
func (l *Listener) Accepted(atMost int) bool {
	if h, ok := l.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	n, _ := l.Count()
	if n <= atMost {
		return true
	}
	return l.fail(fmt.Sprintf("%d connections were accepted, at most %d were expected", n, atMost), func(*accepted) bool { return true })
}

// NothingOpen fails the test if the server has not closed all connections: where
// the clients have gone, those are in CLOSE_WAIT. It waits up to a second for those
// that are on their way, and says whether none is left.
func (l *Listener) NothingOpen() bool {
	if h, ok := l.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	_, open := l.Count()
	for begin := time.Now(); open > 0 && time.Since(begin) < time.Second; _, open = l.Count() {
		time.Sleep(5 * time.Millisecond)
	}
	if open == 0 {
		return true
	}
	return l.fail(fmt.Sprintf("%d connections were not closed by the server", open), func(a *accepted) bool { return a.closed.IsZero() })
}

// fail reports what is wrong, and the connections that pick picks.
func (l *Listener) fail(what string, pick func(*accepted) bool) bool {
	if h, ok := l.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	var lines []string
	l.mu.Lock()
	for i, a := range l.conns {
		if !pick(a) {
			continue
		}
		age := fmt.Sprintf("open for %s", time.Since(a.begun).Round(time.Microsecond))
		if !a.closed.IsZero() {
			age = fmt.Sprintf("closed after %s", a.closed.Sub(a.begun).Round(time.Microsecond))
		}
		lines = append(lines, fmt.Sprintf("  connection %d from %s: %s", i+1, a.RemoteAddr(), age))
	}
	l.mu.Unlock()
	return complain(l.t, what, lines)
}
