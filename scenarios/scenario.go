// Package scenarios turns a question into a plan of trials.
//
// A Scenario is read from YAML (Parse, or Find for the built-in library). It
// resolves once, with the user's overrides, into a Plan: one Trial for each
// variant and repetition, holding everything that a trial needs to know. The
// package runs nothing and judges nothing; it says what would be run
// (`twlab plan` prints that) and what is expected of it (Expectation).
package scenarios

import (
	"fmt"
	"net/netip"
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
	// Settings are what all variants share.
	Settings `yaml:",inline"`
	// Variants each change one thing. The first is the one others are
	// compared with.
	Variants []Variant `yaml:"-" json:"variants"`
	// Expect lists the claims that make the verdict.
	Expect []Expectation `yaml:"-" json:"expect,omitempty"`
	// Answer is the sentence that the figures make, with metrics in braces:
	// "left {keepalive.client.time_wait.end} sockets".
	Answer string `yaml:"answer" json:"answer,omitempty"`
}

// A Variant is the scenario's settings with an overlay.
type Variant struct {
	Name     string `json:"name"`
	Settings `json:"settings"`
	varies   []string // paths that the overlay names
}

// Settings are what a trial runs under.
type Settings struct {
	// Link is veth (each host a stack of its own) or loopback (one stack).
	Link lab.Link `yaml:"link" json:"link"`
	// Traffic is what the client does.
	Traffic Traffic `yaml:"traffic" json:"traffic"`
	// Hold is how long the world is watched after the load.
	Hold Duration `yaml:"hold" json:"hold"`
	// Sysctls are set on every stack of the trial.
	Sysctls map[string]string `yaml:"sysctls" json:"sysctls,omitempty"`
}

// Traffic is what the client does. The load ends when Count requests were
// started or Duration is over.
type Traffic struct {
	Count    int64    `yaml:"count" json:"count"`       // requests; 0: as many as Duration allows
	Rate     Rate     `yaml:"rate" json:"rate"`         // requests/s of an open loop; 0: a closed loop
	Duration Duration `yaml:"duration" json:"duration"` // 0: ten times what Count takes at Rate, at least a minute
	// Concurrency is the most requests under way at a time, and the size of a
	// keepalive pool.
	Concurrency int `yaml:"concurrency" json:"concurrency"`
	// Keepalive sends the requests over a pool of Concurrency connections,
	// filled first, used in turn, closed when the load ends.
	Keepalive bool  `yaml:"keepalive" json:"keepalive"`
	Close     Close `yaml:"close" json:"close"`
	// Destinations is the number of server addresses. auto takes the fewest
	// with which no address sees more connections within one TIME_WAIT life
	// than half the client's port range, in whichever variant makes the most.
	Destinations Destinations `yaml:"destinations" json:"destinations"`
}

// defaults are what a scenario need not say.
func defaults() Settings {
	return Settings{Link: lab.Veth, Traffic: Traffic{Concurrency: 16, Close: CloseClient}, Hold: Duration(time.Second)}
}

// Bounds of what a scenario may ask: request loops end, in count and in time.
const (
	maxCount       = 100_000_000
	maxDuration    = Duration(24 * time.Hour)
	maxConcurrency = 1_000_000
)

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
	case t.Count == 0 && t.Duration == 0:
		return "traffic.count", fmt.Errorf("traffic has no end: give traffic.count or traffic.duration")
	case t.Concurrency < 1 || t.Concurrency > maxConcurrency:
		return "traffic.concurrency", fmt.Errorf("traffic.concurrency %d is not between 1 and %d", t.Concurrency, maxConcurrency)
	}
	for name := range s.Sysctls {
		if _, err := lab.SysctlPath(name); err != nil {
			return "sysctls", err
		}
	}
	return "", nil
}

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

// expected is how long the load will take.
func (t Traffic) expected() time.Duration {
	rate := float64(t.Rate)
	if rate == 0 {
		rate = closedLoopRate
	}
	byCount := time.Duration(float64(t.Count) / rate * 1e9)
	if t.Count == 0 || t.Duration > 0 && byCount > time.Duration(t.Duration) {
		return time.Duration(t.Duration)
	}
	return byCount
}

// requests is how many the load will make.
func (t Traffic) requests() int64 {
	rate := float64(t.Rate)
	if rate == 0 {
		rate = closedLoopRate
	}
	n := int64(rate * t.expected().Seconds())
	if t.Count > 0 && (n > t.Count || t.Rate == 0 && t.Duration == 0) {
		return t.Count
	}
	return n
}

// connections is how many the load will open.
func (t Traffic) connections() int64 {
	if t.Keepalive {
		return min(t.requests(), int64(t.Concurrency))
	}
	return t.requests()
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
	case t.Keepalive:
	case t.Rate == 0: // nobody knows how fast it will be
		n = int64(fastestLoop * took.Seconds())
	default:
		n = int64(float64(t.Rate) * took.Seconds())
	}
	if t.Count > 0 {
		n = min(n, t.Count)
	}
	half := max(1, s.portRange()/2)
	return int(min(lab.MaxDestinations, max(1, (n+half-1)/half)))
}

// portRange is the number of ports that connect() chooses from.
func (s Settings) portRange() int64 {
	var low, high int64
	if _, err := fmt.Sscan(s.Sysctls["net.ipv4.ip_local_port_range"], &low, &high); err == nil && high >= low {
		return high - low + 1
	}
	return 60999 - 32768 + 1 // net/ipv4/af_inet.c, inet_init_net
}

// requestTimeout bounds one request. It is longer than the kernel's first
// five retransmissions of a SYN take together.
const requestTimeout = 40 * time.Second

// ServerPort is where the lab's servers listen, below every port range that
// connect() chooses from by default.
const ServerPort = 8080

// World lays out the trial's stacks and what each host on them does.
func (t Trial) World() (lab.World, client.Options, server.Options, error) {
	w, addrs, err := lab.NewWorld(t.Settings.Link, t.Destinations, t.Settings.Sysctls)
	if err != nil {
		return w, client.Options{}, server.Options{}, err
	}
	tr := t.Settings.Traffic
	c := client.Options{
		Count: tr.Count, Rate: float64(tr.Rate), Duration: tr.duration(), Concurrency: tr.Concurrency, Keepalive: tr.Keepalive,
		Timeout: requestTimeout,
	}
	s := server.Options{Backlog: 4096}
	for _, a := range addrs {
		c.Destinations = append(c.Destinations, netip.AddrPortFrom(a, ServerPort))
	}
	s.Listen = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), ServerPort)}
	switch tr.Close {
	case CloseClient:
		c.Closing, s.Closing = client.First, server.Last
	case CloseReset:
		c.Closing, s.Closing = client.Reset, server.Last
	case CloseServer:
		c.Closing, s.Closing = client.Last, server.First
	case CloseBoth:
		c.Closing, s.Closing = client.Both, server.Both
	}
	return w, c, s, nil
}
