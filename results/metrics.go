package results

import (
	"math"
	"regexp"
	"strconv"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results/metric"
)

// Metrics takes all metrics from a record. What could not be read is absent.
// client.errors.ERRNO is there for the errors that happened, client.ended.CAUSE for the causes.
func (r *Record) Metrics() map[string]float64 {
	m := map[string]float64{}
	c := r.Client
	m["client.connections.opened"] = float64(c.Opened)
	m["server.connections.accepted"] = float64(r.Server.Accepted)
	m["client.requests.ok"] = float64(c.OK)
	m["client.requests.failed"] = float64(c.Failed)
	m["client.requests.late"] = float64(c.Late)
	if c.Started > 0 {
		m["client.requests.failed_per_10000"] = 1e4 * float64(c.Failed) / float64(c.Started)
	}
	if sent := c.Fresh + c.Reused; sent > 0 {
		m["client.reuse_ratio"] = float64(c.Reused) / float64(sent)
	}
	if took := float64(c.End-c.Begin) / 1e9; took > 0 {
		m["client.requests.rate"] = float64(c.OK) / took
	}
	latencies(c, m)
	if r.Trial.Settings.Traffic.UsesStdlib() {
		m["client.requests.stale"] = float64(c.Stale)
		for why, n := range c.Ended {
			m["client.ended."+string(why)] = float64(n)
		}
	}
	if r.Trial.Settings.Traffic.Protocol.TLS() {
		m["client.tls.handshakes"], m["client.tls.resumed"] = float64(c.Handshakes), float64(c.Resumed)
	}
	if n := r.Server.Reused; n != nil && r.Server.Requests > 0 {
		m["server.reuse_ratio"] = float64(*n) / float64(r.Server.Requests)
	}
	if d := r.Server.Drained; d != nil {
		m["server.drain.burst"] = float64(d.Burst)
	}
	m["client.closed.first"], m["client.closed.last"], m["client.closed.reset"] = float64(c.ClosedFirst), float64(c.ClosedLast), float64(c.ClosedReset)
	m["server.closed.first"], m["server.closed.last"], m["server.closed.reset"] = float64(r.Server.ClosedFirst), float64(r.Server.ClosedLast), float64(r.Server.ClosedReset)
	for _, e := range c.Errors {
		m["client.errors."+e.Errno] += float64(e.Count)
	}
	if r.Server.BytesSent > 0 {
		m["server.bytes.sent"], m["client.bytes.received"] = float64(r.Server.BytesSent), float64(c.BytesReceived)
		m["client.bytes.lost"] = float64(r.Server.BytesSent - c.BytesReceived)
	}
	if s := r.Server.Restart; s != nil {
		m["server.restart.tries"] = float64(s.Tries)
		if s.Done {
			m["server.restart.took"] = float64(s.Took) / 1e9
		}
	}
	m["client.cpu"] = float64(c.CPU) / 1e9
	m["server.cpu"] = float64(r.Server.CPU) / 1e9
	if p := r.Proxy; p != nil {
		m[lab.ProxyHost+".cpu"] = float64(p.CPU) / 1e9
		for name, n := range p.Log {
			m[lab.ProxyHost+".log."+name] = float64(n)
		}
		if v, ok := versionNumber(p.Version); ok {
			m[lab.ProxyHost+".version"] = v
		}
	}
	for i := range r.Stacks {
		r.Stacks[i].metrics(m)
	}
	r.population(m)
	return m
}

// latencies adds the percentiles of what a client timed.
func latencies(c client.Stats, m map[string]float64) {
	for name, l := range map[string]*client.Latency{"connect": c.Connect, "tls": c.TLS, "first_byte": c.FirstByte, "latency": c.Whole} {
		if l == nil {
			continue
		}
		m["client."+name+".p50"], m["client."+name+".p99"] = float64(l.P50)/1e9, float64(l.P99)/1e9
		if name == "latency" {
			m["client.latency.p90"], m["client.latency.p999"] = float64(l.P90)/1e9, float64(l.P999)/1e9
		}
	}
}

var threeNumbers = regexp.MustCompile(`(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?`)

// versionNumber reads 1.22.1 out of "nginx version: nginx/1.22.1" as 1022001.
func versionNumber(text string) (float64, bool) {
	parts := threeNumbers.FindStringSubmatch(text)
	if parts == nil {
		return 0, false
	}
	v := 0.0
	for _, part := range parts[1:] {
		n, _ := strconv.Atoi(part) // "" is 0
		v = v*1000 + float64(n)
	}
	return v, true
}

// population adds how far the end of the hold is from the population that was
// asked for. Traffic beside it makes that unknowable, and so it is absent.
func (r *Record) population(m map[string]float64) {
	set := r.Trial.Settings
	if len(set.Population) == 0 || set.Traffic.Count > 0 || set.Traffic.Duration > 0 {
		return
	}
	missing := 0.0
	for _, want := range set.Population {
		unowned := want.State == measure.Listen || want.State == measure.Close
		if unowned && set.Link.Shared() || want.State == measure.Close && m["client.close.peak"] == 0 {
			continue // nobody can tell whose they are, or that they are there
		}
		got, ok := m[want.Host()+"."+want.State.Key()+".end"]
		if !ok {
			return
		}
		missing += math.Abs(float64(want.N) - got)
	}
	m["client.population.missing"] = missing
}

func (s *Stack) metrics(m map[string]float64) {
	m[s.Name+".sampler.cpu"] = float64(s.Sampler.CPU) / 1e9
	if len(s.Snapshots) == 0 {
		return
	}
	first, last := s.Snapshots[0].Counters, s.Snapshots[len(s.Snapshots)-1].Counters
	delta := func(name string) (float64, bool) {
		a, ok1 := first[name]
		b, ok2 := last[name]
		return float64(b - a), ok1 && ok2
	}
	if v, ok := delta(measure.ActiveOpens); ok {
		m[s.Name+".entries."+measure.SynSent.Key()] = v
	}
	if s.Transitions != nil {
		s.entries(m)
	}
	for _, c := range metric.Counters {
		if v, ok := delta(c.Counter); ok {
			m[s.Name+"."+c.Name] = v
		}
	}
	t := s.Name + ".timewait_socks."
	if v, ok := delta(measure.TimewaitRecycled); ok {
		m[t+"recycled"] = v
	}
	if v, ok := delta(measure.TimewaitRefused); ok {
		m[t+"refused"] = v
	}
	long, ok1 := delta(measure.TimewaitBorn)
	short, ok2 := delta(measure.TimewaitBornShort)
	if ok1 && ok2 {
		m[t+"births"] = long + short
		if alive, ok := delta(measure.TimewaitAlive); ok {
			m[t+"deaths"] = long + short - alive
		}
	}
	for _, host := range s.Hosts {
		for _, state := range measure.States {
			curve := s.curve(host, state)
			if c := summarize(curve); c.known {
				key := host + "." + state.Key()
				m[key+".peak"], m[key+".mean"], m[key+".end"] = c.peak, c.mean, c.end
				if life, ok := life(curve, c.peak); ok && (state == measure.TimeWait || state == measure.FinWait2) {
					m[key+".life"] = life
				}
			}
		}
	}
}

// entries counts how often a state was entered. The tracepoint does not show
// that a socket goes to TIME_WAIT, which is left to counters, and shows SYN_RECV
// only where the handshake was completed.
func (s *Stack) entries(m map[string]float64) {
	for _, state := range measure.States {
		if state == measure.TimeWait {
			continue
		}
		n := int64(0)
		for _, t := range s.Transitions {
			if t.To == state {
				n += t.N
			}
		}
		m[s.Name+".entries."+state.Key()] = float64(n)
	}
}

// A Point is the number of sockets at a time.
type Point struct {
	At int64 // ns since the trial's start
	N  float64
}

// curve is the number of a host's sockets in a state over load and hold. It
// has a point for each dump. TIME_WAIT has one for each reading of counters
// too, where the host has its stack for itself: sockstat's tw, less the
// FIN_WAIT2 minisocks among them, where the dumps before and after agree on
// how many those are.
func (s *Stack) curve(host string, state measure.State) []Point {
	var out, between []Point
	alone := len(s.Hosts) == 1 && s.Name != lab.SharedStack
	minisocks := -1 // no dump yet
	for _, snap := range s.Snapshots {
		at := (snap.Begin + snap.End) / 2
		if snap.Sockets != nil {
			if snap.Minisocks == minisocks {
				out = append(out, between...)
			}
			between, minisocks = nil, snap.Minisocks
			out = append(out, Point{at, float64(snap.Sockets.Host(host)[state])})
			continue
		}
		if tw, ok := snap.Counters[measure.TimewaitAlive]; ok && alone && minisocks >= 0 && state == measure.TimeWait {
			between = append(between, Point{at, float64(max(0, tw-int64(minisocks)))})
		}
	}
	return out
}

type summary struct {
	peak, mean, end float64
	known           bool
}

// summarize weighs each stretch between two points with the mean of both.
func summarize(p []Point) summary {
	if len(p) == 0 {
		return summary{}
	}
	s := summary{peak: p[0].N, mean: p[0].N, end: p[len(p)-1].N, known: true}
	area := 0.0
	for i := 1; i < len(p); i++ {
		s.peak = max(s.peak, p[i].N)
		area += (p[i].N + p[i-1].N) / 2 * float64(p[i].At-p[i-1].At)
	}
	if span := p[len(p)-1].At - p[0].At; span > 0 {
		s.mean = area / float64(span)
	}
	return s
}

// life is the time, in seconds, between the rise past half of the peak and the
// fall below it, each placed between the two points around it.
func life(p []Point, peak float64) (float64, bool) {
	half := peak / 2
	rise, fall := -1.0, -1.0
	cross := func(a, b Point) float64 { return float64(a.At) + float64(b.At-a.At)*(half-a.N)/(b.N-a.N) }
	for i := 1; i < len(p) && peak > 0; i++ {
		switch {
		case rise < 0 && p[i-1].N < half && p[i].N >= half:
			rise = cross(p[i-1], p[i])
		case rise >= 0 && p[i-1].N >= half && p[i].N < half:
			fall = cross(p[i-1], p[i])
		}
	}
	if rise < 0 || fall < rise || p[len(p)-1].N >= half {
		return 0, false
	}
	return (fall - rise) / 1e9, true
}
