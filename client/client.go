// Package client is the door to the drivers that ask: what a client is told,
// and what it counts. The engines stand in the back rooms; raw makes its own
// system calls and decides to the segment who closes first.
package client

import (
	"errors"
	"fmt"
	"net/netip"
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
}

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
	switch o.Closing {
	case First, Last, Both, Reset, Unread:
		return nil
	}
	return fmt.Errorf("client: closing %q is none of first, last, both, reset, unread", o.Closing)
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

	// Connect says how long connect() took to an open connection; nil where
	// none was opened.
	Connect *Latency `json:"connect,omitempty"`

	Errors []Error `json:"errors,omitempty"`
	CPU    int64   `json:"cpu_ns"` // of the driver's process, user and system, from Begin on
}

// Latency sums up how long something took, in ns, to three digits.
type Latency struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50_ns"`
	P99   int64 `json:"p99_ns"`
	Most  int64 `json:"most_ns"`
}

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
