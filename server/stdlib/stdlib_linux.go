// Package stdlib is the server engines that answer as programs in Go do: nethttp with
// net/http, sql with a loop for each connection that speaks the lab's protocol of sessions (see
// client/stdlib). Timeouts and who closes first are the library's own: package server/raw is for
// an exact order.
package stdlib

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/internal/conns"
	"github.com/twlab/twlab/internal/sock"
	"github.com/twlab/twlab/server"
)

const (
	reportEvery = 100 * time.Millisecond
	// burstOver is the window in which connections are counted as one burst.
	burstOver = 100 * time.Millisecond
	// lastChunkAfter is how long a handler that has written a chunked body still works: the chunk that
	// ends the body comes after it.
	lastChunkAfter = 10 * time.Millisecond
	// firstPart is how much of a body goes out with the head: the request counts as answered then, whether
	// the client takes the rest or not.
	firstPart = 2 << 10
	// stopFor bounds the wait for a server that ends.
	stopFor = 5 * time.Second
)

type driver struct {
	server.Control
	server.Options
	body   []byte
	tls    *tls.Config
	tally  conns.Tally
	cpu    int64
	began  sync.Once // the first connection
	failed chan error

	mu      sync.Mutex // guards what follows
	doors   []*door    // where connections come in
	now     []served   // who answers
	drained *server.Drained
	accepts []int64 // when connections were accepted, since the drain began
	errs    map[string]int64
}

// A served is a server that answers, one generation of them.
type served interface {
	Serve(l net.Listener) error
	Close() error
}

// Run serves until ctx ends and returns what was counted.
func Run(ctx context.Context, o server.Options, c server.Control) (server.Stats, error) {
	if err := o.Validate(); err != nil {
		return server.Stats{}, err
	}
	d := &driver{Control: c, Options: o, cpu: sock.CPU(), errs: map[string]int64{}, body: value(o.Body), failed: make(chan error, 1)}
	if p := o.Stdlib.Protocol; p == "https" || p == "h2" {
		cert, err := tls.X509KeyPair(o.Stdlib.Certificate, o.Stdlib.Key)
		if err != nil {
			return server.Stats{}, fmt.Errorf("the server's certificate: %w", err)
		}
		d.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	}
	within, stop := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer d.close()
	defer stop()
	for _, addr := range d.addresses() {
		l, err := d.listen(ctx, addr)
		if err != nil {
			return server.Stats{}, err
		}
		door := &door{Listener: l, came: make(chan net.Conn), d: d}
		d.doors = append(d.doors, door)
		serving.Go(func() { door.accept(within, &serving) })
	}
	d.serve(&serving)
	c.Ready()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return d.snapshot(), nil
		case err := <-d.failed:
			return d.snapshot(), err
		case <-tick.C:
			c.Report(d.snapshot())
		}
	}
}

// value is a JSON text of so many bytes with the line feed that json.Encoder writes behind it; too
// short a one is spaces, and reads as no value.
func value(size int) []byte {
	if size < 3 {
		return bytes.Repeat([]byte(" "), size)
	}
	return []byte(`"` + string(bytes.Repeat([]byte("x"), size-3)) + "\"\n")
}

// addresses lists where to listen: network and address.
func (d *driver) addresses() [][2]string {
	if d.Stdlib.Unix != "" {
		return [][2]string{{"unix", d.Stdlib.Unix}}
	}
	var out [][2]string
	for _, a := range d.Listen {
		out = append(out, [2]string{"tcp", a.String()})
	}
	return out
}

func (d *driver) listen(ctx context.Context, at [2]string) (net.Listener, error) {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, at[0], at[1])
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", at[1], err)
	}
	return l, nil
}

// serve starts a generation of servers, which takes what comes in from now on.
func (d *driver) serve(serving *sync.WaitGroup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.generation()
	d.now = append(d.now, s)
	for _, door := range d.doors {
		if door.handle != nil {
			_ = door.handle.Close() // the generation before takes nothing more
		}
		door.handle = &handle{door: door, closed: make(chan struct{})}
		h := door.handle
		serving.Go(func() {
			if err := s.Serve(h); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				select {
				case d.failed <- fmt.Errorf("serve: %w", err):
				default: // one is enough
				}
			}
		})
	}
}

// generation makes a server.
func (d *driver) generation() served {
	if d.Stdlib.SQL {
		return &sessions{d: d, open: map[net.Conn]bool{}}
	}
	var p http.Protocols
	switch d.Stdlib.Protocol {
	case "h2":
		p.SetHTTP2(true)
	case "h2c":
		p.SetUnencryptedHTTP2(true)
	default:
		p.SetHTTP1(true)
	}
	s := &http.Server{
		IdleTimeout: d.Stdlib.IdleTimeout, Protocols: &p, TLSConfig: d.tls.Clone(), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Hour, // a load is bounded
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	gen := &generation{d: d}
	s.Handler = gen
	gen.server = s
	return gen
}

// A generation is a server of net/http, and when its connections retire.
type generation struct {
	d       *driver
	server  *http.Server
	retires atomic.Pointer[time.Time] // from when on; nil: not
}

func (g *generation) Serve(l net.Listener) error {
	if g.d.tls != nil {
		return g.server.ServeTLS(l, "", "")
	}
	return g.server.Serve(l)
}
func (g *generation) Close() error { return g.server.Close() }

type connKey struct{}

// ServeHTTP answers.
func (g *generation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := g.d
	under, _ := r.Context().Value(connKey{}).(net.Conn)
	c, known := conns.Under[*visit](under)
	_, _ = io.Copy(io.Discard, r.Body) // net/http's server sees what goes wrong with it
	if n := d.Stdlib.Drops; n > 0 && known && c.arrived.Add(1) == n {
		if h, ok := w.(http.Hijacker); ok {
			if c, _, err := h.Hijack(); err == nil {
				_ = c.Close()
				return
			}
		}
	}
	if d.Stdlib.AnswerAfter > 0 {
		time.Sleep(d.Stdlib.AnswerAfter)
	}
	before := int64(0)
	if known {
		before = c.Sent()
		if from := g.retires.Load(); from != nil && time.Now().After(from.Add(time.Duration(c.stays*float64(d.Stdlib.Drain.Over)))) {
			w.Header().Set("Connection", "close")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if !d.Stdlib.Chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(d.body)))
	}
	begin, rest := d.body[:min(len(d.body), firstPart)], d.body[min(len(d.body), firstPart):]
	_, _ = w.Write(begin) // a client that is gone is seen by what was sent
	_ = http.NewResponseController(w).Flush()
	// With HTTP/2 a frame may wait for others of the connection.
	if known && (c.Sent() > before || r.ProtoMajor == 2) {
		c.Answered()
	}
	_, _ = w.Write(rest)
	if d.Stdlib.Chunked {
		_ = http.NewResponseController(w).Flush()
		time.Sleep(lastChunkAfter)
	}
}

// A visit is a connection that came in.
type visit struct {
	*conns.Conn
	arrived atomic.Int64 // requests
	stays   float64      // for which part of Drain.Over
}

// A door accepts connections and hands them to whoever serves now.
type door struct {
	net.Listener
	d      *driver
	came   chan net.Conn
	handle *handle // guarded by driver.mu
}

// accept ends when the listener is closed.
func (l *door) accept(ctx context.Context, serving *sync.WaitGroup) {
	defer close(l.came)
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.d.count(err)
			time.Sleep(time.Millisecond)
			continue
		}
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetKeepAlive(false)
		}
		l.d.began.Do(func() {
			if l.d.Stdlib.Drain.How != "" {
				serving.Go(func() { l.d.drain(ctx, serving) })
			}
		})
		l.d.accepted()
		v := &visit{Conn: l.d.tally.Wrap(c), stays: rand.Float64()} //nolint:gosec // chance, not secrecy
		select {
		case l.came <- v:
		case <-ctx.Done():
			_ = v.Close()
		}
	}
}

// A handle is a door's listener for one generation.
type handle struct {
	door   *door
	once   sync.Once
	closed chan struct{}
}

func (h *handle) Accept() (net.Conn, error) {
	select {
	case <-h.closed: // a connection that waits is for the next generation
		return nil, net.ErrClosed
	default:
	}
	select {
	case <-h.closed:
		return nil, net.ErrClosed
	case c, ok := <-h.door.came:
		if !ok {
			return nil, net.ErrClosed
		}
		return c, nil
	}
}

func (h *handle) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}
func (h *handle) Addr() net.Addr { return h.door.Addr() }

// drain replaces the server by another one.
func (d *driver) drain(ctx context.Context, serving *sync.WaitGroup) {
	how := d.Stdlib.Drain
	if !pause(ctx, how.After) {
		return
	}
	d.mu.Lock()
	d.drained = &server.Drained{At: d.Clock()}
	old, ok := d.now[len(d.now)-1].(*generation)
	d.mu.Unlock()
	if !ok {
		return // Validate refuses to drain sessions
	}
	d.serve(serving)
	switch how.How {
	case server.Abrupt:
		_ = old.Close() // of what may have ended
		return
	case server.Aged:
		now := time.Now()
		old.retires.Store(&now)
		if !pause(ctx, how.Over+how.Over/4) {
			return
		}
	case server.Graceful:
	}
	ctx, cancel := context.WithTimeout(ctx, stopFor)
	defer cancel()
	_ = old.server.Shutdown(ctx) // what is left then is closed with the driver
}

// pause waits, and says whether the driver still runs.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// close ends everything.
func (d *driver) close() {
	d.mu.Lock()
	doors, servers := d.doors, d.now
	d.mu.Unlock()
	for _, door := range doors {
		_ = door.Close()
	}
	for _, s := range servers {
		_ = s.Close()
	}
}

// accepted counts a connection of the burst that a drain makes.
func (d *driver) accepted() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drained == nil {
		return
	}
	now := d.Clock()
	d.accepts = append(d.accepts, now)
	for len(d.accepts) > 0 && d.accepts[0] < now-int64(burstOver) {
		d.accepts = d.accepts[1:]
	}
	d.drained.Burst = max(d.drained.Burst, int64(len(d.accepts)))
}

func (d *driver) count(err error) {
	name := sock.ErrnoName(unix.EPROTO)
	var errno unix.Errno
	if errors.As(err, &errno) {
		name = sock.ErrnoName(errno)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs[name]++
}

func (d *driver) snapshot() server.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &d.tally
	s := server.Stats{
		At: d.Clock(), CPU: sock.CPU() - d.cpu, Accepted: t.Opened.Load(), Live: t.Live.Load(), Requests: t.Requests.Load(), Reused: new(t.ReusedCount.Load()),
		BytesSent: t.Sent.Load(), ClosedFirst: t.ClosedFirst.Load(), ClosedLast: t.ClosedLast.Load(), ClosedReset: t.ClosedReset.Load(),
	}
	if d.drained != nil {
		drained := *d.drained
		s.Drained = &drained
	}
	for name, n := range d.errs {
		s.Errors = append(s.Errors, server.Error{Errno: name, Phase: "accept", Count: n})
	}
	return s
}
