package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
)

// A Rate is a number of requests a second, written "500/s" or "500". Zero is
// a closed loop.
type Rate float64

// MarshalText writes "500/s".
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r Rate) String() string { return strconv.FormatFloat(float64(r), 'f', -1, 64) + "/s" }

// UnmarshalText reads what MarshalText writes; the "/s" may be left out.
func (r *Rate) UnmarshalText(b []byte) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(string(b), "/s")), 64)
	if err != nil || v < 0 || v > 1e7 {
		return fmt.Errorf("%q is not a rate: write requests a second, such as 500/s", b)
	}
	*r = Rate(v)
	return nil
}

// A Duration is written as Go writes it: "1m30s", "250ms".
type Duration time.Duration

// MarshalText writes "250ms".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d Duration) String() string { return time.Duration(d).String() }

// UnmarshalText reads what MarshalText writes.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration: write it such as 250ms, 10s or 1m30s", b)
	}
	*d = Duration(v)
	return nil
}

// Destinations is a number of server addresses; zero is written "auto".
type Destinations int

// MarshalText writes "auto" or the number.
func (d Destinations) MarshalText() ([]byte, error) {
	if d == 0 {
		return []byte("auto"), nil
	}
	return []byte(strconv.Itoa(int(d))), nil
}

// UnmarshalText reads what MarshalText writes.
func (d *Destinations) UnmarshalText(b []byte) error {
	if string(b) == "auto" {
		*d = 0
		return nil
	}
	n, err := strconv.Atoi(string(b))
	if err != nil || n < 1 || n > lab.MaxAddresses {
		return fmt.Errorf("%q destinations: write auto or a number from 1 to %d", b, lab.MaxAddresses)
	}
	*d = Destinations(n)
	return nil
}

// A Close says who closes a connection first.
type Close string

// The orders of closing.
const (
	CloseClient Close = "client" // the client, once it has the answer
	CloseServer Close = "server" // the server, once it has answered
	CloseBoth   Close = "both"   // both at once: neither has seen the other's FIN
	CloseReset  Close = "reset"  // the client, with SO_LINGER 0: RST, no FIN
	// The server, with SO_LINGER 0, as soon as its kernel has the answer.
	CloseServerReset Close = "server_reset"
	// The client, as soon as the answer begins to arrive, without reading it.
	CloseUnread Close = "unread"
	// The client; a RST of the server follows when the load is over, and meets
	// TIME_WAIT.
	CloseLateReset Close = "late_reset"
)

func join[T ~string](list []T) string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}

var closings = []Close{CloseClient, CloseServer, CloseBoth, CloseReset, CloseServerReset, CloseUnread, CloseLateReset}

// UnmarshalText accepts these orders.
func (c *Close) UnmarshalText(b []byte) error {
	if !slices.Contains(closings, Close(b)) {
		return fmt.Errorf("%q does not say who closes: write one of %s", b, join(closings))
	}
	*c = Close(b)
	return nil
}

// Listening says whether a server listens with SO_REUSEADDR.
type Listening string

// The ways of listening. For a first start "" is ListenReusing, for a restart
// it is none.
const (
	ListenReusing Listening = "reuse_address"
	ListenPlain   Listening = "plain"
)

// UnmarshalText accepts both ways, and nothing.
func (l *Listening) UnmarshalText(b []byte) error {
	switch v := Listening(b); v {
	case "", ListenReusing, ListenPlain:
		*l = v
		return nil
	}
	return fmt.Errorf("%q does not say how to listen: write reuse_address or plain", b)
}

// Bytes is a size, written "100", "64KiB" or "1MiB".
type Bytes int

var units = []struct {
	name string
	size int
}{{"MiB", 1 << 20}, {"KiB", 1 << 10}}

// MarshalText writes the largest unit that is exact.
func (n Bytes) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func (n Bytes) String() string {
	for _, u := range units {
		if n > 0 && int(n)%u.size == 0 {
			return strconv.Itoa(int(n)/u.size) + u.name
		}
	}
	return strconv.Itoa(int(n))
}

// UnmarshalText reads what MarshalText writes.
func (n *Bytes) UnmarshalText(b []byte) error {
	text, size := string(b), 1
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			text, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 0 || v > maxBody/size {
		return fmt.Errorf("%q is not a size: write such as 100, 64KiB or 1MiB, at most %s", b, Bytes(maxBody))
	}
	*n = Bytes(v * size)
	return nil
}

// maxBody is the largest answer.
const maxBody = 64 << 20

// A Bind says when a bound source address gets its port.
type Bind string

// The ways of binding.
const (
	BindLate  Bind = "late"
	BindEarly Bind = "early"
)

// UnmarshalText accepts both, and nothing for late, as in records from before
// there was a choice.
func (b *Bind) UnmarshalText(text []byte) error {
	switch v := Bind(text); v {
	case "":
		*b = BindLate
		return nil
	case BindLate, BindEarly:
		*b = v
		return nil
	}
	return fmt.Errorf("%q does not say when the port is chosen: write late or early", text)
}

// A Population asks for numbers of sockets in states: "TIME_WAIT=1000,
// CLOSE_WAIT=5". All are the client's, but those in SYN_RECV, which are the
// server's, each with an ESTABLISHED one at the client.
type Population []Members

// Members is one state of a Population.
type Members struct {
	State measure.State
	N     int
}

// MarshalText writes "TIME_WAIT=1000,CLOSE_WAIT=5".
func (p Population) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p Population) String() string {
	var parts []string
	for _, m := range p {
		parts = append(parts, fmt.Sprintf("%s=%d", m.State, m.N))
	}
	return strings.Join(parts, ",")
}

// UnmarshalText reads what MarshalText writes, and any other spelling of the states.
func (p *Population) UnmarshalText(b []byte) error {
	*p = nil
	for part := range strings.SplitSeq(string(b), ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, number, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if !ok || err != nil || n < 0 {
			return fmt.Errorf("%q is no population: write such as TIME_WAIT=1000,CLOSE_WAIT=5", strings.TrimSpace(part))
		}
		e, known := measure.Explain(strings.TrimSpace(name))
		if !known {
			var names []string
			for _, s := range measure.States {
				names = append(names, s.String())
			}
			return fmt.Errorf("population: no TCP state is called %s%s", name, suggest.For(strings.ToUpper(name), names))
		}
		if p.Of(e.State) > 0 {
			return fmt.Errorf("population: %s stands there twice", e.State)
		}
		*p = append(*p, Members{e.State, n})
	}
	return nil
}

// Of returns how many sockets of a state are asked for.
func (p Population) Of(s measure.State) int {
	for _, m := range p {
		if m.State == s {
			return m.N
		}
	}
	return 0
}

// Total returns the number of sockets asked for.
func (p Population) Total() int {
	n := 0
	for _, m := range p {
		n += m.N
	}
	return n
}

// Host says on which host a population's state is.
func (m Members) Host() string {
	if m.State == measure.SynRecv {
		return "server"
	}
	return "client"
}

func checkLink(l lab.Link) error {
	if slices.Contains(lab.Links, l) {
		return nil
	}
	return fmt.Errorf("link %q is none of %v", l, lab.Links)
}
