// Package scenarios turns a question into a plan of trials.
//
// A Scenario is read from YAML (Parse, or Find for the built-in library). It
// resolves once, with the user's overrides, into a Plan: one Trial for each
// variant and repetition, holding everything that a trial needs to know. The
// package runs nothing and judges nothing; it says what would be run
// (`twlab plan` prints that) and what is expected of it (Expectation).
package scenarios

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/server"
)

// A Scenario asks one question.
type Scenario struct {
	// Name is how `twlab run` calls it.
	Name string `yaml:"name" json:"name"`
	// Question is one line.
	Question string `yaml:"question" json:"question"`
	// Story says in plain words who does what and what should be seen.
	Story string `yaml:"story" json:"story"`
	// Needs names sysctls without which the question cannot be asked.
	Needs []string `yaml:"needs" json:"needs,omitempty"`
	// Parallel says that the trials count and do not time: they may run side
	// by side, each in a world of its own.
	Parallel bool `yaml:"parallel" json:"parallel,omitempty"`
	// Settings are what all variants share.
	Settings `yaml:",inline"`
	// Variants each change one thing. The first is the one others are
	// compared with.
	Variants []Variant `yaml:"-" json:"variants"`
	// Expect lists the claims that make the verdict.
	Expect []Expectation `yaml:"-" json:"expect,omitempty"`
	// Columns are the metrics that a text report shows where the variants are
	// too many to stand side by side; none: those that tell most.
	Columns []string `yaml:"columns" json:"columns,omitempty"`
	// Answer is the sentence that the figures make, with metrics in braces:
	// "left {keepalive.client.time_wait.end} sockets".
	Answer string `yaml:"answer" json:"answer,omitempty"`
	// SysctlFile is a sysctl.conf: the variants are run before, with each of its
	// lines alone, and with all of them.
	SysctlFile string `yaml:"sysctl_file" json:"sysctl_file,omitempty"`
	// SysctlLines are what was read from it.
	SysctlLines []lab.SysctlLine `yaml:"-" json:"sysctl_lines,omitempty"`
	kinds       []Variant        // as they were before that
	// Notes say what was changed of files that the user gave.
	Notes []string `yaml:"-" json:"notes,omitempty"`
}

// A Variant is the scenario's settings with an overlay.
type Variant struct {
	Name     string `json:"name"`
	Settings `json:"settings"`
	// Baseline is the variant that this one is compared with; "": the first.
	Baseline string `json:"baseline,omitempty"`
	// Line is the number of the SysctlFile's line that is tried; AllLines for all.
	Line   int      `json:"line,omitempty"`
	varies []string // paths that the overlay names
}

// Settings are what a trial runs under.
type Settings struct {
	// Link is veth or veth6 (each host a stack of its own), loopback or
	// loopback6 (one stack).
	Link lab.Link `yaml:"link" json:"link"`
	// Proxy is a program between client and server.
	Proxy Program `yaml:"proxy" json:"proxy,omitzero"`
	// Traffic is what client and server do.
	Traffic Traffic `yaml:"traffic" json:"traffic"`
	// Population are sockets that are brought to states before the traffic, and
	// held there: TIME_WAIT=1000,CLOSE_WAIT=5.
	Population Population `yaml:"population" json:"population,omitempty"`
	// Hold is how long the world is watched after the load.
	Hold Duration `yaml:"hold" json:"hold"`
	// Sysctls are set on every stack of the trial before any socket exists.
	Sysctls map[string]string `yaml:"sysctls" json:"sysctls,omitempty"`
	// Try are sysctls that the kernel may refuse, set on every stack after Sysctls.
	Try []lab.SysctlLine `yaml:"-" json:"try,omitempty"`
	// HoldSysctls are set on every stack as the hold begins.
	HoldSysctls map[string]string `yaml:"hold_sysctls" json:"hold_sysctls,omitempty"`
}

// Traffic is what client and server do. The load ends when Count requests were
// started or Duration is over.
type Traffic struct {
	// Engine is raw, nethttp (Go's net/http) or sql (Go's database/sql).
	Engine   Engine   `yaml:"engine" json:"engine,omitempty"`
	Count    int64    `yaml:"count" json:"count"`       // requests; 0: as many as Duration allows
	Rate     Rate     `yaml:"rate" json:"rate"`         // requests/s of an open loop; 0: a closed loop
	RampTo   Rate     `yaml:"ramp_to" json:"ramp_to"`   // the rate rises or falls evenly to this until Count, or Duration, is reached; 0: it stays
	Duration Duration `yaml:"duration" json:"duration"` // 0: ten times what Count takes at Rate, at least a minute
	// ConnectionRate is Rate in connections/s: times requests_per_connection.
	ConnectionRate Rate `yaml:"connection_rate" json:"connection_rate"`
	// Concurrency is the most requests under way at a time, and the size of a
	// keepalive pool.
	Concurrency int `yaml:"concurrency" json:"concurrency"`
	// Keepalive sends the requests over a pool of Concurrency connections,
	// filled first, used in turn, closed when the load ends.
	Keepalive bool `yaml:"keepalive" json:"keepalive"`
	// RequestsPerConnection ends a kept connection after so many requests, by
	// the side that Close names; 0: no limit.
	RequestsPerConnection int64 `yaml:"requests_per_connection" json:"requests_per_connection"`
	// Close says who closes a connection first.
	Close Close `yaml:"close" json:"close"`
	// HalfClose makes the client close by half (shutdown) and keep the socket.
	HalfClose bool `yaml:"half_close" json:"half_close"`
	// ServerForgets is the share of connections, in percent, that the server
	// does not close after the client has.
	ServerForgets int `yaml:"server_forgets" json:"server_forgets"`
	// Silent connections are begun before the load and never answer the server's
	// SYN+ACK: each takes a place in its SYN queue.
	Silent int `yaml:"silent" json:"silent,omitempty"`
	// Slow is the number of the first connections whose client answers the
	// server's second SYN+ACK only, a second late.
	Slow int64 `yaml:"slow" json:"slow,omitempty"`
	// Timeout bounds a request, connect included.
	Timeout Duration `yaml:"timeout" json:"timeout,omitempty"`
	// Backlog is the server's, of listen().
	Backlog int `yaml:"backlog" json:"backlog,omitempty"`
	// AcceptAfter is how long the server waits, from its start, before it accepts a
	// connection.
	AcceptAfter Duration `yaml:"accept_after" json:"accept_after,omitempty"`
	// CloseAfter is how long the server waits, in CLOSE_WAIT, before it closes a
	// connection that the client has closed.
	CloseAfter Duration `yaml:"close_after" json:"close_after,omitempty"`
	// Body is the size of an answer's body.
	Body Bytes `yaml:"body" json:"body"`
	// Destinations is the number of server addresses. auto takes the fewest
	// with which no address sees more connections within one TIME_WAIT life
	// than half the client's port range, in whichever variant makes the most.
	Destinations Destinations `yaml:"destinations" json:"destinations"`
	// Sources is the number of client addresses that are bound in turn; 0: the
	// kernel chooses one.
	Sources int `yaml:"sources" json:"sources"`
	// Bind says when a bound source gets its port: late, by connect() for each
	// destination (IP_BIND_ADDRESS_NO_PORT), or early, by bind() for all at once.
	Bind Bind `yaml:"bind" json:"bind"`
	// Port is where the server listens.
	Port uint16 `yaml:"port" json:"port"`
	// Listen says whether the server listens with SO_REUSEADDR: reuse_address,
	// as servers do, or plain.
	Listen Listening `yaml:"listen" json:"listen,omitempty"`
	// Restart makes the server listen anew when the load is over,
	// reuse_address or plain, as a restarted one does; until it can, it tries
	// again.
	Restart Listening `yaml:"restart" json:"restart,omitempty"`
	// ClientPort is the port that all connections come from; 0: the kernel
	// chooses. It needs Sources.
	ClientPort uint16 `yaml:"client_port" json:"client_port,omitempty"`
	// ClientReuseAddress sets SO_REUSEADDR on a client's socket before it is
	// bound to ClientPort.
	ClientReuseAddress bool `yaml:"client_reuse_address" json:"client_reuse_address,omitempty"`
	Stdlib             `yaml:",inline"`
}

// defaults are what a scenario need not say.
func defaults() Settings {
	return Settings{Link: lab.Veth, Traffic: Traffic{Concurrency: 16, Close: CloseClient, Bind: BindLate, Port: 8080, Body: 6, Backlog: 4096, Timeout: requestTimeout}, Hold: Duration(time.Second)}
}

// Bounds of what a scenario may ask: request loops end, in count and in time.
const (
	maxCount       = 100_000_000
	maxDuration    = Duration(24 * time.Hour)
	maxConcurrency = 1_000_000
)

// maxSilent is more than any SYN queue of the lab holds; maxAcceptAfter leaves
// time for the requests that wait.
const (
	maxSilent      = 10_000
	maxAcceptAfter = Duration(20 * time.Second)
)

// maxCloseAfter leaves time for the trial to settle after the load.
const maxCloseAfter = Duration(4 * time.Second)

// validate says what is wrong, and with which path.
func (s Settings) validate() (path string, err error) {
	t := s.Traffic
	switch {
	case checkLink(s.Link) != nil:
		return "link", checkLink(s.Link)
	case t.Count < 0 || t.Count > maxCount:
		return "traffic.count", fmt.Errorf("traffic.count %d is not between 0 and %d", t.Count, maxCount)
	case t.Duration > maxDuration:
		return "traffic.duration", fmt.Errorf("traffic.duration %s is above %s", t.Duration, maxDuration)
	case s.Hold > maxDuration:
		return "hold", fmt.Errorf("hold %s is above %s", s.Hold, maxDuration)
	case t.Count == 0 && t.Duration == 0 && s.Population.Total() == 0:
		return "traffic.count", fmt.Errorf("traffic has no end: give traffic.count or traffic.duration")
	case t.Concurrency < 1 || t.Concurrency > maxConcurrency:
		return "traffic.concurrency", fmt.Errorf("traffic.concurrency %d is not between 1 and %d", t.Concurrency, maxConcurrency)
	}
	for _, c := range []struct {
		path  string
		wrong bool
		why   string
	}{
		{"traffic.rate", t.Rate > 0 && t.ConnectionRate > 0, "traffic.rate and traffic.connection_rate say the same: give one"},
		{"traffic.connection_rate", t.ConnectionRate > 0 && t.Keepalive && t.RequestsPerConnection == 0, "traffic.connection_rate with keepalive needs traffic.requests_per_connection"},
		{"traffic.ramp_to", t.RampTo > 0 && t.rate() == 0, "traffic.ramp_to needs traffic.rate to begin with"},
		{"traffic.requests_per_connection", t.RequestsPerConnection < 0, "traffic.requests_per_connection must not be negative"},
		{"traffic.requests_per_connection", t.RequestsPerConnection > 0 && !t.Keepalive, "traffic.requests_per_connection needs traffic.keepalive"},
		{"traffic.requests_per_connection", t.RequestsPerConnection > 0 && t.Close == CloseBoth, "traffic.requests_per_connection needs one side that closes: client, server, reset or server_reset"},
		{"traffic.keepalive", t.Keepalive && (t.Close == CloseUnread || t.Close == CloseLateReset), fmt.Sprintf("traffic.keepalive does not go with traffic.close: %s", t.Close)},
		{"traffic.client_port", t.ClientPort > 0 && t.Sources == 0, "traffic.client_port needs traffic.sources: at least 1"},
		{"traffic.client_reuse_address", t.ClientReuseAddress && t.ClientPort == 0, "traffic.client_reuse_address needs traffic.client_port"},
		{"traffic.half_close", t.HalfClose && t.Close != CloseClient, "traffic.half_close needs traffic.close: client"},
		{"traffic.server_forgets", t.ServerForgets < 0 || t.ServerForgets > 100, "traffic.server_forgets is a share from 0 to 100 percent"},
		{"traffic.server_forgets", t.ServerForgets > 0 && t.Close != CloseClient, "traffic.server_forgets needs traffic.close: client"},
		{"traffic.close_after", t.CloseAfter > 0 && t.Close != CloseClient, "traffic.close_after needs traffic.close: client"},
		{"traffic.close_after", t.CloseAfter > maxCloseAfter, fmt.Sprintf("traffic.close_after %s is above %s", t.CloseAfter, maxCloseAfter)},
		{"traffic.silent", t.Silent < 0 || t.Silent > maxSilent, fmt.Sprintf("traffic.silent is from 0 to %d", maxSilent)},
		{"traffic.silent", t.Silent > 0 && s.Proxy.runs(), "traffic.silent needs client and server face to face, without a proxy"},
		{"traffic.slow", t.Slow < 0, "traffic.slow must not be negative"},
		{"traffic.timeout", t.Timeout == 0 || t.Timeout > maxDuration, fmt.Sprintf("traffic.timeout is above 0 and at most %s", maxDuration)},
		{"traffic.backlog", t.Backlog < 1, "traffic.backlog must be at least 1"},
		{"traffic.accept_after", t.AcceptAfter > maxAcceptAfter, fmt.Sprintf("traffic.accept_after %s is above %s", t.AcceptAfter, maxAcceptAfter)},
		{"traffic.sources", t.Sources < 0 || t.Sources > lab.MaxAddresses, fmt.Sprintf("traffic.sources is from 0 to %d", lab.MaxAddresses)},
		{"traffic.bind", t.Bind == BindEarly && t.Sources == 0, "traffic.bind: early needs traffic.sources: at least 1"},
		{"traffic.port", s.Population != nil && int(t.Port)+len(doors) > 65535, fmt.Sprintf("traffic.port with a population is from 1 to %d", 65535-len(doors))},
		{"traffic.port", t.Port == 0, "traffic.port is from 1 to 65535"},
	} {
		if c.wrong {
			return c.path, errors.New(c.why)
		}
	}
	for path, sysctls := range map[string]map[string]string{"sysctls": s.Sysctls, "hold_sysctls": s.HoldSysctls} {
		for name, value := range sysctls {
			full, err := lab.CheckSysctl(name, value)
			if err != nil {
				return path, err
			}
			if full != name {
				delete(sysctls, name)
				sysctls[full] = value
			}
		}
	}
	if path, err := s.checkProxy(); err != nil {
		return path, err
	}
	if path, err := s.checkEngine(); err != nil {
		return path, err
	}
	if err := s.checkPopulation(); err != nil {
		return "population", err
	}
	return "", nil
}

// rate is requests a second; 0 for a closed loop.
func (t Traffic) rate() float64 {
	if t.ConnectionRate > 0 {
		return float64(t.ConnectionRate) * float64(max(1, t.RequestsPerConnection))
	}
	return float64(t.Rate)
}

// meanRate is rate() over the load, ramp included.
func (t Traffic) meanRate() float64 {
	if t.RampTo > 0 {
		return (t.rate() + float64(t.RampTo)) / 2
	}
	return t.rate()
}

// loads says whether there is a load.
func (t Traffic) loads() bool { return t.Count > 0 || t.Duration > 0 }

// duration bounds the load in time.
func (t Traffic) duration() time.Duration {
	if t.Duration > 0 {
		return time.Duration(t.Duration)
	}
	return max(time.Minute, 10*t.expected())
}

// closedLoopRate is about what one client and one server make on a small
// machine, in connections or requests a second; fastestLoop is more than was
// ever seen. Only forecasts use them.
const (
	closedLoopRate = 30_000
	fastestLoop    = 100_000
)

// closedLoopRate is about how many requests a second a closed loop makes.
func (t Traffic) closedLoopRate() float64 {
	if c := time.Duration(t.Rest + t.AnswerAfter); c > 0 { // what a worker waits for each
		return min(closedLoopRate, float64(t.Concurrency)/c.Seconds())
	}
	return closedLoopRate
}

// expected is how long the load will take.
func (t Traffic) expected() time.Duration {
	rate := t.meanRate()
	if rate == 0 {
		rate = t.closedLoopRate()
	}
	byCount := time.Duration(float64(t.Count) / rate * 1e9)
	if t.Count == 0 || t.Duration > 0 && byCount > time.Duration(t.Duration) {
		return time.Duration(t.Duration)
	}
	return byCount
}

// requests is how many the load will make.
func (t Traffic) requests() int64 {
	rate := t.meanRate()
	if rate == 0 {
		rate = t.closedLoopRate()
	}
	n := int64(rate * t.expected().Seconds())
	if t.Count > 0 && (n > t.Count || t.rate() == 0 && t.Duration == 0) {
		return t.Count
	}
	return n
}

// connections is how many the load will open.
func (t Traffic) connections() int64 {
	n := t.requests()
	switch k := t.RequestsPerConnection; {
	case t.UsesStdlib(): // the library decides
		return n
	case t.Keepalive && k > 0: // each of the pool's connections may be cut off early
		return min(n, (n+k-1)/k+int64(t.Concurrency))
	case t.Keepalive:
		return min(n, int64(t.Concurrency))
	}
	return n
}

// timeWaitLife is TCP_TIMEWAIT_LEN (include/net/tcp.h, 60 s) and the most that
// the kernel's timer wheel was seen to add.
const timeWaitLife = 62100 * time.Millisecond

// destinations is the fewest server addresses with which none sees more
// connections within a TIME_WAIT life than half the port range.
func (s Settings) destinations() int {
	t := s.Traffic
	n := t.connections()
	switch took := min(t.duration(), timeWaitLife); {
	case t.Keepalive, !t.loads():
	case t.rate() == 0: // nobody knows how fast it will be
		n = int64(fastestLoop * took.Seconds())
	default:
		n = int64(max(t.rate(), float64(t.RampTo)) * took.Seconds())
	}
	if t.Count > 0 {
		n = min(n, t.Count)
	}
	n += int64(s.Population.Total())
	half := max(1, s.PortRange()/2*int64(max(1, t.Sources)))
	return int(min(lab.MaxAddresses, max(1, (n+half-1)/half)))
}

// PortRange is the number of ports that connect() chooses from: those of the
// range that are not reserved.
func (s Settings) PortRange() int64 {
	low, high := int64(32768), int64(60999) // net/ipv4/af_inet.c, inet_init_net
	var l, h int64
	if _, err := fmt.Sscan(s.Sysctls["net.ipv4.ip_local_port_range"], &l, &h); err == nil && h >= l {
		low, high = l, h
	}
	n := high - low + 1
	for part := range strings.SplitSeq(s.Sysctls["net.ipv4.ip_local_reserved_ports"], ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseInt(from, 10, 32)
		b, err2 := strconv.ParseInt(to, 10, 32)
		if err1 == nil && err2 == nil {
			n -= max(0, min(b, high)-max(a, low)+1)
		}
	}
	return max(1, n)
}

// requestTimeout bounds one request where nothing else is said. It is longer than the kernel's first
// five retransmissions of a SYN take together.
const requestTimeout = Duration(40 * time.Second)

// World lays out the trial's stacks and says what each host on them does.
func (t Trial) World() (lab.World, client.Options, server.Options, error) {
	tr := t.Settings.Traffic
	w, err := lab.NewWorld(t.Settings.Link, max(1, tr.Sources), t.Destinations, t.Settings.Sysctls)
	if err != nil {
		return w, client.Options{}, server.Options{}, err
	}
	for i := range w.Stacks {
		w.Stacks[i].Try = t.Settings.Try
	}
	if t.Settings.Proxy.runs() {
		if w, err = w.WithProxy(); err != nil {
			return w, client.Options{}, server.Options{}, err
		}
	}
	c := client.Options{
		Count: tr.Count, Rate: tr.rate(), RampTo: float64(tr.RampTo), Duration: tr.duration(), Concurrency: tr.Concurrency,
		Keepalive: tr.Keepalive, HalfClose: tr.HalfClose, EarlyPort: tr.Bind == BindEarly, Timeout: time.Duration(tr.Timeout),
		Slow: tr.Slow,
		Port: tr.ClientPort, ReuseAddress: tr.ClientReuseAddress,
	}
	s := server.Options{
		Backlog: tr.Backlog, Forgets: tr.ServerForgets, Body: int(tr.Body), Exclusive: tr.Listen == ListenPlain, Restart: server.Restarting(tr.Restart),
	}
	if tr.Sources > 0 {
		c.Sources = w.Clients
	}
	for _, a := range w.Servers {
		c.Destinations = append(c.Destinations, netip.AddrPortFrom(a, tr.Port))
	}
	dests := c.Destinations
	if t.Settings.Proxy.runs() {
		c.Destinations = []netip.AddrPort{netip.AddrPortFrom(lab.Via, t.Settings.Proxy.Port)}
	}
	switch {
	case t.Settings.Link.Shared(): // it may be the machine's own: never beyond loopback
		s.Listen = dests
	case t.Settings.Link.IPv6():
		s.Listen = []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), tr.Port)}
	default:
		s.Listen = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), tr.Port)}
	}
	c.Stdlib, s.Stdlib = t.Settings.stdlibOptions()
	s.CloseAfter, s.AcceptAfter, c.Silent = time.Duration(tr.CloseAfter), time.Duration(tr.AcceptAfter), tr.Silent
	c.Refilled = t.Settings.Refilled()
	c.Held, s.Doors = t.Settings.hold(w.Servers, s.Listen[0].Addr())
	if !tr.loads() {
		c.Duration = 0
	}
	switch tr.Close {
	case CloseClient:
		c.Closing, s.Closing = client.First, server.Last
	case CloseReset:
		c.Closing, s.Closing = client.Reset, server.Last
	case CloseServer:
		c.Closing, s.Closing = client.Last, server.First
	case CloseBoth:
		c.Closing, s.Closing = client.Both, server.Both
	case CloseServerReset:
		c.Closing, s.Closing = client.Last, server.Reset
	case CloseUnread:
		c.Closing, s.Closing = client.Unread, server.Last
	case CloseLateReset:
		c.Closing, s.Closing = client.First, server.Late
	}
	if tr.Close == CloseServer || tr.Close == CloseServerReset {
		s.PerConnection = tr.RequestsPerConnection
	} else {
		c.PerConnection = tr.RequestsPerConnection
	}
	return w, c, s, nil
}

// Flat returns all settings that have a value as text, by their paths, as
// records write them.
func (s Settings) Flat() map[string]string {
	out := map[string]string{}
	b, err := json.Marshal(s)
	if err != nil {
		return out
	}
	var tree map[string]any
	if json.Unmarshal(b, &tree) == nil {
		flatten(tree, "", out)
	}
	out["traffic.engine"] = s.Traffic.Engine.String() // the zero one has a name
	return out
}

// A Variation is a setting in which variants differ.
type Variation struct {
	Path   string
	Values []string // of the variants in their order; "" where it is not set
}

// Variations lists them by path, a proxy's whole files left out.
func (s *Scenario) Variations() []Variation {
	settings := make([]map[string]string, len(s.Variants))
	paths := map[string]bool{}
	for i, v := range s.Variants {
		settings[i] = v.Flat()
		for path := range settings[i] {
			paths[path] = !strings.HasPrefix(path, "proxy.") || strings.HasPrefix(path, "proxy.set.")
		}
	}
	var out []Variation
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		v := Variation{Path: path}
		for _, set := range settings {
			v.Values = append(v.Values, set[path])
		}
		if paths[path] && slices.ContainsFunc(v.Values, func(value string) bool { return value != v.Values[0] }) {
			out = append(out, v)
		}
	}
	return out
}

func flatten(tree map[string]any, prefix string, into map[string]string) {
	for k, v := range tree {
		if sub, ok := v.(map[string]any); ok {
			flatten(sub, prefix+k+".", into)
			continue
		}
		into[prefix+k] = fmt.Sprint(v)
	}
}
