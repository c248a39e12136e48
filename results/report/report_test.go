package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

var update = flag.Bool("update", false, "write the golden files anew")

func open(t *testing.T) *results.Run {
	t.Helper()
	run, err := results.Open(filepath.Join("..", "testdata", "v1"))
	require.NoError(t, err)
	run.Dir = "twlab-runs/keepalive-20261122T150000.000Z"
	return run
}

func check(t *testing.T, run *results.Run, format, file string) string {
	t.Helper()
	f, err := Find(format)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, f.Write(&b, New(run)))
	path := filepath.Join("testdata", file)
	if *update {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String(), "go test ./results/report -update writes the files anew; read the difference")
	return b.String()
}

func TestGoldenReports(t *testing.T) {
	// The first thing that a new user sees.
	check(t, open(t), "text", "keepalive.txt")
	// What scripts read.
	check(t, open(t), "json", "keepalive.json")
	// What a pull request shows, and what a spreadsheet takes.
	check(t, open(t), "md", "keepalive.md")
	check(t, open(t), "csv", "keepalive.csv")

	// Everything that can go wrong at once: a claim that failed, one about what is
	// absent, errors, warnings, more variants than fit side by side.
	run := open(t)
	s := run.Plan.Scenario
	for _, name := range []string{"a-variant-with-a-very-long-name", "another-one-that-takes-much-room", "and-one-more"} {
		v := s.Variants[0]
		v.Name = name
		s.Variants = append(s.Variants, v)
	}
	for _, claim := range []string{"keepalive.client.time_wait.end <= 3", "and-one-more.client.requests.ok > 0"} {
		e, err := scenarios.ParseExpectation(claim, s.Variants)
		require.NoError(t, err)
		s.Expect = append(s.Expect, e)
	}
	long := *run.Records[0]
	long.Trial.Variant = "a-variant-with-a-very-long-name"
	long.Client.Errors = []client.Error{{Errno: "EADDRNOTAVAIL", Phase: client.Connect, Count: 1234567}}
	long.Warnings = []string{strings.Repeat("a long warning about many things ", 5)}
	run.Records = append(run.Records, &long)
	text := check(t, run, "text", "failed.txt")
	for line := range strings.SplitSeq(text, "\n") {
		require.LessOrEqual(t, len(line), width, "%q", line)
	}
	require.NotContains(t, text, "short-lived left", "a run that failed its claims gives no answer")
}

func TestJSONHasWhatScriptsAreToldToRead(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, writeJSON(&b, New(open(t))))
	var doc struct {
		Scenario, Verdict string
		Variants          []struct {
			Name    string
			Metrics map[string]struct {
				Unit, Better      string
				Exact             bool
				Values            []float64
				Center, Low, High *float64
			}
		}
		Expectations []struct {
			Text string
			Held bool
		}
	}
	require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
	require.Equal(t, "keepalive", doc.Scenario)
	require.Equal(t, "held", doc.Verdict)
	require.Len(t, doc.Expectations, 8)
	m := doc.Variants[0].Metrics["client.time_wait.peak"]
	require.Equal(t, "sockets", m.Unit)
	require.Equal(t, "lower", m.Better)
	require.False(t, m.Exact)
	require.Equal(t, []float64{400}, m.Values)
	require.Equal(t, 400.0, *m.Center)
	require.Nil(t, m.Low, "one value that is not exact has no interval")
	m = doc.Variants[0].Metrics["client.connections.opened"]
	require.True(t, m.Exact)
	require.Equal(t, []float64{400, 400}, []float64{*m.Low, *m.High})
}

func TestFormatOfFigures(t *testing.T) {
	for _, c := range []struct {
		v    float64
		name string
		want string
	}{
		{8000, "client.connections.opened", "8,000"},
		{1234567, "client.requests.ok", "1,234,567"},
		{999, "client.requests.ok", "999"},
		{1, "client.reuse_ratio", "100 %"},
		{0.99999, "client.reuse_ratio", "99.9 %"},
		{0.998, "client.reuse_ratio", "99.8 %"},
		{0, "client.reuse_ratio", "0 %"},
		{0.456, "client.cpu", "0.46 s"},
		{0.0456, "client.cpu", "45.6 ms"},
		{0.0000456, "client.connect.p50", "46 us"},
		{60.1234, "client.time_wait.life", "60.12 s"},
		{0.01, "client.established.mean", "<0.1"},
		{2.25, "client.established.mean", "2.2"},
		{4806.4, "client.time_wait.mean", "4,806"},
	} {
		require.Equal(t, c.want, format(c.v, c.name), "%v %s", c.v, c.name)
	}
}
