// Package server is the door to the drivers that answer: what a server is
// told, and what it counts. The engines stand in the back rooms.
package server

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// Closing says when the server closes a connection on which the client has
// said "Connection: close", or at the end of the load.
type Closing string

// The ways of closing.
const (
	First Closing = "first" // right after its answer; the client waits for that
	Last  Closing = "last"  // only after it has seen the client's FIN or RST
	Both  Closing = "both"  // at the same time as the client: neither has seen the other's FIN
	Reset Closing = "reset" // as First, with SO_LINGER 0: RST instead of FIN, and what is not sent yet is lost
	// Late is Last with a RST that follows: the server's FIN goes out, the
	// client's ACK of it is dropped, so that the client is in TIME_WAIT and the
	// server is not done; a RST goes out when Control.Release is raised. It
	// needs a client that closes First.
	Late Closing = "late"
)

// Options tells a server what to do.
type Options struct {
	Listen []netip.AddrPort `json:"listen"` // at least one
	// Doors are further addresses whose connections are not served.
	Doors   []Door  `json:"doors,omitempty"`
	Backlog int     `json:"backlog"` // of listen(2); the kernel caps it at net.core.somaxconn
	Closing Closing `json:"closing"`
	// Body is the size of an answer's body, in bytes.
	Body int `json:"body,omitempty"`
	// Exclusive listens without SO_REUSEADDR.
	Exclusive bool `json:"exclusive,omitempty"`
	// Restart listens anew when Control.Release is raised, as a restarted
	// server does; it tries again until it can.
	Restart Restarting `json:"restart,omitempty"`
	// PerConnection is the number of answers after which the server says
	// "Connection: close" and closes. Zero: no limit.
	PerConnection int64 `json:"per_connection,omitempty"`
	// AcceptAfter is how long the server waits, from its start, before it accepts
	// its first connection. Zero: not at all.
	AcceptAfter time.Duration `json:"accept_after_ns,omitempty"`
	// CloseAfter is how long a connection that the client has closed stays in
	// CLOSE_WAIT before the server closes it. Zero: not at all.
	CloseAfter time.Duration `json:"close_after_ns,omitempty"`
	// Forgets is the share of connections, in percent, that the server never
	// closes once the client has: the leak that shows as CLOSE_WAIT.
	Forgets int `json:"forgets_percent,omitempty"`
	// Stdlib is what the engines of server/stdlib read beside Listen and Body; the raw one has no
	// use for it.
	Stdlib Stdlib `json:"stdlib,omitzero"`
}

// Stdlib says how a server uses Go's standard library: net/http, or plain connections
// that speak the lab's own protocol of sessions.
type Stdlib struct {
	SQL      bool   `json:"sql,omitempty"`      // sessions
	Protocol string `json:"protocol,omitempty"` // as client.Stdlib has it
	Unix     string `json:"unix,omitempty"`     // where it listens instead of Listen
	// Certificate and Key are the server's, in PEM, for TLS.
	Certificate []byte `json:"certificate,omitempty"`
	Key         []byte `json:"key,omitempty"`
	// IdleTimeout is how long an idle connection is kept (http.Server.IdleTimeout).
	// Zero: for ever.
	IdleTimeout time.Duration `json:"idle_timeout_ns,omitempty"`
	// AnswerAfter is how long an answer takes. Zero: no time.
	AnswerAfter time.Duration `json:"answer_after_ns,omitempty"`
	// Chunked sends bodies without a Content-Length, and the chunk that says that it was the last 10 ms after the text, as
	// where a handler has still something to do.
	Chunked bool `json:"chunked,omitempty"`
	// Drops is the number of the request, on each connection, that is read and not answered: the
	// server closes instead. Zero: none.
	Drops int64 `json:"drops,omitempty"`
	Drain Drain `json:"drain,omitzero"`
}

// A Drain replaces the server by another one under load, as a rolling restart does. The
// listener is handed on: no connect() is refused.
type Drain struct {
	How Draining `json:"how"` // "": it is not replaced
	// After is when, counted from the first connection.
	After time.Duration `json:"after_ns"`
	// Over is the time that an Aged server's connections have to end.
	Over time.Duration `json:"over_ns,omitempty"`
}

// Draining says how a server ends that another one replaces.
type Draining string

// The ways of draining.
const (
	Abrupt   Draining = "abrupt"   // all connections are closed at once (http.Server.Close)
	Graceful Draining = "graceful" // idle connections are closed at once, others after their answer (http.Server.Shutdown)
	// Aged is Graceful, but each connection gets an answer with "Connection: close" before, at a
	// moment of its own within Drain.Over.
	Aged Draining = "max_age"
)

// A Drained is what a Drain came to.
type Drained struct {
	At int64 `json:"at_ns"` // when it began, since the start of the trial
	// Burst is the most connections that were accepted within 100 ms from then on.
	Burst int64 `json:"burst"`
}

// Validate says what is missing.
func (o Options) Validate() error {
	switch {
	case len(o.Listen) == 0:
		return errors.New("server: no address to listen on")
	case o.Backlog < 1:
		return errors.New("server: backlog must be at least 1")
	case o.PerConnection < 0 || o.Forgets < 0 || o.Forgets > 100:
		return errors.New("server: requests per connection must not be negative, and a share is from 0 to 100 percent")
	case o.Stdlib.SQL && o.Stdlib.Drain.How != "":
		return errors.New("server: sessions are not drained")
	}
	switch o.Restart {
	case "", Reusing, Plain:
	default:
		return fmt.Errorf("server: restart %q is none of reuse_address, plain", o.Restart)
	}
	switch o.Closing {
	case First, Last, Both, Reset, Late:
		return nil
	}
	return fmt.Errorf("server: closing %q is none of first, last, both, reset, late", o.Closing)
}

// Restarting says how a server listens anew; "": it does not.
type Restarting string

// The ways of listening anew.
const (
	Reusing Restarting = "reuse_address" // with SO_REUSEADDR
	Plain   Restarting = "plain"         // without
)

// A Restart is what became of listening anew.
type Restart struct {
	Tries int64 `json:"tries"`
	Took  int64 `json:"took_ns"` // from the first try to the last
	Done  bool  `json:"done"`
}

// A Behaviour is what happens to connections at a Door.
type Behaviour string

// The behaviours. Whatever is accepted is kept open.
const (
	Keep      Behaviour = "keep"       // nothing: the client may close, the server never does
	Hang      Behaviour = "hang"       // a FIN at once: the client is in CLOSE_WAIT
	Deaf      Behaviour = "deaf"       // never read: what the client sends, and its FIN, waits at the client
	DeafHang  Behaviour = "deaf_hang"  // a FIN at once, never read
	DeafLater Behaviour = "deaf_later" // never read; a FIN when Control.Release is raised
	Drop      Behaviour = "drop"       // every segment is dropped: the client stays in SYN_SENT
	OnlySYN   Behaviour = "only_syn"   // all but SYNs are dropped: the connection stays in SYN_RECV here
)

// A Door is an address at which connections meet a behaviour.
type Door struct {
	At        netip.AddrPort `json:"at"`
	Behaviour Behaviour      `json:"behaviour"`
}

// An Error counts failures of one kind.
type Error struct {
	Errno string `json:"errno"`
	Phase string `json:"phase"` // accept, receive, send, close, listen
	Count int64  `json:"count"`
}

// Stats is what a server has counted so far.
type Stats struct {
	At       int64 `json:"at_ns"` // since the start of the trial
	Accepted int64 `json:"connections_accepted"`
	Live     int64 `json:"connections_live"` // accepted and not yet closed here
	Requests int64 `json:"requests"`
	// Reused are the requests on a connection that had carried one before; nil in records from before they were counted.
	Reused *int64 `json:"reused,omitempty"`
	// BytesSent are those of answers, heads included, that the kernel took.
	BytesSent int64 `json:"bytes_sent"`

	ClosedFirst int64 `json:"closed_first"` // before it had seen the peer's FIN
	ClosedLast  int64 `json:"closed_last"`
	ClosedReset int64 `json:"closed_reset"` // the peer sent RST
	Forgotten   int64 `json:"forgotten"`    // the peer's FIN was seen, and nothing done
	// Restart is nil where none was asked for, or the load is not over.
	Restart *Restart `json:"restart,omitempty"`
	// Drained is nil where none was asked for, or its time has not come.
	Drained *Drained `json:"drained,omitempty"`

	Errors []Error `json:"errors,omitempty"`
	CPU    int64   `json:"cpu_ns"` // of the driver's process, user and system
}

// Control ties a running server to whoever runs it. Ready and Report are
// called from the driver's thread and must not block long.
type Control struct {
	Clock  func() int64 // ns since the start of the trial
	Epoch  int64        // CLOCK_MONOTONIC at the start of the trial, ns
	Ready  func()       // all addresses are being listened on
	Report func(Stats)  // several times a second
	// Release tells the server that the load is over: it closes what is still
	// open, unless Closing is Last.
	Release *Signal
}

// A Signal is raised once, by any goroutine. The zero value is ready for use.
type Signal struct {
	raised atomic.Bool
	wake   atomic.Pointer[func()]
}

// Raise raises the signal and wakes whoever waits for it.
func (s *Signal) Raise() {
	s.raised.Store(true)
	if f := s.wake.Load(); f != nil {
		(*f)()
	}
}

// Raised says whether the signal was raised.
func (s *Signal) Raised() bool { return s.raised.Load() }

// OnRaise names what to call when the signal is raised. A driver sets it before it
// looks at Raised for the first time.
func (s *Signal) OnRaise(f func()) { s.wake.Store(&f) }
