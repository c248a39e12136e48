package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twlab/twlab/internal/suggest"
)

// A Scope says what a sysctl belongs to.
type Scope string

// The scopes.
const (
	StackScope  Scope = "stack"  // each network namespace has its own
	KernelScope Scope = "kernel" // one for the whole kernel: a namespace cannot change it
)

// A Knob is a documented sysctl. Any other name below net. may be used as
// well; the kernel says then whether it knows it.
type Knob struct {
	Name  string // "net.ipv4.tcp_tw_reuse"
	Scope Scope
	Since string // Linux version that brought it; "" for before 4.4
	Until string // first version without it; "" for still there
	Doc   string
	check func(string) error
}

// Check says whether the value can be right. The kernel has the last word.
func (k Knob) Check(value string) error {
	if err := k.check(value); err != nil {
		return fmt.Errorf("%s = %s: %w", k.Name, value, err)
	}
	return nil
}

func whole(low, high int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil || n < low || n > high {
			return fmt.Errorf("write a whole number from %d to %d", low, high)
		}
		return nil
	}
}

const int32Max = 1<<31 - 1

func portRange(s string) error {
	f := strings.Fields(s)
	if len(f) == 2 {
		low, err1 := strconv.ParseUint(f[0], 10, 16)
		high, err2 := strconv.ParseUint(f[1], 10, 16)
		if err1 == nil && err2 == nil && low > 0 && low <= high {
			return nil
		}
	}
	return fmt.Errorf("write two port numbers, the lower first, such as 32768 60999")
}

func anything(string) error { return nil }

func three(s string) error {
	f := strings.Fields(s)
	if len(f) != 3 {
		return fmt.Errorf("write three whole numbers: least, default, most")
	}
	for _, n := range f {
		if err := whole(0, int32Max)(n); err != nil {
			return err
		}
	}
	return nil
}

// Knobs lists the documented sysctls. Versions and defaults are those of
// Documentation/networking/ip-sysctl.rst and net/ipv4/sysctl_net_ipv4.c.
var Knobs = []Knob{
	{"net.core.somaxconn", StackScope, "", "", "most connections that wait for accept() on a listener", whole(0, int32Max)},
	{"net.core.netdev_max_backlog", KernelScope, "", "", "packets that wait for a CPU", whole(0, int32Max)},
	{"net.ipv4.ip_local_port_range", StackScope, "", "", "ports that connect() chooses from", portRange},
	{"net.ipv4.ip_local_reserved_ports", StackScope, "", "", "ports that connect() leaves out", anything},
	{"net.ipv4.tcp_abort_on_overflow", StackScope, "", "", "1: RST when a listener's queue is full, instead of silence", whole(0, 1)},
	{"net.ipv4.tcp_congestion_control", StackScope, "", "", "congestion control of new sockets", anything},
	{"net.ipv4.tcp_fin_timeout", StackScope, "", "", "seconds that FIN_WAIT2 lives without an owner; not TIME_WAIT, which lives 60 s", whole(1, int32Max)},
	{"net.ipv4.tcp_keepalive_intvl", StackScope, "", "", "seconds between keepalive probes", whole(1, 32767)},
	{"net.ipv4.tcp_keepalive_probes", StackScope, "", "", "unanswered keepalive probes that end a connection", whole(1, 127)},
	{"net.ipv4.tcp_keepalive_time", StackScope, "", "", "idle seconds before the first keepalive probe (SO_KEEPALIVE; not HTTP keepalive)", whole(1, 32767)},
	{"net.ipv4.tcp_max_orphans", KernelScope, "", "", "most sockets without an owner", whole(0, int32Max)},
	{"net.ipv4.tcp_max_syn_backlog", StackScope, "", "", "most half-open connections of a listener, where tcp_syncookies is 0", whole(0, int32Max)},
	{"net.ipv4.tcp_max_tw_buckets", StackScope, "", "", "most sockets in TIME_WAIT; the excess is closed at once", whole(0, int32Max)},
	{"net.ipv4.tcp_mem", KernelScope, "", "", "pages of memory for all TCP sockets", three},
	{"net.ipv4.tcp_orphan_retries", StackScope, "", "", "retransmissions for a socket without an owner", whole(0, 255)},
	{"net.ipv4.tcp_retries2", StackScope, "", "", "retransmissions before an established connection is given up", whole(0, 255)},
	{"net.ipv4.tcp_rfc1337", StackScope, "", "", "1: a RST does not end TIME_WAIT", whole(0, 1)},
	{"net.ipv4.tcp_rmem", StackScope, "", "", "bytes of a receive buffer", three},
	{"net.ipv4.tcp_syn_retries", StackScope, "", "", "retransmissions of a SYN", whole(1, 127)},
	{"net.ipv4.tcp_synack_retries", StackScope, "", "", "retransmissions of a SYN+ACK", whole(0, 255)},
	{"net.ipv4.tcp_syncookies", StackScope, "", "", "1: cookies when a listener's queue is full; 2: always; 0: never", whole(0, 2)},
	{"net.ipv4.tcp_timestamps", StackScope, "", "", "1: timestamps with a random offset; 2: without; 0: none, and no tcp_tw_reuse", whole(0, 2)},
	{"net.ipv4.tcp_tw_recycle", StackScope, "", "4.12", "short TIME_WAIT for peers with timestamps; broke clients behind NAT", whole(0, 1)},
	{"net.ipv4.tcp_tw_reuse", StackScope, "", "", "connect() may take a port from TIME_WAIT: 1: yes; 2 (since 4.19, default): on loopback; 0: no", whole(0, 2)},
	{"net.ipv4.tcp_tw_reuse_delay", StackScope, "6.14", "", "milliseconds in TIME_WAIT before tcp_tw_reuse takes a port; 1 s before 6.14", whole(1, 60000)},
	{"net.ipv4.tcp_wmem", StackScope, "", "", "bytes of a send buffer", three},
}

// FindKnob returns the documented sysctl of that name; "tcp_tw_reuse" is short
// for "net.ipv4.tcp_tw_reuse".
func FindKnob(name string) (Knob, bool) {
	i := slices.IndexFunc(Knobs, func(k Knob) bool { return k.Name == name || ShortName(k.Name) == name })
	if i < 0 {
		return Knob{}, false
	}
	return Knobs[i], true
}

// ShortName is the last part of a sysctl's name.
func ShortName(name string) string { return name[strings.LastIndex(name, ".")+1:] }

// CheckSysctl returns the full name of a sysctl, and whether a stack could
// have it at this value.
func CheckSysctl(name, value string) (full string, err error) {
	k, documented := FindKnob(name)
	if documented {
		name = k.Name
	}
	if _, err := SysctlPath(name); err != nil {
		if !strings.Contains(name, ".") {
			return name, fmt.Errorf("no sysctl is known as %s%s", name, suggest.For(name, shortNames()))
		}
		return name, err
	}
	switch {
	case strings.TrimSpace(value) == "" && name != "net.ipv4.ip_local_reserved_ports":
		return name, fmt.Errorf("sysctl %s has no value", name)
	case documented && k.Scope == KernelScope:
		return name, fmt.Errorf("sysctl %s belongs to the whole kernel: a network namespace cannot have its own, only a guest kernel can", name)
	case documented:
		return name, k.Check(value)
	}
	return name, nil
}

func shortNames() []string {
	var out []string
	for _, k := range Knobs {
		out = append(out, ShortName(k.Name))
	}
	return out
}

// Versions says, in brackets, which Linux brought or removed a sysctl; "" where
// that is not known.
func Versions(name string) string {
	k, _ := FindKnob(name)
	switch {
	case k.Until != "":
		return " (Linux " + k.Until + " removed it)"
	case k.Since != "":
		return " (Linux " + k.Since + " brought it)"
	}
	return ""
}

// whyNot says more about a sysctl that the kernel does not have.
func whyNot(name string) string {
	if _, documented := FindKnob(name); documented {
		return Versions(name)
	}
	var names []string
	for _, k := range Knobs {
		names = append(names, k.Name)
	}
	return suggest.For(name, names)
}
