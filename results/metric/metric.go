// Package metric is the table of metrics: what each is called, its unit, which
// way is better, whether it is exact. How a metric is taken from a record
// stands in package results; what is asked of it, in package scenarios.
package metric

import (
	"cmp"
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
	// Quiet metrics stand in a text report only where the scenario speaks of them.
	Quiet bool
}

// States are the TCP states as metrics spell them, in the order of a report.
var States = []string{
	"time_wait", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "close_wait", "last_ack", "closing", "close", "listen",
}

// Causes are why connections of the engines nethttp and sql end, as metrics spell them.
var Causes = []string{"load_over", "client_closed", "pool_full", "body_unread", "no_keepalive", "client_idle", "server_closed", "broken", "never_used"}

// FromZero says whether a metric belongs to a family whose members are zero where nobody speaks of them.
func FromZero(name string) bool {
	return strings.HasPrefix(name, "client.errors.") || strings.HasPrefix(name, "client.ended.")
}

// Names lists the metrics of the usual hosts, families left out.
func Names() []string {
	var out []string
	for _, d := range Table {
		if _, ok := d.Family(); ok {
			continue
		}
		if rest, ok := strings.CutPrefix(d.Name, "HOST."); ok {
			out = append(out, "client."+rest, "server."+rest)
		} else {
			out = append(out, d.Name)
		}
	}
	return out
}

// Sort sorts names by host, client and server first, then in the order of the
// table.
func Sort(names []string) []string {
	place := func(name string) (host int, hostName string, row int) {
		hostName, rest, _ := strings.Cut(name, ".")
		host = slices.Index([]string{"client", "server"}, hostName)
		if host < 0 {
			host = 2
		}
		row = slices.IndexFunc(Table, func(d Def) bool {
			family, ok := d.Family()
			return d.Name == name || d.Name == "HOST."+rest || ok && strings.HasPrefix(name, family)
		})
		return host, hostName, row
	}
	slices.SortFunc(names, func(a, b string) int {
		ha, na, ra := place(a)
		hb, nb, rb := place(b)
		return cmp.Or(cmp.Compare(ha, hb), cmp.Compare(na, nb), cmp.Compare(ra, rb), cmp.Compare(a, b))
	})
	return names
}

// Family returns what the names of a family of metrics begin with.
func (d Def) Family() (prefix string, ok bool) {
	for _, last := range []string{"ERRNO", "NAME", "CAUSE"} {
		if prefix, ok := strings.CutSuffix(d.Name, last); ok {
			return prefix, true
		}
	}
	return "", false
}

// A Counter is a metric of a stack that is the growth of one kernel counter
// over load and hold.
type Counter struct {
	Name    string // without the stack's
	Counter string // as measure.Counters spells it
	Unit    string
	Better  Direction
	Doc     string
}

// Counters lists them in the order of a report.
var Counters = []Counter{
	{"segments.sent", "Tcp.OutSegs", "segments", Neither, "TCP segments sent, without retransmitted ones"},
	{"segments.retransmitted", "Tcp.RetransSegs", "segments", Lower, "TCP segments sent again"},
	{"resets.sent", "Tcp.OutRsts", "segments", Lower, "RST segments sent"},
	{"connections.reset", "Tcp.EstabResets", "connections", Lower, "connections that went from ESTABLISHED or CLOSE_WAIT to CLOSE at once"},
	{"listener.overflows", "TcpExt.ListenOverflows", "connections", Lower, "connections that found a listener's accept queue full"},
	{"listener.drops", "TcpExt.ListenDrops", "segments", Lower, "SYNs and last ACKs of handshakes that a listener dropped, for whatever reason"},
	{"syn_queue.dropped", "TcpExt.TCPReqQFullDrop", "segments", Lower, "SYNs dropped because a SYN queue was full and cookies were off"},
	{"syn_queue.cookies", "TcpExt.TCPReqQFullDoCookies", "segments", Neither, "SYNs answered by a cookie because a SYN queue was full"},
	{"syncookies.sent", "TcpExt.SyncookiesSent", "segments", Neither, "SYNs answered by a cookie"},
	{"syncookies.received", "TcpExt.SyncookiesRecv", "segments", Neither, "ACKs that brought a cookie back"},
}

// Table lists all metrics in the order of a report.
var Table = table()

func table() []Def {
	t := []Def{
		{"client.connections.opened", "connections", Lower, true, "connect() calls that succeeded", false},
		{"server.connections.accepted", "connections", Lower, true, "connections that accept() returned", false},
		{"client.requests.ok", "requests", Higher, true, "requests answered with 200", false},
		{"client.requests.failed", "requests", Lower, true, "requests that ended without a whole answer", false},
		{"client.requests.late", "requests", Lower, false, "requests of an open loop that started more than 1 ms after they were due", false},
		{"client.reuse_ratio", "ratio", Higher, true, "requests on a reused connection / requests", false},
		{"client.requests.rate", "requests/s", Higher, false, "requests answered, over the time of the load", false},
		{"client.requests.stale", "requests", Lower, false, "requests sent on a connection that the server had closed, or closed then: they failed, or net/http sent them again (engines nethttp and sql)", false},
		{"client.requests.failed_per_10000", "requests", Lower, false, "client.requests.failed, for 10,000 requests", true},
		{"client.ended.CAUSE", "connections", Neither, false, "connections that ended for this cause: load_over, client_closed (a client that was given up), pool_full, body_unread, no_keepalive, client_idle (its timeout), server_closed (while idle), broken (in the middle of a request), never_used (another took the request that it was opened for) (engines nethttp and sql)", false},
		{"client.tls.handshakes", "handshakes", Lower, false, "TLS handshakes that succeeded", false},
		{"client.tls.resumed", "handshakes", Higher, false, "TLS handshakes that took up a session again", false},
		{"client.tls.p50", "s", Lower, false, "median time of a TLS handshake", false},
		{"client.tls.p99", "s", Lower, false, "time of a TLS handshake that 99 of 100 stay below", true},
		{"client.connect.p50", "s", Lower, false, "median time from connect() to an open connection", false},
		{"client.connect.p99", "s", Lower, false, "time from connect() to an open connection that 99 of 100 stay below", false},
		{"client.first_byte.p50", "s", Lower, false, "median time until an answer begins, from when its request was due", true},
		{"client.first_byte.p99", "s", Lower, false, "time until an answer begins that 99 of 100 stay below", true},
		{"client.latency.p50", "s", Lower, false, "median time until an answer is whole, from when its request was due: waiting for a free connection, or for one's turn, counts", false},
		{"client.latency.p90", "s", Lower, false, "time until an answer is whole that 90 of 100 stay below", true},
		{"client.latency.p99", "s", Lower, false, "time until an answer is whole that 99 of 100 stay below", false},
		{"client.latency.p999", "s", Lower, false, "time until an answer is whole that 999 of 1,000 stay below", true},
		{"server.reuse_ratio", "ratio", Higher, true, "requests that came on a connection which had carried one / requests, as the server sees them", true},
		{"server.drain.burst", "connections", Lower, false, "most connections accepted within 100 ms from when a server was replaced", false},
		{"client.bytes.received", "B", Neither, true, "bytes of answers, heads included, that the client has read", true},
		{"server.bytes.sent", "B", Neither, true, "bytes of answers, heads included, that the server has handed to its kernel", true},
		{"client.bytes.lost", "B", Lower, false, "server.bytes.sent less client.bytes.received: sent, and never read", true},
		{"server.restart.tries", "tries", Lower, false, "how often a restarted server called bind(), a tenth of a second apart, until it listened again or the trial ended", false},
		{"server.restart.took", "s", Lower, false, "from its first bind() until a restarted server listened again; absent where it never did", false},
		{"client.population.missing", "sockets", Lower, true, "sockets of the population that are not there, or too many, at the end of the hold", false},
		{"client.errors.ERRNO", "errors", Lower, true, "failures with this errno, with this status (HTTP_502), or EOF where the peer closed too early", false},
		{"proxy.version", "version", Neither, true, "of the program between client and server: 1.22.1 is 1022001", true},
		{"proxy.log.NAME", "lines", Lower, false, "lines of the program's output that match the scenario's pattern of that name", false},
	}
	for _, s := range States {
		better := Lower
		if s == "established" || s == "listen" {
			better = Neither
		}
		name := strings.ToUpper(s)
		t = append(t,
			Def{"HOST." + s + ".peak", "sockets", better, false, "most sockets seen in " + name + " during load and hold", false},
			Def{"HOST." + s + ".mean", "sockets", better, false, "sockets in " + name + " during load and hold, weighted by time", false},
			Def{"HOST." + s + ".end", "sockets", better, false, "sockets in " + name + " at the end of the hold", false},
		)
		if s == "time_wait" || s == "fin_wait2" {
			t = append(t, Def{
				"HOST." + s + ".life", "s", Neither, false,
				"how long a burst of sockets stayed in " + name + ": from the rise past half of its peak to the fall below it; absent while they are there", false,
			})
		}
	}
	for _, how := range []struct{ name, doc string }{
		{"first", "connections that the host closed before it had seen the other's FIN"},
		{"last", "connections that the host closed after it had seen the other's FIN"},
		{"reset", "connections that ended by RST"},
	} {
		t = append(t, Def{"HOST.closed." + how.name, "connections", Neither, false, how.doc, true})
	}
	const both = "TIME_WAIT and orphan FIN_WAIT2 together, as the kernel counts them: "
	for _, s := range States {
		t = append(t, Def{
			"HOST.entries." + s, "sockets", Neither, true, "sockets that entered " + strings.ToUpper(s) + ", each time counted; needs tracing, but for SYN_SENT (Tcp.ActiveOpens)", true,
		})
	}
	for _, c := range Counters {
		t = append(t, Def{"HOST." + c.Name, c.Unit, c.Better, false, c.Doc + " (" + c.Counter + ")", true})
	}
	return append(t,
		Def{"HOST.timewait_socks.births", "sockets", Lower, true, both + "entered", false},
		Def{"HOST.timewait_socks.deaths", "sockets", Neither, false, both + "left, by age or by being replaced", false},
		Def{"HOST.timewait_socks.recycled", "sockets", Neither, false, both + "ports taken over by connect() (tcp_tw_reuse)", false},
		Def{"HOST.timewait_socks.refused", "sockets", Lower, true, both + "turned away by tcp_max_tw_buckets", false},
		Def{"HOST.cpu", "s", Lower, false, "CPU time of the host's driver, user and system", false},
		Def{"HOST.sampler.cpu", "s", Lower, false, "CPU time of the sampling process", false},
	)
}

var (
	hostName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	errnoName = regexp.MustCompile(`^(E[A-Z0-9]+|HTTP_[1-5][0-9]{2})$`)
	logName   = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// Lookup returns the definition behind a metric's full name.
func Lookup(name string) (Def, bool) {
	if rest, ok := strings.CutPrefix(name, "client.errors."); ok && errnoName.MatchString(rest) {
		name = "client.errors.ERRNO"
	}
	if rest, ok := strings.CutPrefix(name, "proxy.log."); ok && logName.MatchString(rest) {
		name = "proxy.log.NAME"
	}
	if rest, ok := strings.CutPrefix(name, "client.ended."); ok && slices.Contains(Causes, rest) {
		name = "client.ended.CAUSE"
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
