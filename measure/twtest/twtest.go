// Package twtest catches, in ordinary Go tests, what fills servers with
// TIME_WAIT: connections that are not used again. It works on any OS, needs no
// namespaces and no privileges.
//
//	w := twtest.Watch(t)
//	client := w.Client(&http.Client{})
//	// ... what is tested uses client ...
//	w.Reuse(0.95)   // of the requests went over a connection that had carried one before
//	w.BodiesRead()  // every body was read to its end and closed
//
// A failed check names the requests that opened a connection, and why each did:
// the body of another was not read, the pool was too small, the server had
// closed the connection, or every request came over a client of its own.
//
// Clients that cannot be watched, such as other programs, are seen from the
// server's side: Listen watches a listener.
//
// A Watcher may be used by many goroutines at a time, and costs a request one to
// two microseconds (make bench, BenchmarkCost).
package twtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twlab/twlab/internal/conns"
)

// T is what checks report to: a *testing.T, or whatever testify takes.
type T interface {
	Errorf(format string, args ...any)
}

// A Watcher counts requests and connections. Make one with Watch.
type Watcher struct {
	t T

	mu         sync.Mutex
	requests   []*request
	conns      []*conn
	transports int
}

// Stats are what a Watcher has counted.
type Stats struct {
	Requests int // that got a connection
	Reused   int // over a connection that had carried one before
	Opened   int // connections
	Open     int // of those, not closed yet
	Unread   int // bodies that were closed before they were read to their end
	Unclosed int // bodies that were not closed
}

// request is one request that got a connection.
type request struct {
	number    int
	what      string // "GET http://..."
	conn      *conn
	transport int
	reused    bool
	why       string // a connection was opened for it
	needed    bool   // and had to be: nothing was lost
	body      body
}

type body uint8

const (
	noBody body = iota
	open        // given to the caller
	read        // to its end
	unread      // closed before that
)

// conn is a connection that a watched transport opened.
type conn struct {
	net.Conn
	w         *Watcher
	host      string
	transport int
	owner     *request // the one under way, or the last
	busy      bool
	fate      string    // why it cannot be used again
	eof       bool      // the peer has closed
	idle      time.Time // since when it rests
	closed    bool
}

// Watch returns a Watcher that reports to t.
func Watch(t T) *Watcher { return &Watcher{t: t} }

// Client makes c's requests go by the Watcher, and returns c.
func (w *Watcher) Client(c *http.Client) *http.Client {
	c.Transport = w.Transport(c.Transport)
	return c
}

// Transport returns a transport whose requests go by the Watcher. An
// *http.Transport is told to dial through it, so it must not be in use yet; nil
// and http.DefaultTransport are cloned. Other kinds are watched from outside:
// what became of their connections is not known then.
func (w *Watcher) Transport(rt http.RoundTripper) http.RoundTripper {
	if rt == nil || rt == http.DefaultTransport {
		rt = http.DefaultTransport
		if t, ok := rt.(*http.Transport); ok {
			rt = t.Clone()
		}
	}
	w.mu.Lock()
	w.transports++
	n := w.transports
	w.mu.Unlock()
	if t, ok := rt.(*http.Transport); ok {
		dial := t.DialContext
		if dial == nil {
			dial = (&net.Dialer{}).DialContext
		}
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return w.opened(c, addr, n), nil
		}
	}
	return &transport{w: w, next: rt, number: n}
}

type transport struct {
	w      *Watcher
	next   http.RoundTripper
	number int
}

// CloseIdleConnections passes on what http.Client.CloseIdleConnections asks for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var mu sync.Mutex // a request may be tried again, on another connection
	var r *request
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			got := t.w.got(req, info, t.number)
			mu.Lock()
			r = got
			mu.Unlock()
		},
		PutIdleConn: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			t.w.rests(r, err)
		},
	})
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	mu.Lock()
	mine := r
	mu.Unlock()
	if mine == nil {
		return resp, err
	}
	if err != nil {
		t.w.fate(mine, fmt.Sprintf("request %d failed on it (%v)", mine.number, err))
		return resp, err
	}
	switch {
	case resp.Close:
		t.w.fate(mine, fmt.Sprintf("the server said Connection: close to request %d", mine.number))
	case req.Close:
		t.w.fate(mine, fmt.Sprintf("request %d said Connection: close (Request.Close)", mine.number))
	}
	if resp.Body != nil && resp.Body != http.NoBody && resp.StatusCode != http.StatusSwitchingProtocols {
		t.w.set(mine, open)
		resp.Body = &watchedBody{ReadCloser: resp.Body, w: t.w, r: mine}
	}
	return resp, nil
}

// watchedBody sees how far a body is read, and whether it is closed.
type watchedBody struct {
	io.ReadCloser
	w *Watcher
	r *request
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.w.set(b.r, read)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.w.mu.Lock()
	if b.r.body == open {
		b.r.body = unread
		if c := b.r.conn; c != nil && c.fate == "" && c.owner == b.r {
			c.fate = fmt.Sprintf("the body of request %d was closed before it was read to its end", b.r.number)
		}
	}
	b.w.mu.Unlock()
	return b.ReadCloser.Close()
}

// opened notes a new connection.
func (w *Watcher) opened(c net.Conn, host string, transport int) net.Conn {
	out := &conn{Conn: c, w: w, host: host, transport: transport}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, out)
	return out
}

// Read sees the peer's end of the connection.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.w.mu.Lock()
		c.eof = true
		c.w.mu.Unlock()
	}
	return n, err
}

// Close sees this side's.
func (c *conn) Close() error {
	c.w.mu.Lock()
	if !c.closed {
		c.closed = true
		switch {
		case c.fate != "":
		case c.eof && !c.busy:
			c.fate = fmt.Sprintf("the server had closed it after it had been idle for %s", time.Since(c.idle).Round(time.Millisecond))
		case c.eof:
			c.fate = "the server closed it in the middle of a request"
		default:
			c.fate = "the client closed it (IdleConnTimeout, or CloseIdleConnections)"
		}
	}
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// got notes that a request has its connection.
func (w *Watcher) got(req *http.Request, info httptrace.GotConnInfo, transport int) *request {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &request{number: len(w.requests) + 1, what: req.Method + " " + req.URL.String(), reused: info.Reused, transport: transport}
	r.conn, _ = conns.Under[*conn](info.Conn)
	if !r.reused {
		r.why, r.needed = w.why(r)
	}
	if c := r.conn; c != nil {
		c.owner, c.busy = r, true
	}
	w.requests = append(w.requests, r)
	return r
}

// rests notes that a connection went back to the pool, or why it did not.
func (w *Watcher) rests(r *request, err error) {
	if r == nil || r.conn == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := r.conn
	if err == nil {
		c.busy, c.idle = false, time.Now()
		return
	}
	if c.fate != "" {
		return
	}
	switch conns.WhyRefused(err) {
	case conns.PoolFull:
		c.fate = "the pool was full when it was done: MaxIdleConnsPerHost is too small (2 where nothing is set)"
	case conns.PoolsFull:
		c.fate = "the pool was full when it was done: MaxIdleConns is too small"
	case conns.Disabled:
		c.fate = "keep-alives are disabled (DisableKeepAlives, or Connection: close)"
	default:
		c.fate = "it could not go back to the pool: " + err.Error()
	}
}

func (w *Watcher) fate(r *request, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.conn != nil && r.conn.fate == "" {
		r.conn.fate = why
	}
}

func (w *Watcher) set(r *request, b body) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.body != unread {
		r.body = b
	}
}

// why says why a request opened a connection, and whether it had to. The lock
// is held.
func (w *Watcher) why(r *request) (text string, needed bool) {
	if r.conn == nil {
		return "the transport is no *http.Transport: nobody knows why", false
	}
	var busy, stuck int
	var last *conn
	others := false
	for _, c := range w.conns {
		if c == r.conn || c.host != r.conn.host {
			continue
		}
		if c.transport != r.conn.transport {
			others = true
			continue
		}
		if !c.closed && c.fate == "" && c.busy {
			busy++
			if c.owner != nil && c.owner.body == open {
				stuck++
			}
			continue
		}
		last = c
	}
	switch {
	case stuck > 0 && stuck == busy:
		return fmt.Sprintf("the bodies of %d requests before were not closed, so their connections are still in use", stuck), false
	case last != nil && last.fate != "" && busy == 0:
		return last.fate, false
	case last != nil && last.fate != "":
		return fmt.Sprintf("%d connections were in use; another was gone: %s", busy, last.fate), false
	case busy > 0:
		return fmt.Sprintf("all %d connections were in use: that many requests ran at a time", busy), true
	case others:
		return "it came over a transport of its own: a client for each request cannot use connections again", false
	}
	return "it was the first to " + r.conn.host, true
}

// Stats returns what was counted so far.
func (w *Watcher) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Stats{Requests: len(w.requests), Opened: len(w.conns)}
	for _, r := range w.requests {
		if r.reused {
			s.Reused++
		}
		switch r.body {
		case unread:
			s.Unread++
		case open:
			s.Unclosed++
		}
	}
	for _, c := range w.conns {
		if !c.closed {
			s.Open++
		}
	}
	return s
}

// ReuseRatio is the share of requests that went over a connection that had
// carried one before; 0 without any request.
func (s Stats) ReuseRatio() float64 {
	if s.Requests == 0 {
		return 0
	}
	return float64(s.Reused) / float64(s.Requests)
}

// fail reports what is wrong, and the requests that a function picks: first
// those that lost something.
func (w *Watcher) fail(what string, pick func(*request) (why string, ok bool)) bool {
	if h, ok := w.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	var lines []string
	w.mu.Lock()
	sorted := slices.Clone(w.requests)
	slices.SortStableFunc(sorted, func(a, b *request) int {
		switch {
		case a.needed == b.needed:
			return 0
		case b.needed:
			return -1
		}
		return 1
	})
	for _, r := range sorted {
		if why, ok := pick(r); ok {
			lines = append(lines, fmt.Sprintf("  request %d (%s): %s", r.number, r.what, why))
		}
	}
	w.mu.Unlock()
	return complain(w.t, what, lines)
}

// complain reports what is wrong, and ten lines of evidence at most.
func complain(t T, what string, lines []string) bool {
	if h, ok := t.(interface{ Helper() }); ok {
		h.Helper()
	}
	const most = 10
	if more := len(lines) - most; more > 0 {
		lines = append(lines[:most], fmt.Sprintf("  and %d more", more))
	}
	t.Errorf("%s", strings.Join(slices.Insert(lines, 0, what), "\n"))
	return false
}

// openers picks the requests that opened a connection.
func openers(r *request) (string, bool) { return "opened a connection: " + r.why, !r.reused }

// Reuse fails the test unless at least that share of the requests (0 to 1) went
// over a connection that had carried one before. It says whether they did.
func (w *Watcher) Reuse(atLeast float64) bool {
	if h, ok := w.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	s := w.Stats()
	if s.Requests > 0 && s.ReuseRatio() >= atLeast {
		return true
	}
	return w.fail(fmt.Sprintf("%d of %d requests went over a connection that had carried one before (%.3f), at least %.3f were expected",
		s.Reused, s.Requests, s.ReuseRatio(), atLeast), openers)
}

// Opened fails the test if more connections were opened. It says whether they
// were not.
func (w *Watcher) Opened(atMost int) bool {
	if h, ok := w.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	s := w.Stats()
	if s.Opened <= atMost {
		return true
	}
	return w.fail(fmt.Sprintf("%d connections were opened for %d requests, at most %d were expected", s.Opened, s.Requests, atMost), openers)
}

// BodiesRead fails the test if a body was closed before it was read to its end,
// or was not closed: its connection cannot be used again. It says whether all
// were read and closed.
func (w *Watcher) BodiesRead() bool {
	if h, ok := w.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	s := w.Stats()
	if s.Unread == 0 && s.Unclosed == 0 {
		return true
	}
	return w.fail(fmt.Sprintf("of %d bodies %d were closed before they were read to their end, and %d were neither read to their end nor closed",
		s.Requests, s.Unread, s.Unclosed), func(r *request) (string, bool) {
		switch r.body {
		case unread:
			return "the body was closed before it was read to its end: io.Copy(io.Discard, body) first", true
		case open:
			return "the body was neither read to its end nor closed: its connection stays in use", true
		}
		return "", false
	})
}

// NothingOpen fails the test if a connection is open still, in use or idle: a
// client that is done should end with CloseIdleConnections. It waits up to a
// second for those that are on their way, and says whether none is left.
func (w *Watcher) NothingOpen() bool {
	if h, ok := w.t.(interface{ Helper() }); ok {
		h.Helper()
	}
	for begin := time.Now(); w.Stats().Open > 0 && time.Since(begin) < time.Second; {
		time.Sleep(5 * time.Millisecond)
	}
	w.mu.Lock()
	var used, idle int
	for _, c := range w.conns {
		switch {
		case c.closed:
		case c.busy:
			used++
		default:
			idle++
		}
	}
	w.mu.Unlock()
	if used+idle == 0 {
		return true
	}
	return w.fail(fmt.Sprintf("%d connections are still in use and %d idle", used, idle), func(r *request) (string, bool) {
		return "its connection is still open", r.conn != nil && r.conn.owner == r && !r.conn.closed
	})
}
