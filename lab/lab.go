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
	Veth      Link = "veth"      // two stacks, a pair of virtual Ethernet devices
	Veth6     Link = "veth6"     // the same over IPv6
	Loopback  Link = "loopback"  // one stack, 127.0.0.0/8
	Loopback6 Link = "loopback6" // one stack, ::1 and addresses added to lo
	Unix      Link = "unix"      // one stack, a UNIX socket in the abstract namespace, which is no file
)

// Links lists the links that a scenario may name.
var Links = []Link{Veth, Veth6, Loopback, Loopback6, Unix}

// Shared says whether both hosts are on one stack.
func (l Link) Shared() bool { return l == Loopback || l == Loopback6 || l == Unix }

// IPv6 says whether the link speaks IPv6.
func (l Link) IPv6() bool { return l == Veth6 || l == Loopback6 }

// A Stack is one network namespace of a trial.
type Stack struct {
	Name string `json:"name"` // the host's name; "stack" where hosts share it
	// Addresses are what the stack's link carries, with the network's length.
	Addresses []netip.Prefix `json:"addresses"`
	// Far are those of a second link, which a proxy has towards the server.
	Far []netip.Prefix `json:"far,omitempty"`
	// Sysctls are written before any socket exists, then read back.
	Sysctls map[string]string `json:"sysctls"`
	// Try are written after those, and may be refused.
	Try []SysctlLine `json:"try,omitempty"`
}

// A World is what a trial runs in. Its stacks are in a row: each is linked to
// the next.
type World struct {
	Link   Link    `json:"link"`
	Stacks []Stack `json:"stacks"`
	// Clients and Servers are the addresses of the two hosts.
	Clients []netip.Addr `json:"clients"`
	Servers []netip.Addr `json:"servers"`
}

// MaxAddresses is the most addresses a host has. The neighbour table, which
// all namespaces share, holds 1,024 entries by default.
const MaxAddresses = 500

// SharedStack is the name of a stack that all hosts share.
const SharedStack = "stack"

// NewWorld lays out the hosts client and server with so many addresses each, on
// 198.18.0.0/15 (RFC 2544, section C.2.2), 2001:2::/48 (RFC 5180) or loopback.
// sysctls are set on every stack.
func NewWorld(link Link, clients, servers int, sysctls map[string]string) (World, error) {
	for _, n := range []int{clients, servers} {
		if n < 1 || n > MaxAddresses {
			return World{}, fmt.Errorf("%d addresses: a host of the lab has from 1 to %d", n, MaxAddresses)
		}
	}
	if !slices.Contains(Links, link) {
		return World{}, fmt.Errorf("link %q is none of %v", link, Links)
	}
	var first struct{ client, server string }
	bits := 0
	switch link {
	case Veth:
		first.client, first.server, bits = "198.18.0.1", "198.19.0.1", 15
	case Veth6:
		first.client, first.server, bits = "2001:2::1:1", "2001:2::2:1", 64
	case Loopback, Unix: // a stack has addresses, used or not
		first.client, first.server, bits = "127.0.1.1", "127.0.0.1", 8
	case Loopback6:
		first.client, first.server, bits = "2001:2::1:1", "2001:2::2:2", 128
	}
	w := World{Link: link, Clients: count(first.client, clients), Servers: count(first.server, servers)}
	if link == Loopback6 { // tcp_tw_reuse 2 knows ::1 as loopback, and no other
		w.Servers = append([]netip.Addr{netip.IPv6Loopback()}, w.Servers[:servers-1]...)
	}
	stack := func(name string, addrs ...netip.Addr) {
		s := Stack{Name: name, Sysctls: maps.Clone(Pinned)}
		maps.Copy(s.Sysctls, sysctls)
		for _, a := range addrs {
			s.Addresses = append(s.Addresses, netip.PrefixFrom(a, bits))
		}
		w.Stacks = append(w.Stacks, s)
	}
	if link.Shared() {
		stack(SharedStack, slices.Concat(w.Clients, w.Servers)...)
		return w, nil
	}
	stack("client", w.Clients...)
	stack("server", w.Servers...)
	return w, nil
}

// Via is where clients find a proxy.
var Via = netip.MustParseAddr("198.18.128.1")

// WithProxy puts a proxy between the hosts of a world on veth: client and
// server are in networks of their own then, and only the proxy in both.
func (w World) WithProxy() (World, error) {
	if w.Link != Veth {
		return w, fmt.Errorf("a proxy needs link %s, not %s", Veth, w.Link)
	}
	client, server := w.Stacks[0], w.Stacks[1]
	for _, s := range []*Stack{&client, &server} {
		s.Addresses = slices.Clone(s.Addresses)
		for i, a := range s.Addresses {
			s.Addresses[i] = netip.PrefixFrom(a.Addr(), 16)
		}
	}
	proxy := Stack{
		Name: ProxyHost, Sysctls: maps.Clone(client.Sysctls),
		Addresses: []netip.Prefix{netip.PrefixFrom(Via, 16)}, Far: []netip.Prefix{netip.MustParsePrefix("198.19.128.1/16")},
	}
	proxy.Sysctls["net.ipv4.ip_unprivileged_port_start"] = "0" // programs may listen on 80
	w.Stacks = []Stack{client, proxy, server}
	return w, nil
}

// ProxyHost is the name of the host between client and server.
const ProxyHost = "proxy"

func count(first string, n int) []netip.Addr {
	var out []netip.Addr
	for a := netip.MustParseAddr(first); len(out) < n; a = a.Next() {
		out = append(out, a)
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
	// Memory is the number of bytes that a trial may still take.
	Memory() (uint64, error)
	// FindProgram says whether a program of that name could be run in a trial;
	// the error is a MissingProgram where it is not there.
	FindProgram(name string) error
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
