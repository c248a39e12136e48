package scenarios

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/server"
)

const small = `name: small
question: Is it small?
traffic: {count: 100, concurrency: 4}
variants:
  - name: one
    traffic: {close: client}
  - name: two
    traffic: {close: server}
expect:
  - one.client.requests.ok == 100
answer: "{one.client.requests.ok} were answered"
`

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse("small.yaml", []byte(text), false)
	require.NoError(t, err)
	return s
}

func TestVariantsAreOverlays(t *testing.T) {
	s := parse(t, small)
	require.Equal(t, []string{"one", "two"}, s.VariantNames())
	require.Equal(t, CloseServer, s.Variants[1].Traffic.Close)
	require.Equal(t, 4, s.Variants[1].Traffic.Concurrency, "what the overlay does not name stays")
	require.Equal(t, lab.Veth, s.Variants[1].Link)
}

// Every mistake is one sentence with file and line, and says what would be right.
func TestMistakesAreToldWithTheirLine(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"concurrency: 4", "concurency: 4", `small.yaml:3: unknown key "concurency"; did you mean concurrency?`},
		{"question: ", "qestion: ", `small.yaml:2: unknown key "qestion"; did you mean question?`},
		{"{close: server}", "{clos: server}", `small.yaml:8: unknown key "clos"; did you mean close?`},
		{"close: server", "close: nobody", `small.yaml:8: "nobody" does not say who closes: write one of client, server, both, reset, server_reset, unread, late_reset`},
		{"count: 100", "count: many", `small.yaml:3: "many" stands where a whole number belongs`},
		{"count: 100", "count: 100, rate: fast", `small.yaml:3: "fast" is not a rate: write requests a second, such as 500/s`},
		{"count: 100", "count: 100, duration: 5", `small.yaml:3: "5" is not a duration: write it such as 250ms, 10s or 1m30s`},
		{"count: 100", "count: 100, destinations: 0", `small.yaml:3: "0" destinations: write auto or a number from 1 to 500`},
		{"count: 100", "count: 0", `small.yaml:3: variant one: traffic has no end: give traffic.count or traffic.duration`},
		{"concurrency: 4", "concurrency: 0", `small.yaml:3: variant one: traffic.concurrency 0 is not between 1 and 1000000`},
		{"{close: server}", "{close: server, concurrency: -1}", `small.yaml:8: variant two: traffic.concurrency -1 is not between 1 and 1000000`},
		{"traffic: {count: 100, concurrency: 4}", "traffic: 5", `small.yaml:3: "5" stands where keys with values belongs`},
		{"name: two", "name: one", `small.yaml:7: variant one stands here a second time`},
		{"name: two", "name: Two!", `small.yaml:7: variant's name "Two!": write small letters`},
		{"name: small", "name: Small", `small.yaml: name "Small": write small letters`},
		{"question: Is it small?", "link: wire\nquestion: q", `small.yaml:2: variant one: link "wire" is none of [veth veth6 loopback loopback6 unix]`},
		{"question: Is it small?", "sysctls: {kernel.panic: 1}\nquestion: q", `small.yaml:2: variant one: sysctl kernel.panic: only those under net. belong to a network namespace`},
		{"one.client.requests.ok == 100", "one.client.request.ok == 100", `small.yaml:10: expectation "one.client.request.ok == 100": no metric is called client.request.ok; did you mean client.requests.ok?`},
		{"one.client.requests.ok == 100", "on.client.requests.ok == 100", `small.yaml:10: expectation "on.client.requests.ok == 100": no variant is called on; did you mean one?`},
		{"one.client.requests.ok == 100", "one.client.requests.ok", `small.yaml:10: expectation "one.client.requests.ok": expected bool, but got float64`},
		{"one.client.requests.ok == 100", "1 == 1", `names no metric; write such as client.time_wait.peak <= 10`},
		{"{one.client.requests.ok}", "{client.requests.ok}", `small.yaml:11: answer: {client.requests.ok} does not say of which variant`},
		{"{one.client.requests.ok}", "{one.client.ok}", `small.yaml:11: answer: no metric is called client.ok`},
		{"count: 100", "count: 100, pool: 8", `small.yaml:3: variant one: traffic.pool needs traffic.engine: nethttp or sql`},
		{"count: 100", "count: 100, engine: curl", `small.yaml:3: "curl" is no engine: write one of raw, nethttp, sql`},
		{"{close: server}", "{close: server, engine: nethttp}", `small.yaml:8: variant two: traffic.close needs traffic.engine: raw`},
		{"count: 100", "count: 100, engine: sql, protocol: h2", `small.yaml:3: variant one: traffic.protocol needs traffic.engine: nethttp`},
		{"count: 100", "count: 100, engine: nethttp, rate: 5, burst: true", `small.yaml:3: variant one: traffic.burst is a closed loop: leave traffic.rate out`},
		{"count: 100", "count: 100, engine: nethttp, drain: abrupt", `small.yaml:3: variant one: traffic.drain needs traffic.drain_after`},
		{"question: ", "link: unix\nquestion: ", `small.yaml:2: variant one: link unix needs traffic.engine: nethttp or sql`},
		{"variants:\n", "variants: []\nvariant:\n", `small.yaml:5: unknown key "variant"; did you mean variants?`},
		{small, "", `small.yaml: no documents in stream`},
		{small, "- a\n", `small.yaml:1: a list stands where keys with values belongs`},
		{small, "a: [\n", `small.yaml:2: `},
	} {
		require.Contains(t, small, c.old)
		_, err := Parse("small.yaml", []byte(strings.Replace(small, c.old, c.new, 1)), false)
		require.ErrorContains(t, err, c.want, c.new)
	}
}

// The long form lies over the short one, and is checked with it.
func TestFullForm(t *testing.T) {
	long := small + "full:\n  hold: 70s\n  traffic: {count: 5}\n  variants: [{name: three}]\n  expect: [three.client.requests.ok == 5]\n  answer: fine\n"
	s, err := Parse("small.yaml", []byte(long), true)
	require.NoError(t, err)
	require.Equal(t, []string{"three"}, s.VariantNames())
	require.Equal(t, []int64{5, 4}, []int64{s.Variants[0].Traffic.Count, int64(s.Variants[0].Traffic.Concurrency)})
	require.Len(t, s.Expect, 1)
	require.Equal(t, []string{"one", "two"}, parse(t, long).VariantNames())
	_, err = Parse("small.yaml", []byte(strings.Replace(long, "ok == 5", "okay == 5", 1)), false)
	require.ErrorContains(t, err, "small.yaml:16: expectation")
}

func TestMatrix(t *testing.T) {
	text := "name: x\nquestion: q\ntraffic: {count: 5}\nmatrix:\n  tcp_tw_reuse: [0, 1]\n  link: [veth, loopback]\n  traffic.rate: [5/s, 10/s]\n" +
		"expect:\n  - \"tw_reuse_1-*-rate_5_s\": client.requests.ok == 5\n"
	s := parse(t, text)
	require.Len(t, s.Variants, 8)
	require.Equal(t, "tw_reuse_0-veth-rate_5_s", s.Variants[0].Name)
	v := s.Variants[7]
	require.Equal(t, "tw_reuse_1-loopback-rate_10_s", v.Name)
	require.Equal(t, "1", v.Sysctls["net.ipv4.tcp_tw_reuse"])
	require.Equal(t, lab.Loopback, v.Link)
	require.Equal(t, Rate(10), v.Traffic.Rate)
	met := map[string]bool{}
	s.Expect[0].Judge(s.VariantNames(), func(variant, _ string) (float64, bool) { met[variant] = true; return 5, true })
	require.Equal(t, map[string]bool{"tw_reuse_1-veth-rate_5_s": true, "tw_reuse_1-loopback-rate_5_s": true}, met)
	for _, c := range []struct{ old, new, want string }{
		{"[0, 1]", "1", "x.yaml:5: matrix: tcp_tw_reuse has no list of values: write such as [0, 1, 2]"},
		{"tcp_tw_reuse", "tcp_tw_reusse", "no sysctl is known as tcp_tw_reusse; did you mean tcp_tw_reuse?"},
		{"traffic.rate", "traffic.rat", "no setting is called traffic.rat; did you mean traffic.rate?"},
		{"[5/s, 10/s]", "[5/s, fast]", `traffic.rate: "fast" is not a rate`},
		{"[0, 1]", "[0, 9]", "net.ipv4.tcp_tw_reuse = 9: write a whole number from 0 to 2"},
		{"[veth, loopback]", "[veth, veth]", "stands there twice"},
	} {
		_, err := Parse("x.yaml", []byte(strings.Replace(text, c.old, c.new, 1)), false)
		require.ErrorContains(t, err, c.want)
	}
}

func TestAllMistakesOfTheReaderAreToldAtOnce(t *testing.T) {
	_, err := Parse("s.yaml", []byte("nam: x\nqestion: y\n"), false)
	require.EqualError(t, err, "s.yaml:1: unknown key \"nam\"; did you mean name?\ns.yaml:2: unknown key \"qestion\"; did you mean question?")
}

func TestOverrides(t *testing.T) {
	set := func(texts ...string) (*Plan, error) {
		var all []Override
		for _, s := range texts {
			o, err := ParseOverride(s)
			if err != nil {
				return nil, err
			}
			all = append(all, o)
		}
		return parse(t, small).Plan(Options{Set: all})
	}
	p, err := set("traffic.rate=500/s", "traffic.count=20", "traffic.duration=3s", "traffic.destinations=7", "link=loopback", "hold=2s", "traffic.keepalive=true")
	require.NoError(t, err)
	for _, tr := range p.Trials {
		require.Equal(t, Rate(500), tr.Settings.Traffic.Rate)
		require.Equal(t, int64(20), tr.Settings.Traffic.Count)
		require.Equal(t, Duration(3*time.Second), tr.Settings.Traffic.Duration)
		require.Equal(t, 7, tr.Destinations)
		require.Equal(t, lab.Loopback, tr.Settings.Link)
		require.Equal(t, Duration(2*time.Second), tr.Settings.Hold)
		require.True(t, tr.Settings.Traffic.Keepalive)
	}
	for text, want := range map[string]string{
		"traffic.rat=5":         "--set traffic.rat=5: no setting is called traffic.rat; did you mean traffic.rate?",
		"traffic.rate":          "--set traffic.rate: write path=value, such as traffic.rate=500/s",
		"traffic=5":             "no setting is called traffic",
		"traffic.rate=x":        `"x" is not a rate`,
		"traffic.count=x":       `"x" stands where a whole number belongs`,
		"link=wire":             `link "wire" is none of`,
		"traffic.concurrency=0": "traffic.concurrency 0 is not between",
		"traffic.close=both":    "--set traffic.close=both: variant one is about that very setting",
	} {
		_, err := set(text)
		require.ErrorContains(t, err, want)
	}
}

func TestPlanIsTheSameForASeedAndRunsOnlyWhatIsAsked(t *testing.T) {
	s, err := Find("keepalive", false)
	require.NoError(t, err)
	orders := map[string]bool{}
	for seed := range uint64(20) {
		a, err := s.Plan(Options{Seed: seed})
		require.NoError(t, err)
		b, err := s.Plan(Options{Seed: seed})
		require.NoError(t, err)
		require.Equal(t, a.Trials, b.Trials)
		order := ""
		for _, tr := range a.Trials {
			order += tr.Variant + " "
		}
		orders[order] = true
	}
	require.Greater(t, len(orders), 2, "the seed decides the order")

	p, err := s.Plan(Options{Only: []string{"keepalive"}})
	require.NoError(t, err)
	require.Len(t, p.Trials, 1)
	for _, e := range p.Scenario.Expect {
		require.NotContains(t, e.Text, "closes", "claims about variants that do not run are left out")
	}
	require.NotEmpty(t, p.Scenario.Expect)
	_, err = s.Plan(Options{Only: []string{"keepalife"}})
	require.EqualError(t, err, "scenario keepalive has no variant keepalife; did you mean keepalive?")
}

// No address may see more than half the port range within a TIME_WAIT life.
func TestAutoDestinations(t *testing.T) {
	for _, c := range []struct {
		traffic string
		sysctls string
		want    int
	}{
		{"{count: 8000, rate: 2000/s}", "", 1},
		{"{count: 14116}", "", 1},
		{"{count: 14117}", "", 2},
		{"{count: 20000}", "", 2},
		{"{rate: 1000/s, duration: 30s}", "", 3},
		{"{rate: 1000/s, duration: 10m}", "", 5}, // 62,100 within a life
		{"{count: 10000000, rate: 1000/s}", "", 5},
		{"{count: 20000, keepalive: true}", "", 1},
		{"{count: 100}", "{net.ipv4.ip_local_port_range: 40000 40099}", 2},
		{"{duration: 10m}", "", 440},
	} {
		text := "name: x\nquestion: q\ntraffic: " + c.traffic + "\nvariants: [{name: v}]\n"
		if c.sysctls != "" {
			text += "sysctls: " + c.sysctls + "\n"
		}
		p, err := parse(t, text).Plan(Options{})
		require.NoError(t, err)
		require.Equal(t, c.want, p.Trials[0].Destinations, text)
	}
}

func TestPortRange(t *testing.T) {
	for want, sysctls := range map[int64]map[string]string{
		28232: nil,
		100:   {"net.ipv4.ip_local_port_range": "40000 40099"},
		87:    {"net.ipv4.ip_local_port_range": "40000\t40099", "net.ipv4.ip_local_reserved_ports": "8080,40010-40019,40098-40200,40050"},
	} {
		require.Equal(t, want, Settings{Sysctls: sysctls}.PortRange())
	}
}

func TestOrderOfClosingReachesBothDrivers(t *testing.T) {
	for order, want := range map[Close]struct {
		c client.Closing
		s server.Closing
	}{
		CloseClient: {client.First, server.Last}, CloseServer: {client.Last, server.First},
		CloseBoth: {client.Both, server.Both}, CloseReset: {client.Reset, server.Last},
		CloseServerReset: {client.Last, server.Reset}, CloseUnread: {client.Unread, server.Last}, CloseLateReset: {client.First, server.Late},
	} {
		tr := Trial{Settings: defaults(), Destinations: 3}
		tr.Settings.Traffic.Close, tr.Settings.Traffic.Count = order, 10
		w, c, s, err := tr.World()
		require.NoError(t, err)
		require.NoError(t, c.Validate())
		require.NoError(t, s.Validate())
		require.Equal(t, want.c, c.Closing)
		require.Equal(t, want.s, s.Closing)
		require.Len(t, c.Destinations, 3)
		require.Len(t, w.Stacks, 2)
		require.Equal(t, "131072", w.Stacks[0].Sysctls["net.ipv4.tcp_max_tw_buckets"])
	}
}

func TestExpectations(t *testing.T) {
	s := parse(t, small)
	value := func(variant, name string) (float64, bool) {
		v, ok := map[string]float64{
			"one.client.requests.ok": 100, "two.client.requests.ok": 90, "one.server.time_wait.end": 0,
			"one.client.connections.opened": 16, "two.client.connections.opened": 16,
		}[variant+"."+name]
		return v, ok
	}
	for text, want := range map[string]string{
		"one.client.requests.ok == 100":                                   "",
		"client.requests.ok >= 90":                                        "",
		"client.requests.ok >= 95":                                        "two.client.requests.ok is 90",
		"one.client.requests.ok - two.client.requests.ok == 10":           "",
		"one.client.requests.ok > 200 || one.server.time_wait.end == 0":   "",
		"two.server.time_wait.end == 0":                                   "two.server.time_wait.end is absent",
		"client.requests.ok > client.connections.opened * 6":              "two.client.requests.ok is 90, two.client.connections.opened is 16",
		"one.client.requests.ok in 90..110":                               "",
		"abs(one.client.requests.ok - two.client.requests.ok) / 100 < .2": "",
	} {
		e, err := ParseExpectation(text, s.Variants)
		require.NoError(t, err, text)
		o := e.Judge(s.VariantNames(), value)
		require.Equal(t, want == "", o.Held, "%s: %s", text, o.Why)
		require.Equal(t, want, o.Why, text)
	}
}

func TestEveryBuiltInScenarioIsWhole(t *testing.T) {
	require.NotEmpty(t, Names())
	for _, name := range Names() {
		for _, full := range []bool{false, true} {
			s, err := Find(name, full)
			require.NoError(t, err)
			require.Equal(t, name, s.Name)
			require.NotEmpty(t, s.Story)
			require.NotEmpty(t, s.Answer)
			require.NotEmpty(t, s.Expect)
			_, err = s.Plan(Options{})
			require.NoError(t, err)
		}
	}
	_, err := Find("keepalife", false)
	require.EqualError(t, err, "no scenario is called keepalife; did you mean keepalive? (twlab list shows all; a file's name needs its ending)")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	b, err := library.ReadFile("library/keepalive.yaml")
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte("variants: [{}]\nname: a\nquestion: b\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse("f.yaml", b, false)
		if err != nil {
			return
		}
		p, err := s.Plan(Options{})
		require.NoError(t, err)
		for _, tr := range p.Trials {
			tr.Cost()
			_, _, _, err := tr.World()
			require.NoError(t, err)
		}
	})
}
