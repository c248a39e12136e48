// Package measure says what the TCP sockets of a stack are doing: the states,
// one look at them (Snapshot), and a Sampler that looks again and again.
//
// It is the door only. Where the numbers come from stands in the back rooms:
// sockdiag asks the kernel by netlink, procnet reads /proc/net. Neither needs
// privileges, and both see the network namespace of the calling process alone.
package measure

import (
	"fmt"
	"strings"
)

// A State is a TCP state as Linux numbers it (include/net/tcp_states.h).
type State uint8

// The eleven states. SYN_RECV covers request sockets (NEW_SYN_RECV) too.
const (
	Established State = 1 + iota
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
)

// States lists all states in the order of a connection's life.
var States = []State{
	Listen, SynSent, SynRecv, Established, FinWait1, FinWait2, CloseWait, LastAck, Closing, TimeWait, Close,
}

var stateNames = [...]string{
	Established: "ESTABLISHED", SynSent: "SYN_SENT", SynRecv: "SYN_RECV", FinWait1: "FIN_WAIT1", FinWait2: "FIN_WAIT2",
	TimeWait: "TIME_WAIT", Close: "CLOSE", CloseWait: "CLOSE_WAIT", LastAck: "LAST_ACK", Listen: "LISTEN", Closing: "CLOSING",
}

// String returns the name as netstat prints it: "TIME_WAIT".
func (s State) String() string {
	if s >= Established && s <= Closing {
		return stateNames[s]
	}
	return fmt.Sprintf("STATE_%d", uint8(s))
}

// Key returns the name as metrics spell it: "time_wait".
func (s State) Key() string { return strings.ToLower(s.String()) }

// MarshalText writes the name, so that a state can be a JSON key.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name that MarshalText wrote.
func (s *State) UnmarshalText(b []byte) error {
	for i := Established; i <= Closing; i++ {
		if stateNames[i] == string(b) {
			*s = i
			return nil
		}
	}
	return fmt.Errorf("%q is no TCP state", b)
}

// A Family is "inet" or "inet6". An IPv4 connection of a dual-stack listener
// counts as inet6, as the kernel files it.
type Family string

// The address families.
const (
	INET  Family = "inet"
	INET6 Family = "inet6"
)

// A Socket is what a reader tells of one socket.
type Socket struct {
	State       State
	Family      Family
	LocalPort   uint16
	RemotePort  uint16
	TimewaitRow bool // a timewait minisock: TIME_WAIT, or FIN_WAIT2 that no process holds
}

// Counts is a number of sockets by state. An absent state is 0.
type Counts map[State]int

// Total returns the number of sockets in all states.
func (c Counts) Total() int {
	n := 0
	for _, v := range c {
		n += v
	}
	return n
}

// A Table is the number of sockets by host, family and state.
type Table map[string]map[Family]Counts

// Host returns the counts of a host over both families.
func (t Table) Host(name string) Counts {
	sum := Counts{}
	for _, counts := range t[name] {
		for s, n := range counts {
			sum[s] += n
		}
	}
	return sum
}

// Counters holds kernel counters by name ("TcpExt.TW", "sockstat.TCP.tw"). A
// counter that the kernel does not have is absent.
type Counters map[string]int64

// The counters that metrics are made of.
const (
	ActiveOpens       = "Tcp.ActiveOpens"
	PassiveOpens      = "Tcp.PassiveOpens"
	TimewaitBorn      = "TcpExt.TW"                  // births with a life of more than 4 s
	TimewaitBornShort = "TcpExt.TWKilled"            // births with a life of at most 4 s
	TimewaitRecycled  = "TcpExt.TWRecycled"          // taken over by connect()
	TimewaitRefused   = "TcpExt.TCPTimeWaitOverflow" // births refused by tcp_max_tw_buckets
	TimewaitAlive     = "sockstat.TCP.tw"            // TIME_WAIT and minisock FIN_WAIT2, both families
)

// A Snapshot is one look at one stack. Times are ns of CLOCK_MONOTONIC since
// the start of the trial; the look happened between Begin and End.
type Snapshot struct {
	Phase    string   `json:"phase"`
	Begin    int64    `json:"begin_ns"`
	End      int64    `json:"end_ns"`
	Counters Counters `json:"counters"`
	// Sockets is nil where only counters were read.
	Sockets Table `json:"sockets,omitempty"`
	// Minisocks is the number of FIN_WAIT2 sockets, among Sockets, that are
	// timewait minisocks: sockstat counts them as tw.
	Minisocks int `json:"fin_wait2_minisocks,omitempty"`
}

// A Host tells whose a socket is: one of LocalPorts or RemotePorts must match.
// With neither, every socket of the stack is the host's.
type Host struct {
	Name        string   `json:"name"`
	LocalPorts  []uint16 `json:"local_ports,omitempty"`
	RemotePorts []uint16 `json:"remote_ports,omitempty"`
}

func (h Host) owns(s Socket) bool {
	if h.LocalPorts == nil && h.RemotePorts == nil {
		return true
	}
	for _, p := range h.LocalPorts {
		if p == s.LocalPort {
			return true
		}
	}
	for _, p := range h.RemotePorts {
		if p == s.RemotePort {
			return true
		}
	}
	return false
}
