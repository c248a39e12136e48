// Package client is the door to the drivers that ask: what a client is told,
// and what it counts. The engines stand in the back rooms; raw makes its own
// system calls and decides to the segment who closes first.
package client

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Closing says when the client closes a connection.
type Closing string

// The ways of closing.
const (
	First Closing = "first" // as soon as it has the answer; the server waits for that
	Last  Closing = "last"  // only after it has seen the server's FIN
	Both  Closing = "both"  // at the same time as the server: neither has seen the other's FIN
	Reset Closing = "reset" // as First, with SO_LINGER 0: RST instead of FIN
	// Unread closes as soon as the answer begins to arrive, without reading
	// it: the kernel sends RST (RFC 2525, section 2.17).
	Unread Closing = "unread"
)

// Options tells a client what to do. A load ends when Count requests were
// started or Duration is over, whichever comes first.
type Options struct {
	// Destinations are used in turn, one a connection. At least one.
	Destinations []netip.AddrPort `json:"destinations"`
	// Sources are bound before connecting and used in turn, for each turn of
	// the destinations. None: the kernel chooses.
	Sources []netip.Addr `json:"sources,omitempty"`
	// EarlyPort lets bind() choose the port, before the destination is known.
	// Otherwise connect() does (IP_BIND_ADDRESS_NO_PORT, Linux 4.2). It means
	// nothing without Sources.
	EarlyPort bool `json:"early_port,omitempty"`
	// Port is the port that every connection comes from. Zero: the kernel
	// chooses. It means nothing without Sources.
	Port uint16 `json:"port,omitempty"`
	// ReuseAddress sets SO_REUSEADDR before bind(). It means nothing without Port.
	ReuseAddress bool `json:"reuse_address,omitempty"`
	// Held are sockets that are brought to a state before the load and kept
	// there until the client's context ends.
	Held []Held `json:"held,omitempty"`
	// Silent connections are begun before the load, to the destinations in turn,
	// and never answer the SYN+ACK: each takes a place in the server's SYN queue. They are
	// refused outside of a namespace that twlab made (Control.Made).
	Silent int `json:"silent,omitempty"`
	// Slow is the number of the first connections that pass by the server's first
	// SYN+ACK, as on a long way, and answer the second one, a second later.
	Slow int64 `json:"slow,omitempty"`
	// Refilled says that sockets in TIME_WAIT will be made anew as they die
	// (Control.Refill): the client goes on until its context ends.
	Refilled bool `json:"refilled,omitempty"`
	// Count is the number of requests. Zero: as many as Duration allows.
	Count int64 `json:"count"`
	// Rate is the number of requests started a second, an open loop: starts
	// are due by the clock, whatever became of the ones before. Zero is a
	// closed loop: a request starts when another has ended.
	Rate float64 `json:"rate"`
	// RampTo is the rate that an open loop has reached when Count requests are
	// due, or without a Count when Duration is over, rising or falling evenly.
	// Zero: no ramp.
	RampTo float64 `json:"ramp_to,omitempty"`
	// Duration bounds the load. Required.
	Duration time.Duration `json:"duration_ns"`
	// Concurrency is the most requests under way at a time, and the size of
	// the pool. At least 1.
	Concurrency int `json:"concurrency"`
	// Keepalive sends many requests over a connection, from a pool of
	// Concurrency connections that is filled first, used in turn, and closed
	// when the load ends. Otherwise each request opens a connection.
	Keepalive bool `json:"keepalive"`
	// PerConnection is the number of requests after which the client closes a
	// kept connection. Zero: no limit. It means nothing without Keepalive.
	PerConnection int64 `json:"per_connection,omitempty"`
	// Closing says who closes first. Required.
	Closing Closing `json:"closing"`
	// HalfClose ends a connection that the client closes First by
	// shutdown(SHUT_WR), and keeps the socket until the server's FIN is here.
	HalfClose bool `json:"half_close,omitempty"`
	// Timeout bounds one request, connect included. Required.
	Timeout time.Duration `json:"timeout_ns"`
	// Stdlib is what the engines of client/stdlib read beside Destinations, Count, the
	// rates, Duration, Concurrency, Keepalive and Timeout; the raw one has no use for it.
	Stdlib Stdlib `json:"stdlib,omitzero"`
}

// Stdlib says how a client uses Go's standard library: net/http, or database/sql.
// The zero value is one client for all requests, as the library makes it, that reads
// every answer to its end.
type Stdlib struct {
	SQL bool `json:"sql,omitempty"` // database/sql instead of net/http
	// Protocol is "https" (HTTP/1.1 over TLS), "h2" (HTTP/2 over TLS), "h2c" (HTTP/2
	// without TLS), and otherwise HTTP/1.1.
	Protocol string `json:"protocol,omitempty"`
	// Unix is the UNIX socket that is connected to instead of Destinations: one in the
	// abstract namespace (unix(7)), which is no file, with "@" before its name.
	Unix string `json:"unix,omitempty"`
	// Roots are certificates, in PEM, that are trusted. Without them TLS trusts nobody.
	Roots []byte `json:"roots,omitempty"`
	// Resume lets all clients share a cache of TLS sessions.
	Resume bool   `json:"resume,omitempty"`
	Method string `json:"method,omitempty"` // Get, Post, PostKey, PostStream; "": Get
	Read   string `json:"read,omitempty"`   // ReadAll, ReadJSON, ReadNothing, LeaveOpen; "": ReadAll
	// Pool is the most idle connections that a client keeps (MaxIdleConnsPerHost,
	// SetMaxIdleConns). Zero: what the library takes, which is 2 in both.
	Pool int `json:"pool,omitempty"`
	// MaxConnections is the most connections that a client opens (MaxConnsPerHost,
	// SetMaxOpenConns). Zero: no limit.
	MaxConnections int `json:"max_connections,omitempty"`
	// IdleTimeout is how long an idle connection is kept (IdleConnTimeout,
	// SetConnMaxIdleTime). Zero: for ever.
	IdleTimeout time.Duration `json:"idle_timeout_ns,omitempty"`
	// PerClient is the number of requests after which a client is given up for a new
	// one. Zero: never.
	PerClient int64 `json:"per_client,omitempty"`
	// Clients is the number of clients that work side by side; each has its share of
	// Concurrency. Zero: one; with PerClient, one for each request under way.
	Clients int `json:"clients,omitempty"`
	// Abandon leaves the idle connections of a client that is given up open.
	Abandon bool `json:"abandon,omitempty"`
	// Burst starts Concurrency requests together, and the next when all of them have ended.
	Burst bool `json:"burst,omitempty"`
	// Rest is the pause between the end of a request and the next one of the same worker,
	// or burst; a worker's varies by half of it, so that not all ask at the same time. Zero: none.
	Rest time.Duration `json:"rest_ns,omitempty"`
	// Seek moves each worker's Rest towards the moment at which its connection ends: a
	// little longer after each request on a reused connection, a little shorter after each
	// on a fresh one.
	Seek bool `json:"seek,omitempty"`
}

// The methods of Stdlib. A POST has a body that net/http can send again (GetBody), but
// for PostStream.
const (
	Get        = "get"
	Post       = "post"
	PostKey    = "post_key"    // with an Idempotency-Key
	PostStream = "post_stream" // with an Idempotency-Key, and a body that cannot be sent again
)

// The ways to read an answer's body of Stdlib.
const (
	ReadAll     = "all"    // to its end, then close it
	ReadJSON    = "decode" // one value with json.Decoder, then close it
	ReadNothing = "close"  // close it unread
	LeaveOpen   = "never"  // neither read nor close it
)

// RampOver is how long the ramp takes.
func (o Options) RampOver() time.Duration {
	if o.Count == 0 {
		return o.Duration
	}
	return time.Duration(float64(o.Count) / ((o.Rate + o.RampTo) / 2) * 1e9)
}

// Held asks for N sockets in a state. A client's own sockets can be brought to
// every state but SYN_RECV, which its connections have on the server.
type Held struct {
	State string `json:"state"` // as netstat prints it: "FIN_WAIT2"
	N     int    `json:"n"`
	// At are the server's addresses that behave as the state needs (see
	// server.Door), used in turn. None for LISTEN and CLOSE.
	At []netip.AddrPort `json:"at,omitempty"`
}

// Loads says whether there is a load, beside what is held.
func (o Options) Loads() bool { return o.Count > 0 || o.Duration > 0 }

// Validate says what is missing.
func (o Options) Validate() error {
	switch {
	case len(o.Destinations) == 0:
		return errors.New("client: no destination")
	case !o.Loads() && len(o.Held) > 0:
		return nil
	case o.Duration <= 0:
		return errors.New("client: duration must be above zero")
	case o.Timeout <= 0:
		return errors.New("client: timeout must be above zero")
	case o.Concurrency < 1:
		return errors.New("client: concurrency must be at least 1")
	case o.Silent < 0 || o.Count < 0 || o.Rate < 0 || o.RampTo < 0 || o.PerConnection < 0:
		return errors.New("client: count, rates and requests per connection must not be negative")
	case o.RampTo > 0 && o.Rate == 0:
		return errors.New("client: a ramp needs a rate to begin with")
	case o.Port > 0 && len(o.Sources) == 0:
		return errors.New("client: a port needs a source address")
	case o.Keepalive && o.Closing == Unread:
		return errors.New("client: a connection is not kept whose answers are not read")
	case o.HalfClose && o.Closing != First:
		return errors.New("client: only who closes first can close by half")
	}
	if err := o.Stdlib.validate(); err != nil {
		return err
	}
	switch o.Closing {
	case First, Last, Both, Reset, Unread:
		return nil
	}
	return fmt.Errorf("client: closing %q is none of first, last, both, reset, unread", o.Closing)
}

// Leaves says whether the client plays a program that leaves connections open which nobody uses.
func (l Stdlib) Leaves() bool { return l.Abandon || l.Read == LeaveOpen }

func (l Stdlib) validate() error {
	switch {
	case !slices.Contains([]string{"", Get, Post, PostKey, PostStream}, l.Method):
		return fmt.Errorf("client: method %q is none of get, post, post_key, post_stream", l.Method)
	case !slices.Contains([]string{"", ReadAll, ReadJSON, ReadNothing, LeaveOpen}, l.Read):
		return fmt.Errorf("client: read %q is none of all, decode, close, never", l.Read)
	case !slices.Contains([]string{"", "http1", "https", "h2", "h2c"}, l.Protocol):
		return fmt.Errorf("client: protocol %q is none of http1, https, h2, h2c", l.Protocol)
	case l.Pool < 0 || l.MaxConnections < 0 || l.PerClient < 0 || l.Clients < 0:
		return errors.New("client: pool, connections and clients must not be negative")
	}
	return nil
}

// A Phase is what a request was doing when it failed.
type Phase string

// The phases.
const (
	Connect Phase = "connect"
	Send    Phase = "send"
	Receive Phase = "receive"
	Closed  Phase = "close" // the answer was there, the end of the connection was not clean
)

// An Error counts failures of one kind.
type Error struct {
	// Errno is the name that errno(3) gives ("EADDRNOTAVAIL"); "EOF" where the
	// peer closed before its answer was whole; "HTTP_502" where the answer was
	// whole and its status no 200; "EPROTO" where it was no answer of
	// HTTP/1.1; "ETIMEDOUT" also where Options.Timeout passed.
	Errno  string `json:"errno"`
	Phase  Phase  `json:"phase"`
	Reused bool   `json:"reused"` // on a connection that had carried a request before
	Count  int64  `json:"count"`
}

// CompareErrors orders errors by errno, phase and whether the connection was reused.
func CompareErrors(a, b Error) int {
	return cmp.Or(cmp.Compare(a.Errno, b.Errno), cmp.Compare(a.Phase, b.Phase), cmp.Compare(fmt.Sprint(a.Reused), fmt.Sprint(b.Reused)))
}

// Stats is what a client has counted so far. Times are ns since the start of
// the trial.
type Stats struct {
	At    int64 `json:"at_ns"`
	Begin int64 `json:"begin_ns"` // of the load
	End   int64 `json:"end_ns"`   // of the load, all connections closed; 0 while it goes on

	Started int64 `json:"started"`
	OK      int64 `json:"ok"`
	Failed  int64 `json:"failed"`
	Fresh   int64 `json:"fresh"`  // requests sent on a new connection
	Reused  int64 `json:"reused"` // requests sent on a connection that had carried one before
	// BytesReceived are those of answers, heads included, that were read.
	BytesReceived int64 `json:"bytes_received"`
	// Late counts the requests of an open loop that started more than 1 ms
	// after they were due; LateMost is the worst of them, in ns.
	Late     int64 `json:"late"`
	LateMost int64 `json:"late_most_ns"`

	Attempted int64 `json:"connections_attempted"`
	Opened    int64 `json:"connections_opened"` // connect() succeeded
	// How connections ended: closed by this side before it had seen the
	// peer's FIN, after that, by RST from here, or after a failure.
	ClosedFirst  int64 `json:"closed_first"`
	ClosedLast   int64 `json:"closed_last"`
	ClosedReset  int64 `json:"closed_reset"`
	ClosedFailed int64 `json:"closed_failed"`

	// What only the engines of client/stdlib can tell:

	// Stale counts the requests that were sent on a reused connection which the server
	// had closed, or closed then, without an answer. They failed, or net/http sent them again.
	Stale int64 `json:"stale,omitempty"`
	// Ended counts connections by why they ended: the Cause's.
	Ended map[Cause]int64 `json:"ended,omitempty"`
	// Handshakes are those of TLS that succeeded; Resumed of them took up a session again.
	Handshakes int64 `json:"tls_handshakes,omitempty"`
	Resumed    int64 `json:"tls_resumed,omitempty"`

	// Connect says how long connect() took to an open connection; TLS, how long the
	// handshake that came then. FirstByte and Whole say how long it was until an answer began,
	// and until it was whole; in an open loop from when the request was due, not from when
	// it could be sent, so that none that had to wait is left out (coordinated omission). Those
	// that failed are not in it. Each is nil where there was none, and while the load goes on.
	Connect   *Latency `json:"connect,omitempty"`
	TLS       *Latency `json:"tls,omitempty"`
	FirstByte *Latency `json:"first_byte,omitempty"`
	Whole     *Latency `json:"whole,omitempty"`

	Errors []Error `json:"errors,omitempty"`
	CPU    int64   `json:"cpu_ns"` // of the driver's process, user and system, from Begin on
}

// A Cause says why a connection of client/stdlib ended.
type Cause string

// The causes.
const (
	LoadOver     Cause = "load_over"     // the load was, and the client was closed
	GivenUp      Cause = "client_closed" // its client was given up, and closed
	PoolFull     Cause = "pool_full"     // when its request was done, the pool held as many as it may
	BodyUnread   Cause = "body_unread"   // an answer's body was closed before its end
	NoKeepalive  Cause = "no_keepalive"  // one side said "Connection: close"
	ClientIdle   Cause = "client_idle"   // the client's idle timeout
	ServerClosed Cause = "server_closed" // the server closed it while it was idle
	Broken       Cause = "broken"        // it ended in the middle of a request
	NeverUsed    Cause = "never_used"    // another connection took the request that it was opened for
)

// Causes lists them.
var Causes = []Cause{LoadOver, GivenUp, PoolFull, BodyUnread, NoKeepalive, ClientIdle, ServerClosed, Broken, NeverUsed}

// Control ties a running client to whoever runs it. Report and Idle are called
// from the driver's thread and must not block long.
type Control struct {
	Clock  func() int64 // ns since the start of the trial
	Epoch  int64        // CLOCK_MONOTONIC at the start of the trial, ns
	Report func(Stats)  // several times a second
	// Idle is called when the load is over and the pool waits to be closed:
	// the moment for the server to close its ends, where that is its part.
	Idle func()
	// Refill returns how many sockets in TIME_WAIT are to be made anew, each
	// number once; Filled is called when they are there. Both may be nil.
	Refill func() int
	Filled func()
	// Made says, by an error, that this is no network namespace of twlab's. nil:
	// nobody knows.
	Made func() error
	// Loaded is called when the load is over. The driver goes on until its
	// context ends where connections are still half closed.
	Loaded func(Stats)
}
