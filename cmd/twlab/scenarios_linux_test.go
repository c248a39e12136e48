package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/report"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/scenarios/forecast"
)

// Every built-in scenario that only counts must hold, in its quick form, all of them in one run.
func TestScenariosHold(t *testing.T) {
	requireLab(t)
	var names []string
	for _, name := range scenarios.Names() {
		s, err := scenarios.Find(name, false)
		require.NoError(t, err)
		if p := s.Variants[0].Proxy.Command; len(p) > 0 {
			if ok, err := haveProgram(p[0]); !ok {
				require.NoError(t, err)
				t.Logf("left out: %s needs %s", name, p[0])
				continue
			}
		}
		if _, err := os.Stat("/proc/sys/net/ipv4/tcp_tw_reuse_delay"); s.Parallel && (len(s.Needs) == 0 || err == nil) {
			names = append(names, name)
		}
	}
	require.GreaterOrEqual(t, len(names), 5)
	begin := time.Now()
	cmd := exec.Command(bin, append([]string{"run", "-q"}, names...)...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Less(t, time.Since(begin), 90*time.Second)
	runs, err := filepath.Glob(filepath.Join(cmd.Dir, "twlab-runs", "*"))
	require.NoError(t, err)
	require.Len(t, runs, len(names))
	for _, dir := range runs {
		run, err := results.Open(dir)
		require.NoError(t, err)
		r := report.New(run)
		require.Equal(t, results.Held, r.Verdict, dir)
		require.NotEmpty(t, r.Answer, dir)
	}
}

// Every scenario that an explanation names is there.
func TestExplanationsNameScenarios(t *testing.T) {
	for _, x := range measure.Explanations {
		require.NotEmpty(t, x.Scenarios, x.State)
		require.Subset(t, scenarios.Names(), x.Scenarios, x.State)
	}
}

// exact returns the exact metrics of a run's only record of a variant.
func exact(t *testing.T, dir, variant string) map[string]float64 {
	t.Helper()
	run, err := results.Open(dir)
	require.NoError(t, err)
	out := map[string]float64{}
	for _, v := range run.Summarize() {
		for name, s := range v.Samples {
			if v.Name == variant && s.Exact {
				out[name], _ = v.Value(name)
			}
		}
	}
	require.Greater(t, len(out), 8)
	return out
}

// A variant counts the same alone and beside seven others: worlds share
// nothing that is counted.
func TestExactCountsAreTheSameAloneAndBesideSevenOthers(t *testing.T) {
	requireLab(t)
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		out := filepath.Join(dir, name)
		b, err := exec.Command(bin, append([]string{"run", "testdata/eight-worlds.yaml", "-q", "-o", out}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", b)
		return out
	}
	together := run("together", "--jobs", "8")
	one := run("one", "--jobs", "1", "--variant", "tw_reuse_0-ip_local_port_range_40000_40099")
	two := run("two", "--jobs", "1", "--variant", "tw_reuse_1-ip_local_port_range_40000_40299")
	for variant, alone := range map[string]string{
		"tw_reuse_0-ip_local_port_range_40000_40099": one, "tw_reuse_1-ip_local_port_range_40000_40299": two,
	} {
		require.Equal(t, exact(t, alone, variant), exact(t, together, variant), variant)
	}
	require.Equal(t, 100.0, exact(t, one, "tw_reuse_0-ip_local_port_range_40000_40099")["client.connections.opened"])
}

// A range of 100 ports is exactly 100 connections a destination, then
// EADDRNOTAVAIL; with tcp_tw_reuse 1 it is 100 a second; and the forecast says so.
func TestHundredPorts(t *testing.T) {
	requireLab(t)
	dir := filepath.Join(t.TempDir(), "run")
	out, err := exec.Command(bin, "run", "testdata/hundred-ports.yaml", "-q", "-o", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	run, err := results.Open(dir)
	require.NoError(t, err)
	got := map[string][3]float64{}
	for _, v := range run.Summarize() {
		opened, _ := v.Value("client.connections.opened")
		failed, _ := v.Value("client.errors.EADDRNOTAVAIL")
		peak, _ := v.Value("client.time_wait.peak")
		got[v.Name] = [3]float64{opened, failed, peak}
		for _, r := range run.Variant(v.Name) {
			want := forecast.Of(r.Trial).Figures
			require.InEpsilon(t, want["client.connections.opened"], opened, 0.03, v.Name)
			require.InEpsilon(t, want["client.time_wait.peak"], peak, 0.03, v.Name)
		}
	}
	require.Equal(t, map[string][3]float64{
		"one-destination": {100, 400, 100}, "two-destinations": {200, 300, 200}, "ninety-nine": {99, 401, 99}, "odd-start": {100, 400, 100},
		"reserved": {90, 410, 90}, "reuse": {got["reuse"][0], 500 - got["reuse"][0], 100},
	}, got)
	require.InDelta(t, 300, got["reuse"][0], 10, "100 a second for 2.5 s, and the first 100 at once")
}

// Repetitions run every variant once a round, in an order that the seed gives.
func TestRepetitionsInterleave(t *testing.T) {
	requireLab(t)
	dir := filepath.Join(t.TempDir(), "run")
	out, err := exec.Command(bin, "run", "keepalive", "--repeat", "6", "--seed", "3", "-q", "-o", dir, "--format", "json",
		"--set", "traffic.count=50", "--set", "hold=10ms").Output()
	require.NoError(t, err)
	var doc struct {
		Variants []struct {
			Trials  int
			Metrics map[string]struct {
				Values    []float64
				Low, High *float64
			}
		}
	}
	require.NoError(t, json.Unmarshal(out, &doc))
	for _, v := range doc.Variants {
		require.Equal(t, 6, v.Trials)
		require.Len(t, v.Metrics["client.cpu"].Values, 6)
		require.NotNil(t, v.Metrics["client.cpu"].Low, "six values give an interval")
	}
	run, err := results.Open(dir)
	require.NoError(t, err)
	for round := range 6 {
		seen := map[string]bool{}
		for _, r := range run.Records[3*round : 3*round+3] {
			require.Equal(t, round+1, r.Trial.Repetition)
			seen[r.Trial.Variant] = true
		}
		require.Len(t, seen, 3)
	}
}
