package results

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/server"
)

// The golden run of schema 1, measured once. It must stay readable for ever.
const golden = "testdata/v1"

func TestTheGoldenRunOfSchema1IsRead(t *testing.T) {
	run, err := Open(golden)
	require.NoError(t, err)
	require.Empty(t, run.Warnings)
	require.Len(t, run.Records, 3)
	vs := run.Summarize()
	value := func(variant, name string) float64 {
		for _, v := range vs {
			if v.Name == variant {
				x, ok := v.Value(name)
				require.True(t, ok, "%s.%s", variant, name)
				return x
			}
		}
		t.Fatalf("no variant %s", variant)
		return 0
	}
	require.Equal(t, 400.0, value("client-closes", "client.connections.opened"))
	require.Equal(t, 400.0, value("client-closes", "server.connections.accepted"))
	require.Equal(t, 400.0, value("client-closes", "client.timewait_socks.births"))
	require.Equal(t, 0.0, value("client-closes", "server.timewait_socks.births"))
	require.Equal(t, 400.0, value("server-closes", "server.timewait_socks.births"))
	require.Equal(t, 16.0, value("keepalive", "client.connections.opened"))
	require.Equal(t, 16.0, value("keepalive", "client.time_wait.end"))
	require.Equal(t, 0.96, value("keepalive", "client.reuse_ratio"))
	require.Equal(t, 0.0, value("keepalive", "client.errors.ECONNRESET"), "an error not seen is 0")
	verdict, outcomes := run.Judge(vs)
	require.Equal(t, Held, verdict)
	require.Len(t, outcomes, 8)
}

// A record goes through JSON without loss, so the store keeps what was seen.
func TestARecordSurvivesTheStore(t *testing.T) {
	run, err := Open(golden)
	require.NoError(t, err)
	for _, r := range run.Records {
		r.Trial.Settings.Traffic.Bind = scenarios.BindLate // which older records do not say
	}
	dir := filepath.Join(t.TempDir(), "run")
	s, err := Create(dir, run.Header)
	require.NoError(t, err)
	for _, r := range run.Records {
		require.NoError(t, s.Append(r))
	}
	require.NoError(t, s.Close())
	again, err := Open(dir)
	require.NoError(t, err)
	require.True(t, reflect.DeepEqual(run.Records, again.Records), "what was stored is what was seen")
	_, err = Create(dir, run.Header)
	require.ErrorIs(t, err, ErrExists)
}

func TestEveryMetricOfTheTableIsTaken(t *testing.T) {
	run, err := Open(golden)
	require.NoError(t, err)
	run.Records[0].Client.Errors = []client.Error{{Errno: "EPIPE", Count: 2}, {Errno: "EPIPE", Reused: true, Count: 1}}
	run.Records[0].Client.Connect = &client.Latency{Count: 1, P50: 2e9, P99: 3e9}
	// What records of that time did not hold.
	took := &client.Latency{Count: 1, P50: 1, P90: 2, P99: 3, P999: 4}
	rec := run.Records[0]
	rec.Client.FirstByte, rec.Client.Whole, rec.Client.TLS = took, took, took
	rec.Trial.Settings.Traffic.Engine, rec.Trial.Settings.Traffic.Protocol = scenarios.NetHTTP, scenarios.HTTPS
	rec.Client.Ended = map[client.Cause]int64{}
	for i, c := range client.Causes {
		require.Equal(t, metric.Causes[i], string(c))
		rec.Client.Ended[c] = 1
	}
	rec.Server.Reused, rec.Server.Drained = new(int64), &server.Drained{Burst: 3}
	run.Records[0].Server.BytesSent = 1
	run.Records[0].Proxy = &lab.ProgramStats{Version: "nginx version: nginx/1.22.1", Log: map[string]int64{"trouble": 3}}
	run.Records[0].Server.Restart = &server.Restart{Tries: 1, Done: true}
	for _, s := range run.Records[0].Stacks {
		for _, c := range metric.Counters {
			s.Snapshots[0].Counters[c.Counter], s.Snapshots[len(s.Snapshots)-1].Counters[c.Counter] = 1, 2
		}
	}
	for i := range run.Records[0].Stacks {
		run.Records[0].Stacks[i].Transitions = []measure.Transition{{From: measure.Close, To: measure.SynSent, N: 1}}
	}
	got := run.Records[0].Metrics()
	require.Equal(t, 1022001.0, got["proxy.version"])
	require.Equal(t, 3.0, got["client.errors.EPIPE"], "phases and kinds of connection are added up")
	for name := range got {
		_, ok := metric.Lookup(name)
		require.True(t, ok, "%s stands in no table", name)
	}
	for _, d := range metric.Table {
		name := strings.NewReplacer("HOST", "client", "ERRNO", "EPIPE", "NAME", "trouble", "CAUSE", "pool_full").Replace(d.Name)
		// The golden run's sockets outlive it, and it has no population.
		if !strings.HasSuffix(name, ".life") && !strings.HasSuffix(name, ".entries.time_wait") && !strings.HasPrefix(name, "client.population.") {
			require.Contains(t, got, name)
		}
	}
	var states []string
	for _, s := range measure.States {
		states = append(states, s.Key())
	}
	require.ElementsMatch(t, metric.States, states)
}

// What could not be read is absent, not zero.
func TestAbsentIsNotZero(t *testing.T) {
	snap := func(at int64, tw int64, sockets measure.Table) measure.Snapshot {
		return measure.Snapshot{Phase: Load, Begin: at, End: at, Counters: measure.Counters{measure.TimewaitAlive: tw}, Sockets: sockets}
	}
	r := Record{Stacks: []Stack{{Name: "client", Hosts: []string{"client"}, Snapshots: []measure.Snapshot{snap(0, 0, nil), snap(10, 5, nil)}}}}
	m := r.Metrics()
	require.NotContains(t, m, "client.timewait_socks.births", "the kernel's counters are missing")
	require.NotContains(t, m, "client.time_wait.peak", "no dump says how many of tw are FIN_WAIT2")
	require.NotContains(t, m, "client.reuse_ratio", "no request was sent")
	require.NotContains(t, m, "server.time_wait.peak")

	// Between dumps TIME_WAIT is tw less the FIN_WAIT2 minisocks of the last dump.
	full := snap(10, 5, measure.Table{"client": {measure.INET: {measure.TimeWait: 3, measure.FinWait2: 2}}})
	full.Minisocks = 2
	last := snap(30, 2, measure.Table{"client": {measure.INET: {measure.FinWait2: 2}}})
	last.Minisocks = 2
	r.Stacks[0].Snapshots = []measure.Snapshot{full, snap(20, 9, nil), last}
	m = r.Metrics()
	require.Equal(t, []float64{7, 0, 4.25}, []float64{m["client.time_wait.peak"], m["client.time_wait.end"], m["client.time_wait.mean"]})
	require.Equal(t, 2.0, m["client.fin_wait2.peak"])

	// Where two dumps do not agree on the minisocks, nobody knows in between.
	last.Minisocks = 1
	r.Stacks[0].Snapshots[2] = last
	require.Equal(t, 3.0, r.Metrics()["client.time_wait.peak"])

	// On a shared stack sockstat cannot tell whose they are: dumps only.
	r.Stacks[0].Name, r.Stacks[0].Hosts = "stack", []string{"client", "server"}
	m = r.Metrics()
	require.Equal(t, 3.0, m["client.time_wait.peak"])
	require.Equal(t, 0.0, m["server.time_wait.peak"])
}

func TestPopulationMissing(t *testing.T) {
	var r Record
	r.Trial.Settings.Population = scenarios.Population{{State: measure.CloseWait, N: 5}, {State: measure.TimeWait, N: 3}}
	sockets := measure.Table{"client": {measure.INET: {measure.CloseWait: 4, measure.TimeWait: 5}}}
	r.Stacks = []Stack{{Name: "client", Hosts: []string{"client"}, Snapshots: []measure.Snapshot{{Sockets: sockets}}}}
	require.Equal(t, 3.0, r.Metrics()["client.population.missing"], "one too few and two too many")
	r.Trial.Settings.Traffic.Count = 1
	require.NotContains(t, r.Metrics(), "client.population.missing")
}

// A burst's life is told once it is over, and not before.
func TestLifeOfABurst(t *testing.T) {
	at := func(sec, n float64) Point { return Point{int64(sec * 1e9), n} }
	v, ok := life([]Point{at(0, 0), at(1, 100), at(5.5, 100), at(6.5, 0), at(9, 0)}, 100)
	require.True(t, ok)
	require.InDelta(t, 5.5, v, 1e-9)
	_, ok = life([]Point{at(0, 0), at(1, 100), at(9, 60)}, 100)
	require.False(t, ok, "still there")
	_, ok = life([]Point{at(0, 0), at(1, 0)}, 0)
	require.False(t, ok, "never there")
	_, ok = life([]Point{at(0, 100), at(1, 0)}, 100)
	require.False(t, ok, "there before the first look")
}

func TestErrorsOfSomeTrialsAreZeroInTheOthers(t *testing.T) {
	run := &Run{Header: Header{Plan: &scenarios.Plan{Scenario: &scenarios.Scenario{Variants: []scenarios.Variant{{Name: "v"}}}}}}
	for _, n := range []int64{0, 3, 0} {
		r := &Record{Trial: scenarios.Trial{Variant: "v"}}
		if n > 0 {
			r.Client.Errors = []client.Error{{Errno: "EOF", Count: n}}
		}
		run.Records = append(run.Records, r)
	}
	require.Equal(t, []float64{0, 3, 0}, run.Summarize()[0].Samples["client.errors.EOF"].Values)
}

// damage copies the golden run and changes its records.
func damage(t *testing.T, change func([]byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, f := range map[string]func([]byte) []byte{headerFile: nil, recordsFile: change} {
		b, err := os.ReadFile(filepath.Join(golden, name))
		require.NoError(t, err)
		if f != nil {
			b = f(b)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	return dir
}

func TestDamageIsNamedAndTheRestIsUsed(t *testing.T) {
	run, err := Open(damage(t, func(b []byte) []byte { return b[:len(b)-1000] }))
	require.NoError(t, err)
	require.Len(t, run.Records, 2)
	require.Len(t, run.Warnings, 2)
	require.Contains(t, run.Warnings[0], "records.jsonl:3: the record is cut short and was left out")
	require.Contains(t, run.Warnings[1], "1 of 3 trials have no record")

	run, err = Open(damage(t, func(b []byte) []byte { return bytes.Replace(b, []byte("{"), []byte("("), 1) }))
	require.NoError(t, err)
	require.Len(t, run.Records, 2)
	require.Contains(t, run.Warnings[0], "records.jsonl:1: the record is damaged and was left out")

	_, err = Open(damage(t, func([]byte) []byte { return nil }))
	require.ErrorContains(t, err, "holds no record: no trial ended")
	_, err = Open(damage(t, func(b []byte) []byte { return b[:100] }))
	require.ErrorContains(t, err, "holds no record: ")
	_, err = Open(damage(t, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`{"schema":1`), []byte(`{"schema":2`)) }))
	require.ErrorContains(t, err, "records.jsonl:1: schema 2 was written by a newer twlab")
	_, err = Open(t.TempDir())
	require.ErrorContains(t, err, "is no run's directory: it has no run.json")
}

func FuzzRecord(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(golden, recordsFile))
	require.NoError(f, err)
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f.Add(line)
	f.Add([]byte(`{"schema":1,"stacks":[{"name":"client","hosts":["client"],"snapshots":[{"sockets":{"client":null}}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		if decode(b, &r) != nil {
			return
		}
		r.Metrics()
		_, err := json.Marshal(r)
		require.NoError(t, err)
	})
}
