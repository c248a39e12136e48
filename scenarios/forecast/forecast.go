// Package forecast says in closed form what a trial should show: rate times
// life, ports, caps and reuse. It is the arithmetic that people do on paper,
// printed before a run and beside what was measured, so that either can catch
// the other's mistake.
//
// It forecasts what follows from the kernel's rules alone, and leaves out what
// depends on chance: how often a client picks a port again that the server
// still holds, or which connections of a pool are under way.
package forecast

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/scenarios"
)

// Life is how long TIME_WAIT lasts on average: TCP_TIMEWAIT_LEN of 60 s
// (include/net/tcp.h) and half of what the timer wheel adds, up to 2.1 s.
const Life = 61 * time.Second

// shortest and longest bound a life.
const (
	shortest = 60 * time.Second
	longest  = 62100 * time.Millisecond
)

// perPort is what looking at one taken port costs connect().
const perPort = 600 * time.Nanosecond

// Close is how far a count may be from its forecast and still agree.
const Close = 0.03

// A Forecast is what a trial should show.
type Forecast struct {
	// Figures are metrics by name; what cannot be foreseen is absent.
	Figures map[string]float64
	// Notes are sentences about what will be met.
	Notes []string
	// Cores is how many cores the trial keeps busy, on average.
	Cores float64
}

// Of forecasts a trial.
func Of(t scenarios.Trial) Forecast {
	m := newModel(t)
	c := t.Cost()
	f := Forecast{Figures: map[string]float64{}, Cores: c.CPU.Seconds() / c.Wall.Seconds()}
	if tr := t.Settings.Traffic; tr.Silent > 0 || tr.Slow > 0 || len(t.Settings.Try) > 0 {
		return f // what queues, and sysctls that may be refused, do is the question
	}
	if t.Settings.Traffic.UsesStdlib() {
		return f // what the library does is the question
	}
	if p := t.Settings.Population; p.Total() > 0 { // it is what was asked for, and traffic only adds
		for _, held := range p {
			if m.requests == 0 {
				f.Figures[held.Host()+"."+held.State.Key()+".end"] = float64(held.N)
				if held.State == measure.TimeWait {
					f.Figures["client.time_wait.peak"] = float64(held.N)
				}
			}
		}
		return f
	}
	opened, known := m.opened()
	if !known {
		return f
	}
	// A connect() that fails has looked at every port.
	if m.holdsPorts() {
		f.Cores += (m.requests - opened) * m.ports * perPort.Seconds() / c.Wall.Seconds()
	}
	f.Figures["client.connections.opened"] = opened
	short := "EADDRNOTAVAIL"
	if t.Settings.Traffic.Bind == scenarios.BindEarly {
		short = "EADDRINUSE"
	}
	if !t.Settings.Traffic.Keepalive {
		if m.load < shortest.Seconds() || m.requests == opened { // else a small difference of large numbers
			f.Figures["client.errors."+short] = m.requests - opened
		}
		if m.requests > opened {
			f.Notes = append(f.Notes, fmt.Sprintf("the ports are enough for %.0f of %.0f connections; the rest meets %s", opened, m.requests, short))
		}
	}
	m.timewait(opened, f.Figures)
	if per := opened / m.tuples * m.ports; m.holdsPorts() && m.ports > 10_000 && per > m.ports/2 {
		f.Notes = append(f.Notes, fmt.Sprintf("%.0f connections to each destination pass half of the %.0f ports: connect() will take milliseconds",
			per, m.ports))
	}
	return f
}

// model holds what the arithmetic needs. Times are in seconds.
type model struct {
	scenarios.Traffic
	requests, load, hold float64
	ports, tuples        float64 // of one address pair; of all together
	cycle                float64 // until a port can be used again
	buckets              float64
	finTimeout           float64
	forgotten            float64 // share of connections that the server never closes
	short                bool    // nothing dies of age before the trial ends
}

func newModel(t scenarios.Trial) model {
	c, tr := t.Cost(), t.Settings.Traffic
	m := model{
		Traffic: tr, requests: float64(c.Requests), hold: time.Duration(t.Settings.Hold).Seconds(),
		ports: float64(t.Settings.PortRange()), cycle: Life.Seconds(), forgotten: float64(tr.ServerForgets) / 100,
	}
	m.load = (c.Wall - scenarios.StartAndStop).Seconds() - m.hold
	m.tuples = m.ports * float64(max(1, tr.Sources))
	if tr.Bind != scenarios.BindEarly {
		m.tuples *= float64(t.Destinations)
	}
	number := func(name string, otherwise float64) float64 {
		if v, err := strconv.ParseFloat(t.Settings.Sysctls[name], 64); err == nil {
			return v
		}
		return otherwise
	}
	pinned, _ := strconv.ParseFloat(lab.Pinned["net.ipv4.tcp_max_tw_buckets"], 64)
	m.buckets = number("net.ipv4.tcp_max_tw_buckets", pinned)
	m.finTimeout = number("net.ipv4.tcp_fin_timeout", 60)
	reuse := number("net.ipv4.tcp_tw_reuse", 2)
	loopback := t.Settings.Link == lab.Loopback || t.Settings.Link == lab.Loopback6 && t.Destinations == 1
	if number("net.ipv4.tcp_timestamps", 1) != 0 && (reuse == 1 || reuse == 2 && loopback) {
		m.cycle = number("net.ipv4.tcp_tw_reuse_delay", 1000) / 1000
	}
	if m.forgotten == 1 && !tr.HalfClose {
		m.cycle = m.finWait2Life() // no connection gets to TIME_WAIT
	}
	m.short = m.load+m.hold < shortest.Seconds()
	return m
}

// holdsPorts says whether closed connections keep the client's ports.
func (m model) holdsPorts() bool {
	return !m.Keepalive && (m.Close == scenarios.CloseClient || m.Close == scenarios.CloseBoth)
}

// opened is the number of connections. A port can be used once in a cycle; the
// connections that come after all are used fail.
func (m model) opened() (n float64, known bool) {
	k := float64(m.RequestsPerConnection)
	switch {
	case m.ClientPort > 0: // one port for all
		return 0, false
	case m.Keepalive && k == 1:
		return m.requests, true
	case m.Keepalive && k > 1: // a pool's connections share the requests evenly
		full := math.Floor(m.requests / k)
		if pool := float64(m.Concurrency); full > pool {
			return full + pool/2, full > 16*pool // the last ones may be cut off anywhere
		}
		return 0, false
	case m.Keepalive:
		return min(m.requests, float64(m.Concurrency)), true
	case !m.holdsPorts():
		return m.requests, true
	case m.buckets < m.tuples: // what is refused TIME_WAIT frees its port at once
		return m.requests, m.short
	}
	rate := m.requests / max(m.load, 1e-6)
	if rate*m.cycle <= m.tuples || m.requests <= m.tuples {
		return m.requests, true
	}
	if m.RampTo > 0 && m.load > m.cycle {
		return 0, false
	}
	cycles := math.Floor(m.load / m.cycle)
	return min(m.requests, cycles*m.tuples+min(m.tuples, (m.load-cycles*m.cycle)*rate)), true
}

// timewait adds what the sides hold.
func (m model) timewait(opened float64, out map[string]float64) {
	holder, other := "client", "server"
	switch m.Close {
	case scenarios.CloseServer:
		holder, other = other, holder
	case scenarios.CloseReset, scenarios.CloseServerReset, scenarios.CloseUnread:
		out["client.time_wait.peak"], out["server.time_wait.peak"] = 0, 0
		return
	case scenarios.CloseBoth, scenarios.CloseLateReset:
		return
	}
	out[other+".time_wait.peak"] = 0
	if holder == "server" && (!m.Keepalive || m.RequestsPerConnection > 0) {
		return // a port that the client picks again takes the old one's place
	}
	if rate := m.requests / max(m.load, 1e-6); m.holdsPorts() && m.cycle < shortest.Seconds() && m.load > m.cycle && rate*m.cycle < 0.97*m.tuples {
		return // some ports are used again and again, others not at all
	}
	closed := opened * (1 - m.forgotten)
	held := closed
	if m.load > shortest.Seconds() && !m.Keepalive { // rate times life
		held = min(closed, closed/m.load*Life.Seconds())
	}
	if m.holdsPorts() {
		held = min(held, m.tuples*(1-m.forgotten))
	}
	out[holder+".time_wait.peak"] = min(held, m.buckets)
	if m.short {
		out[holder+".time_wait.end"] = min(held, m.buckets)
	}
	if m.hold > longest.Seconds() && m.load < 5 {
		out[holder+".time_wait.life"] = Life.Seconds()
		out[holder+".time_wait.end"] = 0
	}
	if m.forgotten == 0 || m.HalfClose {
		return
	}
	life := m.finWait2Life()
	if m.load < life {
		out["client.fin_wait2.peak"] = opened * m.forgotten
	}
	if m.hold > life+1 {
		out["client.fin_wait2.life"] = life
	}
}

// finWait2Life is how long a FIN_WAIT2 socket without an owner lives, in s.
func (m model) finWait2Life() float64 {
	switch {
	case m.finTimeout > 60:
		return 2 * (m.finTimeout - 60) // net/ipv4/tcp_input.c: a full socket, then a minisock, each for what exceeds 60
	case m.finTimeout == 60:
		return Life.Seconds()
	}
	return m.finTimeout
}
