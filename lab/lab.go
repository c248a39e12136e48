// Package lab is the door to the world of a trial: its stacks, the link
// between them, the sysctls they run under, and the backend that gives the
// world a place to live.
//
// A stack is one network namespace: it owns counters, sysctls and a socket
// table. A host is a role on a stack (client, server). On a veth link each
// host has a stack of its own; on loopback both share one.
package lab

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
)

// A Link is how the hosts of a trial reach each other.
type Link string

// The links.
const (
	Veth     Link = "veth"     // two stacks, a pair of virtual Ethernet devices
	Loopback Link = "loopback" // one stack, 127.0.0.0/8
)

// Links lists the links that a scenario may name.
var Links = []Link{Veth, Loopback}

// A Stack is one network namespace of a trial.
type Stack struct {
	Name string `json:"name"` // the host's name; "stack" where hosts share it
	// Addresses are what the stack's link carries, with the network's length.
	Addresses []netip.Prefix `json:"addresses"`
	// Sysctls are written before any socket exists, then read back.
	Sysctls map[string]string `json:"sysctls"`
}

// A World is what a trial runs in.
type World struct {
	Link   Link    `json:"link"`
	Stacks []Stack `json:"stacks"`
}

// MaxDestinations is the most server addresses a world has. The neighbour
// table, which all namespaces share, holds 1,024 by default.
const MaxDestinations = 500

// SharedStack is the name of a stack that all hosts share.
const SharedStack = "stack"

// NewWorld lays out the hosts client and server, the server with n addresses,
// on 198.18.0.0/15 (RFC 2544, section C.2.2) or 127.0.0.0/8. sysctls are set
// on every stack. The addresses of the server are returned beside it.
func NewWorld(link Link, n int, sysctls map[string]string) (World, []netip.Addr, error) {
	if n < 1 || n > MaxDestinations {
		return World{}, nil, fmt.Errorf("%d destinations: the lab has from 1 to %d", n, MaxDestinations)
	}
	stack := func(name string, first netip.Addr, bits, n int) Stack {
		s := Stack{Name: name, Sysctls: maps.Clone(Pinned)}
		maps.Copy(s.Sysctls, sysctls)
		for a := first; len(s.Addresses) < n; a = a.Next() {
			s.Addresses = append(s.Addresses, netip.PrefixFrom(a, bits))
		}
		return s
	}
	switch link {
	case Veth:
		client := stack("client", netip.MustParseAddr("198.18.0.1"), 15, 1)
		server := stack("server", netip.MustParseAddr("198.19.0.1"), 15, n)
		return World{Link: link, Stacks: []Stack{client, server}}, addrs(server), nil
	case Loopback:
		shared := stack(SharedStack, netip.MustParseAddr("127.0.0.1"), 8, n)
		return World{Link: link, Stacks: []Stack{shared}}, addrs(shared), nil
	}
	return World{}, nil, fmt.Errorf("link %q is none of %v", link, Links)
}

func addrs(s Stack) []netip.Addr {
	var out []netip.Addr
	for _, p := range s.Addresses {
		out = append(out, p.Addr())
	}
	return out
}

// HashEntries is the size of the TCP hash table that every stack gets for
// itself. A table shared with the machine would make each walk over sockets
// pay for those of everyone else.
const HashEntries = 65536

// Pinned holds the sysctls that every stack gets unless the scenario says
// otherwise: those whose defaults follow the size of the hash table, at the
// values that a machine with much memory starts with
// (net/ipv4/tcp_ipv4.c, tcp_set_hashinfo: half the entries of a table of
// 262,144; a 128th of them).
var Pinned = map[string]string{
	"net.ipv4.tcp_max_tw_buckets":  "131072",
	"net.ipv4.tcp_max_syn_backlog": "2048",
}

// Recorded names the sysctls that every record holds, set or not: those that
// TIME_WAIT, ports and closing depend on. What a kernel lacks is left out.
var Recorded = slices.Sorted(slices.Values([]string{
	"net.core.somaxconn",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_congestion_control",
	"net.ipv4.tcp_ehash_entries",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_max_syn_backlog",
	"net.ipv4.tcp_max_tw_buckets",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
	"net.ipv4.tcp_rfc1337",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_timestamps",
	"net.ipv4.tcp_tw_recycle",
	"net.ipv4.tcp_tw_reuse",
	"net.ipv4.tcp_tw_reuse_delay",
}))

// A Backend is a place where a trial's world can live.
type Backend interface {
	// Name is what records and --lab call it.
	Name() string
	// Start starts `twlab role trial` in a fresh world. The world dies with
	// the trial, and with ctx.
	Start(ctx context.Context) (Trial, error)
	// OpenFiles is the most files that one process in a trial may open.
	OpenFiles() (uint64, error)
}

// A Trial is a running `twlab role trial`.
type Trial interface {
	io.ReadWriter // frames
	// Stop kills what is left of the world and waits for its end.
	Stop() error
	// UserNamespace says whether the world has a user namespace of its own.
	UserNamespace() bool
}

// A Launcher starts another twlab process inside a trial. Whatever gives a
// pipe can be one.
type Launcher interface {
	Launch(ctx context.Context, role ...string) (Process, error)
}

// A Process is a twlab process that a Launcher started.
type Process interface {
	io.ReadWriter // frames
	// PID is the process's number in the namespace of the launcher.
	PID() int
	// Stop closes the pipes, kills what is left and waits.
	Stop() error
}
