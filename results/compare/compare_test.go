package compare

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/results"
)

// golden is a run of the first version: it must be readable for ever.
var golden = filepath.Join("..", "testdata", "v1")

func open(t testing.TB) *results.Run {
	t.Helper()
	run, err := results.Open(golden)
	require.NoError(t, err)
	return run
}

// side makes a run of n trials out of the golden one's first variant, changed.
func side(t testing.TB, dir string, n int, change func(i int, r *results.Record)) *results.Run {
	t.Helper()
	run := open(t)
	run.Dir, run.Started = dir, time.Unix(int64(len(dir)), 0)
	first := run.Records[0]
	run.Warnings, run.Records = nil, nil
	for i := range n {
		r := *first
		r.Trial.Repetition = i + 1
		if change != nil {
			change(i, &r)
		}
		run.Records = append(run.Records, &r)
	}
	return run
}

func row(t *testing.T, c *Comparison, metric string) Row {
	t.Helper()
	for _, r := range c.Rows {
		if r.Metric == metric {
			return r
		}
	}
	t.Fatalf("no row %s", metric)
	return Row{}
}

func gate(t *testing.T, text string) Gate {
	t.Helper()
	g, err := ParseGate(text)
	require.NoError(t, err)
	return g
}

func TestTheSameIsTheSame(t *testing.T) {
	c, err := Runs(side(t, "a", 6, nil), side(t, "bb", 6, nil), Options{})
	require.NoError(t, err)
	require.Empty(t, c.Obstacles)
	require.Empty(t, c.Conditions)
	require.Empty(t, c.Alarms())
	for _, r := range c.Rows {
		require.Contains(t, []Change{Same, Noise}, r.Change, r.Metric)
	}
}

func TestReuseOnePercentWorseIsFoundInOneTrial(t *testing.T) {
	worse := func(_ int, r *results.Record) {
		r.Client.Fresh += 4
		r.Client.Reused -= 4
	}
	c, err := Runs(side(t, "a", 1, nil), side(t, "bb", 1, worse), Options{Gates: []Gate{gate(t, "client.reuse_ratio worse by 0.5%")}})
	require.NoError(t, err)
	require.True(t, c.Failed())
	require.Equal(t, Worse, row(t, c, "client.reuse_ratio").Change)
	require.Contains(t, c.Gates[0].Why, "client.reuse_ratio went from 0.96 to 0.95")

	c, err = Runs(side(t, "a", 1, nil), side(t, "bb", 1, worse), Options{Gates: []Gate{gate(t, "client.reuse_ratio worse by 5%")}})
	require.NoError(t, err)
	require.False(t, c.Failed(), "worse, and tolerated")

	c, err = Runs(side(t, "bb", 1, worse), side(t, "a", 1, nil), Options{Gates: []Gate{gate(t, "client.reuse_ratio worse")}})
	require.NoError(t, err)
	require.False(t, c.Failed(), "better is not worse")
	require.Equal(t, Better, row(t, c, "client.reuse_ratio").Change)
}

// Times need trials: three against three prove nothing, and the gate says so.
func TestTooFewTrialsAreUndecided(t *testing.T) {
	slow := func(i int, r *results.Record) { r.Client.CPU = int64(2e9 + float64(i)*1e6) }
	fast := func(i int, r *results.Record) { r.Client.CPU = int64(1e9 + float64(i)*1e6) }
	g := Options{Gates: []Gate{gate(t, "client.cpu worse by 10%")}}
	c, err := Runs(side(t, "a", 3, fast), side(t, "bb", 3, slow), g)
	require.NoError(t, err)
	require.False(t, c.Failed())
	require.Contains(t, c.Gates[0].Undecided, "3 against 3 trials cannot tell that from chance: run at least 6 (--repeat)")
	c, err = Runs(side(t, "a", 6, fast), side(t, "bb", 6, slow), g)
	require.NoError(t, err)
	require.True(t, c.Failed())
}

func TestDeltaFromZeroIsUndefined(t *testing.T) {
	c, err := Runs(side(t, "a", 1, nil), side(t, "bb", 1, func(_ int, r *results.Record) { r.Client.Failed = 3 }),
		Options{Gates: []Gate{gate(t, "client.requests.failed worse by 50%")}})
	require.NoError(t, err)
	require.Nil(t, row(t, c, "client.requests.failed").Delta)
	require.True(t, c.Failed(), "from nothing to something is more than any share")
}

func TestObstaclesAndConditions(t *testing.T) {
	other := func(_ int, r *results.Record) {
		r.Environment.Kernel, r.Environment.Backend = "5.0", "host"
		r.Client.Started--
		s := r.Stacks[0]
		s.Sysctls = maps.Clone(s.Sysctls)
		s.Sysctls["net.ipv4.tcp_tw_reuse"] = "1"
		r.Stacks = append([]results.Stack{s}, r.Stacks[1:]...)
	}
	c, err := Runs(side(t, "a", 1, nil), side(t, "bb", 1, other), Options{})
	require.NoError(t, err)
	require.Len(t, c.Obstacles, 3)
	require.Contains(t, c.Obstacles[0], "different kernels")
	require.Contains(t, c.Obstacles[1], "different labs")
	require.Contains(t, c.Obstacles[2], "did not reach its load")
	require.Equal(t, Condition{"net.ipv4.tcp_tw_reuse", "2", "1"}, c.Conditions[0], "sysctls stand first")
	c, err = Runs(side(t, "a", 1, nil), side(t, "bb", 1, other), Options{OtherKernel: true})
	require.NoError(t, err)
	require.Len(t, c.Obstacles, 2)
}

func TestMistakes(t *testing.T) {
	_, err := Runs(side(t, "a", 1, nil), side(t, "a", 1, nil), Options{})
	require.ErrorIs(t, err, ErrSelf)
	_, err = Runs(open(t), open(t), Options{})
	require.ErrorIs(t, err, ErrSelf)
	copied := open(t)
	copied.Dir = "copy"
	_, err = Runs(open(t), copied, Options{})
	require.ErrorIs(t, err, ErrSelf, "under another name, too")
	for text, want := range map[string]string{
		"client.reuse_ratio":                  "that is no gate",
		"client.reuse_ratio better":           `"better" is neither worse nor differs`,
		"client.reuse_ratio worse by much":    `"much" is no share`,
		"client.reuse_ration worse":           "no metric is called client.reuse_ration; did you mean client.reuse_ratio?",
		"client.established.peak worse by 3%": "client.established.peak is neither good nor bad: say differs",
	} {
		_, err := ParseGate(text)
		require.ErrorContains(t, err, want)
	}
	_, err = Runs(side(t, "a", 1, nil), side(t, "bb", 1, nil), Options{Gates: []Gate{gate(t, "stack.time_wait.peak worse")}})
	require.ErrorContains(t, err, "no variant that was compared has that metric")
}

func TestVariantsAgainstTheirBaseline(t *testing.T) {
	run := open(t)
	if len(run.Plan.Scenario.Variants) < 2 {
		_, err := Variants(run, Options{})
		require.ErrorContains(t, err, "nothing to compare it with")
		return
	}
	c, err := Variants(run, Options{})
	require.NoError(t, err)
	require.NotEmpty(t, c.Rows)
}

// pool returns stored trials: of TWLAB_POOL, a run's directory with 60 trials
// of a variant or more.
func pool(b *testing.B) *results.Run {
	dir := os.Getenv("TWLAB_POOL")
	if dir == "" {
		b.Skip("TWLAB_POOL names no run")
	}
	run, err := results.Open(dir)
	require.NoError(b, err)
	require.GreaterOrEqual(b, len(run.Records), 60)
	return run
}

// BenchmarkFalseAlarms draws both sides of a comparison from one pool of real
// trials, again and again: reports that alarm are false ones. Then one side's
// reuse is made 1 % worse, and reports that do not find it are counted.
func BenchmarkFalseAlarms(b *testing.B) {
	run := pool(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	draw := func(dir string, worse bool) *results.Run {
		out := *run
		out.Dir, out.Started, out.Records, out.Warnings = dir, time.Unix(int64(len(dir)), 0), nil, nil
		for range 10 {
			r := *run.Records[rnd.IntN(len(run.Records))]
			if worse {
				by := (r.Client.Reused + 99) / 100
				r.Client.Fresh, r.Client.Reused = r.Client.Fresh+by, r.Client.Reused-by
			}
			out.Records = append(out.Records, &r)
		}
		return &out
	}
	reports, alarms, exact, missed := 0, 0, 0, 0
	for b.Loop() {
		c, err := Runs(draw("a", false), draw("bb", false), Options{})
		require.NoError(b, err)
		reports++
		if len(c.Alarms()) > 0 {
			alarms++
		}
		for _, r := range c.Alarms() {
			if r.Test.Exact {
				exact++
			}
		}
		c, err = Runs(draw("a", false), draw("bb", true), Options{})
		require.NoError(b, err)
		found := false
		for _, r := range c.Alarms() {
			found = found || r.Metric == "client.reuse_ratio"
		}
		if !found {
			missed++
		}
	}
	b.ReportMetric(float64(alarms)/float64(reports)*100, "%false-alarms")
	b.ReportMetric(float64(exact), "exact-false-alarms")
	b.ReportMetric(float64(reports-missed)/float64(reports)*100, "%found")
}
