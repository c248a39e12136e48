package scenarios

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/server"
)

// Stdlib are settings of traffic for the engines nethttp and sql, which use Go's standard library on
// both sides. What a setting leaves at zero is as the library has it.
type Stdlib struct {
	// Protocol is http1, https (HTTP/1.1 over TLS), h2 (HTTP/2 over TLS) or h2c (HTTP/2 without TLS).
	Protocol Protocol `yaml:"protocol" json:"protocol,omitempty"`
	// TLSResume lets the clients keep TLS sessions, and take them up again on new connections.
	TLSResume bool `yaml:"tls_resume" json:"tls_resume,omitempty"`
	// Method is get, post, post_key (with an Idempotency-Key) or post_stream (with a key, and a body that
	// cannot be sent again).
	Method Method `yaml:"method" json:"method,omitempty"`
	// Read says what the client does with an answer's body: all (reads it to the end and closes
	// it), decode (one value with json.Decoder, then close), close (closes it unread), never (neither).
	Read Reading `yaml:"read" json:"read,omitempty"`
	// Chunked sends bodies without a Content-Length. The chunk that ends a body comes 10 ms after its text, as where a
	// handler has still something to do.
	Chunked bool `yaml:"chunked" json:"chunked,omitempty"`
	// Pool is the most idle connections that a client keeps (MaxIdleConnsPerHost,
	// SetMaxIdleConns); 0: the library's own, 2.
	Pool int `yaml:"pool" json:"pool,omitempty"`
	// MaxConnections is the most connections that a client opens (MaxConnsPerHost,
	// SetMaxOpenConns); 0: no limit.
	MaxConnections int `yaml:"max_connections" json:"max_connections,omitempty"`
	// Clients is the number of clients (http.Client, sql.DB) that share the work; 0: one for all.
	Clients int `yaml:"clients" json:"clients,omitempty"`
	// RequestsPerClient gives a client up after so many requests, for a new one: 1 is a client per request; 0: never.
	RequestsPerClient int64 `yaml:"requests_per_client" json:"requests_per_client,omitempty"`
	// Abandon forgets to close the idle connections of clients that are given up.
	Abandon bool `yaml:"abandon" json:"abandon,omitempty"`
	// ClientIdle is how long the client keeps an idle connection (IdleConnTimeout,
	// SetConnMaxIdleTime); 0: for ever.
	ClientIdle Duration `yaml:"client_idle" json:"client_idle,omitempty"`
	// ServerIdle is how long the server does (http.Server.IdleTimeout); 0: for ever.
	ServerIdle Duration `yaml:"server_idle" json:"server_idle,omitempty"`
	// Burst starts as many requests as Concurrency together, and the next when all of them have ended.
	Burst bool `yaml:"burst" json:"burst,omitempty"`
	// Rest is the pause after a request, or a burst, before the next of the same worker; a worker's varies by half
	// of it.
	Rest Duration `yaml:"rest" json:"rest,omitempty"`
	// Seek moves each worker's rest, by a fifth of a millisecond a request, to the moment at which its idle connection
	// is closed, instead of varying it.
	Seek bool `yaml:"seek" json:"seek,omitempty"`
	// AnswerAfter is how long an answer takes.
	AnswerAfter Duration `yaml:"answer_after" json:"answer_after,omitempty"`
	// ServerDrops is the number of the request, on each connection, that the server reads and does not
	// answer: it closes instead, as when the request meets the end of an idle timeout.
	ServerDrops int64 `yaml:"server_drops" json:"server_drops,omitempty"`
	// Drain replaces the server by another one under load: abrupt (all connections are closed at once),
	// graceful (idle ones at once, others after their answer) or max_age (each after an answer that says
	// so, spread over DrainOver).
	Drain Drain `yaml:"drain" json:"drain,omitempty"`
	// DrainAfter is when, after the first connection.
	DrainAfter Duration `yaml:"drain_after" json:"drain_after,omitempty"`
	// DrainOver is over how long max_age spreads the ends of connections.
	DrainOver Duration `yaml:"drain_over" json:"drain_over,omitempty"`
}

// An Engine is what makes the traffic.
type Engine string

// The engines. The zero one is written "raw".
const (
	Raw     Engine = ""        // system calls, with an exact order of closing
	NetHTTP Engine = "nethttp" // net/http on both sides
	SQL     Engine = "sql"     // database/sql, and a server of sessions: login, queries, quit
)

// A Protocol is what the engine nethttp speaks.
type Protocol string

// The protocols.
const (
	HTTP1 Protocol = "http1"
	HTTPS Protocol = "https"
	HTTP2 Protocol = "h2"
	H2C   Protocol = "h2c"
)

// TLS says whether the protocol is encrypted.
func (p Protocol) TLS() bool { return p == HTTPS || p == HTTP2 }

// A Method is how a request is made.
type Method string

// A Reading is what a client does with a body.
type Reading string

// A Drain is how a server is replaced.
type Drain string

// What these settings may be.
var (
	engines   = []Engine{"raw", NetHTTP, SQL}
	protocols = []Protocol{HTTP1, HTTPS, HTTP2, H2C}
	methods   = []Method{client.Get, client.Post, client.PostKey, client.PostStream}
	readings  = []Reading{client.ReadAll, client.ReadJSON, client.ReadNothing, client.LeaveOpen}
	drains    = []Drain{Drain(server.Abrupt), Drain(server.Graceful), Drain(server.Aged)}
)

// oneOf reads a text that is one of a list.
func oneOf[T ~string](b []byte, into *T, list []T, what string) error {
	if !slices.Contains(list, T(b)) {
		return fmt.Errorf("%q is no %s: write one of %s", b, what, join(list))
	}
	*into = T(b)
	return nil
}

// UnmarshalText accepts the engines.
func (e *Engine) UnmarshalText(b []byte) error {
	err := oneOf(b, e, engines, "engine")
	if *e == engines[0] {
		*e = Raw
	}
	return err
}

func (e Engine) String() string {
	if e == Raw {
		return string(engines[0])
	}
	return string(e)
}

// UnmarshalText accepts the protocols.
func (p *Protocol) UnmarshalText(b []byte) error { return oneOf(b, p, protocols, "protocol") }

// UnmarshalText accepts the methods.
func (m *Method) UnmarshalText(b []byte) error { return oneOf(b, m, methods, "method") }

// UnmarshalText accepts the ways to read.
func (r *Reading) UnmarshalText(b []byte) error { return oneOf(b, r, readings, "way to read") }

// UnmarshalText accepts the ways to drain.
func (d *Drain) UnmarshalText(b []byte) error { return oneOf(b, d, drains, "way to drain") }

// UsesStdlib says whether the engine uses Go's standard library: then nothing that it counts is exact.
func (t Traffic) UsesStdlib() bool { return t.Engine == NetHTTP || t.Engine == SQL }

// named lists the settings of a struct that have a value, by their paths.
func named(v reflect.Value, prefix string) []string {
	var out []string
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ","); name != "" && !v.Field(i).IsZero() {
			out = append(out, prefix+name)
		}
	}
	return out
}

// checkEngine says which settings do not go with the engine.
func (s Settings) checkEngine() (path string, err error) {
	t := s.Traffic
	set := named(reflect.ValueOf(t.Stdlib), "traffic.")
	if !t.UsesStdlib() {
		if len(set) > 0 {
			return set[0], fmt.Errorf("%s needs traffic.engine: nethttp or sql", set[0])
		}
		if s.Link == lab.Unix {
			return "link", errors.New("link unix needs traffic.engine: nethttp or sql")
		}
		return "", nil
	}
	// What the raw engine alone can do must be as nobody had spoken of it.
	plain, other := defaults().Traffic, t
	other.Stdlib, plain.Engine = Stdlib{}, t.Engine
	plain.Count, plain.Rate, plain.RampTo, plain.Duration, plain.Concurrency, plain.Keepalive = t.Count, t.Rate, t.RampTo, t.Duration, t.Concurrency, t.Keepalive
	plain.Timeout, plain.Body, plain.Port, plain.Destinations = t.Timeout, t.Body, t.Port, t.Destinations
	a, b := reflect.ValueOf(other), reflect.ValueOf(plain)
	for i := range a.NumField() {
		if !a.Field(i).Equal(b.Field(i)) {
			path := "traffic." + a.Type().Field(i).Tag.Get("yaml")
			return path, fmt.Errorf("%s needs traffic.engine: raw", path)
		}
	}
	if t.Engine == SQL {
		for _, path := range set {
			switch path {
			case "traffic.protocol", "traffic.tls_resume", "traffic.method", "traffic.read", "traffic.chunked", "traffic.server_drops", "traffic.drain":
				return path, fmt.Errorf("%s needs traffic.engine: nethttp", path)
			}
		}
	}
	for _, c := range []struct {
		path  string
		wrong bool
		why   string
	}{
		{"population", s.Population != nil, "a population needs traffic.engine: raw"},
		{"link", s.Link == lab.Unix && t.Protocol != "" && t.Protocol != HTTP1, "link unix needs traffic.protocol: http1"},
		{"traffic.engine", t.Engine == SQL && s.Proxy.runs(), "traffic.engine: sql does not speak HTTP, which a proxy passes on"},
		{"traffic.protocol", s.Proxy.runs() && t.Protocol != "" && t.Protocol != HTTP1, "a proxy needs traffic.protocol: http1"},
		{"traffic.tls_resume", t.TLSResume && !t.Protocol.TLS(), "traffic.tls_resume needs traffic.protocol: https or h2"},
		{"traffic.destinations", t.Engine == SQL && t.Destinations > 1, "traffic.engine: sql goes to one destination"},
		{"traffic.pool", t.Pool < 0, "traffic.pool must not be negative"},
		{"traffic.pool", t.Pool > 0 && !t.Keepalive, "traffic.pool needs traffic.keepalive"},
		{"traffic.max_connections", t.MaxConnections < 0, "traffic.max_connections must not be negative"},
		{"traffic.clients", t.Clients < 0 || t.Clients > t.Concurrency, fmt.Sprintf("traffic.clients is from 0 to traffic.concurrency, %d", t.Concurrency)},
		{"traffic.requests_per_client", t.RequestsPerClient < 0, "traffic.requests_per_client must not be negative"},
		{"traffic.requests_per_client", t.RequestsPerClient > 0 && t.Clients > 0, "traffic.requests_per_client gives each worker clients of its own: leave traffic.clients out"},
		{"traffic.abandon", t.Abandon && t.RequestsPerClient == 0, "traffic.abandon needs traffic.requests_per_client"},
		{"traffic.burst", t.Burst && t.rate() > 0, "traffic.burst is a closed loop: leave traffic.rate out"},
		{"traffic.rest", t.Rest > 0 && t.rate() > 0, "traffic.rest is of a closed loop: leave traffic.rate out"},
		{"traffic.seek", t.Seek && t.Rest == 0, "traffic.seek needs traffic.rest to begin with"},
		{"traffic.server_drops", t.ServerDrops < 0, "traffic.server_drops must not be negative"},
		{"traffic.server_drops", t.ServerDrops > 0 && (t.Protocol == HTTP2 || t.Protocol == H2C), "traffic.server_drops needs HTTP/1.1: a connection of HTTP/2 carries other requests too"},
		{"traffic.drain", t.Drain != "" && (t.Protocol == HTTP2 || t.Protocol == H2C), "traffic.drain needs HTTP/1.1"},
		{"traffic.drain", t.Drain != "" && t.DrainAfter == 0, "traffic.drain needs traffic.drain_after"},
		{"traffic.drain_after", t.DrainAfter > 0 && t.Drain == "", "traffic.drain_after needs traffic.drain"},
		{"traffic.drain", t.Drain == Drain(server.Aged) && t.DrainOver == 0, "traffic.drain: max_age needs traffic.drain_over"},
		{"traffic.drain_over", t.DrainOver > 0 && t.Drain != Drain(server.Aged), "traffic.drain_over needs traffic.drain: max_age"},
		{"traffic.read", t.Read == client.ReadJSON && t.Body > 0 && t.Body < 3, "traffic.read: decode needs a traffic.body of 3 bytes or more, or none"},
	} {
		if c.wrong {
			return c.path, errors.New(c.why)
		}
	}
	return "", nil
}

// stdlibOptions says what both sides do.
func (s Settings) stdlibOptions() (client.Stdlib, server.Stdlib) {
	t := s.Traffic
	c := client.Stdlib{
		SQL: t.Engine == SQL, Protocol: string(t.Protocol), Resume: t.TLSResume, Method: string(t.Method), Read: string(t.Read),
		Pool: t.Pool, MaxConnections: t.MaxConnections, IdleTimeout: time.Duration(t.ClientIdle), PerClient: t.RequestsPerClient, Clients: t.Clients,
		Abandon: t.Abandon, Burst: t.Burst, Rest: time.Duration(t.Rest), Seek: t.Seek,
	}
	v := server.Stdlib{
		SQL: t.Engine == SQL, Protocol: string(t.Protocol), IdleTimeout: time.Duration(t.ServerIdle), AnswerAfter: time.Duration(t.AnswerAfter),
		Chunked: t.Chunked, Drops: t.ServerDrops,
		Drain: server.Drain{How: server.Draining(t.Drain), After: time.Duration(t.DrainAfter), Over: time.Duration(t.DrainOver)},
	}
	if s.Link == lab.Unix {
		c.Unix = fmt.Sprintf("@twlab-%d", t.Port)
		v.Unix = c.Unix
	}
	return c, v
}

// Leaves says whether the client plays a program that leaves connections open which nobody uses.
func (t Traffic) Leaves() bool {
	return client.Stdlib{Abandon: t.Abandon, Read: string(t.Read)}.Leaves()
}

// left is the most connections that the client leaves open.
func (t Traffic) left() int {
	if !t.Leaves() {
		return 0
	}
	return int(t.requests())
}

// Held is the most sockets that are kept open, or in TIME_WAIT, beside those under way.
func (s Settings) Held() int { return s.Population.Total() + s.Traffic.left() }
