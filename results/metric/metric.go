// Package metric is the table of metrics: what each is called, its unit, which
// way is better, whether it is exact. How a metric is taken from a record
// stands in package results; what is asked of it, in package scenarios.
package metric

import (
	"regexp"
	"slices"
	"strings"
)

// A Direction says which way of a metric is the better one.
type Direction string

// The directions. Neither is for metrics that are neither good nor bad.
const (
	Lower   Direction = "lower"
	Higher  Direction = "higher"
	Neither Direction = ""
)

// A Def describes a metric, or a family of metrics: HOST stands for the name
// of a host or of a shared stack, ERRNO for the name of an error.
type Def struct {
	Name   string
	Unit   string // "sockets", "connections", "requests", "errors", "ratio", "s"
	Better Direction
	// Exact metrics count events that the traffic alone decides: one trial
	// tells, and any difference is a difference.
	Exact bool
	Doc   string
}

// States are the TCP states as metrics spell them, in the order of a report.
var States = []string{
	"time_wait", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "close_wait", "last_ack", "closing", "close", "listen",
}

// Table lists all metrics in the order of a report.
var Table = table()

func table() []Def {
	t := []Def{
		{"client.connections.opened", "connections", Lower, true, "connect() calls that succeeded"},
		{"server.connections.accepted", "connections", Lower, true, "connections that accept() returned"},
		{"client.requests.ok", "requests", Higher, true, "requests answered with 200"},
		{"client.requests.failed", "requests", Lower, true, "requests that ended without a whole answer"},
		{"client.requests.late", "requests", Lower, false, "requests of an open loop that started more than 1 ms after they were due"},
		{"client.reuse_ratio", "ratio", Higher, true, "requests on a reused connection / requests"},
		{"client.requests.rate", "requests/s", Higher, false, "requests answered, over the time of the load"},
		{"client.connect.p50", "s", Lower, false, "median time from connect() to an open connection"},
		{"client.connect.p99", "s", Lower, false, "time from connect() to an open connection that 99 of 100 stay below"},
		{"client.population.missing", "sockets", Lower, true, "sockets of the population that are not there, or too many, at the end of the hold"},
		{"client.errors.ERRNO", "errors", Lower, true, "failures with this errno, or EOF where the peer closed too early"},
	}
	for _, s := range States {
		better := Lower
		if s == "established" || s == "listen" {
			better = Neither
		}
		name := strings.ToUpper(s)
		t = append(t,
			Def{"HOST." + s + ".peak", "sockets", better, false, "most sockets seen in " + name + " during load and hold"},
			Def{"HOST." + s + ".mean", "sockets", better, false, "sockets in " + name + " during load and hold, weighted by time"},
			Def{"HOST." + s + ".end", "sockets", better, false, "sockets in " + name + " at the end of the hold"},
		)
		if s == "time_wait" || s == "fin_wait2" {
			t = append(t, Def{
				"HOST." + s + ".life", "s", Neither, false,
				"how long a burst of sockets stayed in " + name + ": from the rise past half of its peak to the fall below it; absent while they are there",
			})
		}
	}
	const both = "TIME_WAIT and orphan FIN_WAIT2 together, as the kernel counts them: "
	return append(t,
		Def{"HOST.timewait_socks.births", "sockets", Lower, true, both + "entered"},
		Def{"HOST.timewait_socks.deaths", "sockets", Neither, false, both + "left, by age or by being replaced"},
		Def{"HOST.timewait_socks.recycled", "sockets", Neither, false, both + "ports taken over by connect() (tcp_tw_reuse)"},
		Def{"HOST.timewait_socks.refused", "sockets", Lower, true, both + "turned away by tcp_max_tw_buckets"},
		Def{"HOST.cpu", "s", Lower, false, "CPU time of the host's driver, user and system"},
		Def{"HOST.sampler.cpu", "s", Lower, false, "CPU time of the sampling process"},
	)
}

var (
	hostName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	errnoName = regexp.MustCompile(`^E[A-Z0-9]+$`)
)

// Lookup returns the definition behind a metric's full name.
func Lookup(name string) (Def, bool) {
	if rest, ok := strings.CutPrefix(name, "client.errors."); ok && errnoName.MatchString(rest) {
		name = "client.errors.ERRNO"
	}
	host, rest, ok := strings.Cut(name, ".")
	if !ok || !hostName.MatchString(host) {
		return Def{}, false
	}
	i := slices.IndexFunc(Table, func(d Def) bool { return d.Name == name || d.Name == "HOST."+rest })
	if i < 0 {
		return Def{}, false
	}
	return Table[i], true
}
