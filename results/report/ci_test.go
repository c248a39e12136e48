package report

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jstemmer/go-junit-report/v2/junit"
	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/compare"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/results/stats"
)

// trials makes a run of n trials out of the golden one's first variant.
func trials(t *testing.T, dir string, n int, change func(i int, r *results.Record)) *results.Run {
	t.Helper()
	run, err := results.Open(filepath.Join("..", "testdata", "v1"))
	require.NoError(t, err)
	first := run.Records[0]
	s := *run.Plan.Scenario
	for _, v := range s.Variants {
		if v.Name == first.Trial.Variant {
			s.Variants = s.Variants[:0:0]
			s.Variants = append(s.Variants, v)
			break
		}
	}
	s.Expect = nil
	run.Plan.Scenario, run.Dir, run.Started, run.Warnings, run.Records = &s, dir, time.Unix(int64(len(dir)), 0), nil, nil
	for i := range n {
		r := *first
		change(i, &r)
		run.Records = append(run.Records, &r)
	}
	return run
}

// pair are two runs: CPU times and late starts differ clearly, rates do not, and exact
// counts both do and do not.
func pair(t *testing.T) (before, after *results.Run) {
	before = trials(t, "a", 8, func(i int, r *results.Record) {
		r.Client.CPU, r.Server.CPU, r.Client.Late = int64(1e9)+int64(i)*1e6, int64(3e9)+int64(i*7919%11)*1e8, int64(i)
	})
	after = trials(t, "bb", 8, func(i int, r *results.Record) {
		r.Client.CPU, r.Server.CPU, r.Client.Late = int64(2e9)+int64(i)*1e6, int64(3e9)+int64(i*104729%13)*1e8, int64(i)+20
		r.Client.Reused -= 4
		r.Client.Fresh += 4
	})
	return before, after
}

// benchstat itself reads two runs and calls the same metrics significant.
func TestBenchstatComesToTheSameConclusion(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "benchstat")
	if out, err := exec.Command("go", "build", "-o", bin, "golang.org/x/perf/cmd/benchstat").CombinedOutput(); err != nil {
		t.Fatalf("build benchstat: %v\n%s", err, out)
	}
	before, after := pair(t)
	for _, run := range []*results.Run{before, after} {
		var b bytes.Buffer
		require.NoError(t, writeBench(&b, New(run)))
		require.NoError(t, os.WriteFile(filepath.Join(dir, run.Dir+".txt"), b.Bytes(), 0o600))
	}
	cmd := exec.Command(bin, "-format", "csv", "a.txt", "bb.txt")
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "%s", said.String())
	theirs := map[string]bool{} // metric: significant
	rows := csv.NewReader(bytes.NewReader(out))
	rows.FieldsPerRecord = -1
	lines, err := rows.ReadAll()
	require.NoError(t, err)
	unit := ""
	for _, l := range lines {
		switch {
		case len(l) > 5 && l[5] == "vs base":
			unit = l[1]
		case len(l) > 5 && strings.HasPrefix(l[0], "Keepalive/"):
			theirs[unit] = l[5] != "~" && l[5] != "0.00%"
		}
	}
	c, err := compare.Runs(before, after, compare.Options{})
	require.NoError(t, err)
	significant := 0
	for _, r := range c.Rows {
		got, known := theirs[r.Metric]
		require.True(t, known, "benchstat does not know %s", r.Metric)
		a, b := r.Values()
		ours := r.Test.P < stats.Alpha && a != b
		require.Equal(t, ours, got, "%s: p=%v, %v -> %v", r.Metric, r.Test.P, a, b)
		if ours {
			significant++
		}
	}
	require.GreaterOrEqual(t, significant, 3)
	require.Less(t, significant, len(c.Rows))
}

// What CI systems read of JUnit: counts that add up, names, and a message in
// each failure.
func TestJUnit(t *testing.T) {
	before, after := pair(t)
	g, err := compare.ParseGate("client.reuse_ratio worse by 0.5%")
	require.NoError(t, err)
	c, err := compare.Runs(before, after, compare.Options{Gates: []compare.Gate{g}})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, compareJUnit(&b, c))
	all := junit.Testsuites{}
	require.NoError(t, xml.Unmarshal(b.Bytes(), &all))
	require.Equal(t, []int{1, 1}, []int{all.Suites[0].Tests, all.Suites[0].Failures})
	for _, part := range []string{ // what the stricter of the schemas in use require
		` hostname="`, ` package="`, ` timestamp="1970-01-01T00:00:02"`, ` id="0"`, "<properties>", "<system-out>", "<system-err>", ` errors="0"`,
	} {
		require.Contains(t, b.String(), part)
	}
	require.Equal(t, "client.reuse_ratio worse by 0.5%", all.Suites[0].Testcases[0].Name)
	require.Contains(t, all.Suites[0].Testcases[0].Failure.Message, "went from 0.96 to 0.95")

	b.Reset()
	run, err := results.Open(filepath.Join("..", "testdata", "v1"))
	require.NoError(t, err)
	r := New(run)
	require.NoError(t, writeJUnit(&b, r))
	all = junit.Testsuites{}
	require.NoError(t, xml.Unmarshal(b.Bytes(), &all))
	require.Len(t, all.Suites[0].Testcases, max(1, len(r.Expectations)))
	require.Equal(t, all.Suites[0].Tests, len(all.Suites[0].Testcases))
}

var workflowCommand = regexp.MustCompile(`^::(error|warning|notice) title=[^:,%\r\n]*::[^\r\n]*$`)

func TestAnnotations(t *testing.T) {
	before, after := pair(t)
	for _, gates := range [][]string{nil, {"client.cpu worse by 10%"}} {
		var o compare.Options
		for _, text := range gates {
			g, err := compare.ParseGate(text)
			require.NoError(t, err)
			o.Gates = append(o.Gates, g)
		}
		c, err := compare.Runs(before, after, o)
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, compareGitHub(&b, c))
		for line := range strings.Lines(b.String()) {
			require.Regexp(t, workflowCommand, strings.TrimSuffix(line, "\n"))
		}
		if len(gates) > 0 {
			require.Contains(t, b.String(), "::error title=twlab keepalive::client.cpu worse by 10%25%0A")
		}
	}
}

var sampleLine = regexp.MustCompile(`^twlab_[a-zA-Z0-9_]+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} [-+0-9.e]+$`)

// OpenMetrics: families stand together, the end is marked.
func TestOpenMetrics(t *testing.T) {
	before, after := pair(t)
	c, err := compare.Runs(before, after, compare.Options{})
	require.NoError(t, err)
	for _, write := range []func(*bytes.Buffer) error{
		func(b *bytes.Buffer) error { return writeOpenMetrics(b, New(before)) },
		func(b *bytes.Buffer) error { return compareOpenMetrics(b, c) },
	} {
		var b bytes.Buffer
		require.NoError(t, write(&b))
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		require.Equal(t, "# EOF", lines[len(lines)-1])
		typed := map[string]bool{}
		family := ""
		for _, l := range lines[:len(lines)-1] {
			if name, ok := strings.CutPrefix(l, "# TYPE "); ok {
				family, _, _ = strings.Cut(name, " ")
				require.False(t, typed[family], "%s stands in two places", family)
				typed[family] = true
				continue
			}
			if strings.HasPrefix(l, "# HELP "+family+" ") {
				continue
			}
			require.Regexp(t, sampleLine, l)
			require.True(t, strings.HasPrefix(l, family+"{"), l)
		}
	}
}

// Every format writes a comparison, and the texts are as wide as a report.
func TestComparisonsInEveryFormat(t *testing.T) {
	before, after := pair(t)
	c, err := compare.Runs(before, after, compare.Options{})
	require.NoError(t, err)
	require.Equal(t, metric.Higher, func() metric.Direction { d, _ := metric.Lookup("client.reuse_ratio"); return d.Better }())
	for _, f := range Formats {
		var b bytes.Buffer
		require.NoError(t, f.Compare(&b, c), f.Name)
		require.Contains(t, b.String(), "client", f.Name)
		if f.Name == "text" {
			require.Regexp(t, `\* client\.reuse_ratio +96 % +95 % +-1\.04 % +worse +exact n=8`, b.String())
			require.Contains(t, b.String(), "both ran under the same conditions")
		}
	}
}
