package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/lab/labtest"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/report"
)

// Three views of 20,000 connections must agree to the last one: the drivers'
// ledgers, the kernel's counters of opens, and its births of TIME_WAIT.
func TestThreeViewsAgree(t *testing.T) {
	requireLab(t)
	dir := filepath.Join(t.TempDir(), "run")
	out, err := exec.Command(bin, "run", "testdata/three-views.yaml", "-q", "-o", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	run, err := results.Open(dir)
	require.NoError(t, err)
	require.Len(t, run.Records, 4)
	const n = 20000
	births := map[string][2]float64{ // by client and server
		"client-first": {n, 0}, "server-first": {0, n}, "both-at-once": {n, n}, "reset": {0, 0},
	}
	for _, r := range run.Records {
		t.Run(r.Trial.Variant, func(t *testing.T) {
			require.GreaterOrEqual(t, r.Trial.Destinations, 2)
			require.Empty(t, r.Client.Errors)
			require.Empty(t, r.Server.Errors)
			delta := func(stack, counter string) int64 {
				s := r.Stack(stack).Snapshots
				first, ok1 := s[0].Counters[counter]
				last, ok2 := s[len(s)-1].Counters[counter]
				require.True(t, ok1 && ok2, counter)
				return last - first
			}
			require.Equal(t, []int64{n, n, n, n}, []int64{
				r.Client.Opened, r.Server.Accepted, delta("client", measure.ActiveOpens), delta("server", measure.PassiveOpens),
			})
			require.Equal(t, []int64{0, 0}, []int64{delta("server", measure.ActiveOpens), delta("client", measure.PassiveOpens)})
			m := r.Metrics()
			require.Equal(t, births[r.Trial.Variant], [2]float64{m["client.timewait_socks.births"], m["server.timewait_socks.births"]})
			require.Zero(t, m["client.timewait_socks.refused"]+m["server.timewait_socks.refused"])
			require.Equal(t, "131072", r.Stack("server").Sysctls["net.ipv4.tcp_max_tw_buckets"])
			require.Equal(t, "65536", r.Stack("server").Sysctls["net.ipv4.tcp_ehash_entries"], "a hash table of its own")
		})
	}
}

// Where the kernel lets changes of state be traced, they are the drivers' own
// ledger, for each side and each order of closing.
func TestTransitionsAreTheDriversOwnCount(t *testing.T) {
	requireLab(t)
	dir := filepath.Join(t.TempDir(), "run")
	out, err := exec.Command(bin, "run", "testdata/three-views.yaml", "-q", "-o", dir, "--set", "traffic.count=2000").CombinedOutput()
	require.Error(t, err, "the claim of 20,000 connections must fail: %s", out)
	run, err := results.Open(dir)
	require.NoError(t, err)
	require.Len(t, run.Records, 4)
	if why := run.Records[0].Environment.Untraced; why != "" {
		labtest.Skip(t, "bpf", why)
	}
	const n = 2000
	for _, r := range run.Records {
		t.Run(r.Trial.Variant, func(t *testing.T) {
			changes := func(stack string, from, to measure.State) int64 {
				for _, c := range r.Stack(stack).Transitions {
					if c.From == from && c.To == to {
						return c.N
					}
				}
				return 0
			}
			c, s := r.Client, r.Server
			require.Equal(t, []int64{n, n, n, n}, []int64{
				c.Attempted, changes("client", measure.Close, measure.SynSent), c.Opened, changes("client", measure.SynSent, measure.Established),
			})
			require.Equal(t, []int64{n, n}, []int64{s.Accepted, changes("server", measure.SynRecv, measure.Established)})
			require.Equal(t, c.ClosedFirst, changes("client", measure.Established, measure.FinWait1))
			require.Equal(t, c.ClosedLast, changes("client", measure.CloseWait, measure.LastAck))
			require.Equal(t, c.ClosedReset, changes("client", measure.Established, measure.Close))
			require.Equal(t, s.ClosedFirst, changes("server", measure.Established, measure.FinWait1))
			require.Equal(t, s.ClosedLast, changes("server", measure.CloseWait, measure.LastAck))
			require.Equal(t, s.ClosedReset, changes("server", measure.Established, measure.Close))
			if r.Trial.Variant == "both-at-once" {
				// One side hears of the other's FIN first, and is CLOSING; what it
				// sends then, FIN and ACK in one segment, may spare the other that.
				closing := changes("client", measure.FinWait1, measure.Closing) + changes("server", measure.FinWait1, measure.Closing)
				require.GreaterOrEqual(t, closing, int64(n))
			}
		})
	}
}

// Where it is not allowed, the report says so and why, and guesses nothing.
func TestUntracedIsSaid(t *testing.T) {
	requireLab(t)
	dir := filepath.Join(t.TempDir(), "run")
	cmd := exec.Command(bin, "run", "keepalive", "--variant", "keepalive", "--set", "traffic.count=200", "-q", "-o", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{ // not the initial user namespace any more
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.Output()
	require.NoError(t, err)
	said := strings.Join(strings.Fields(string(out)), " ")
	require.Contains(t, said, "changes: of state not traced: it needs CAP_BPF and CAP_PERFMON in the initial user namespace")
	run, err := results.Open(dir)
	require.NoError(t, err)
	require.Nil(t, run.Records[0].Stacks[0].Transitions)
	m := run.Records[0].Metrics()
	require.NotContains(t, m, "client.entries.fin_wait1")
	require.Equal(t, m["client.connections.opened"], m["client.entries.syn_sent"], "Tcp.ActiveOpens")
}

// The SYN-queue filler works in namespaces that twlab made, and nowhere else:
// neither by plan, nor where a driver is started by hand.
func TestSilentConnectionsStayInTheLab(t *testing.T) {
	out, err := exec.Command(bin, "run", "keepalive", "--lab", "host", "--set", "traffic.silent=5").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "that is for the lab's own namespaces, not for the machine itself")

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	o := client.Options{
		Destinations: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}, Silent: 5, Count: 1, Duration: time.Second,
		Timeout: time.Second, Concurrency: 1, Closing: client.First,
	}
	cmd := exec.Command(bin, "role", "client")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	conn := wire.New(answers, in)
	require.NoError(t, conn.Send("options", "client", map[string]any{"role": "client", "epoch": 0, "options": o}))
	require.NoError(t, conn.Send("go", "client", nil))
	for {
		f, err := conn.Recv()
		require.NoError(t, err)
		if f.Kind == "ready" {
			continue
		}
		require.Equal(t, results.FrameError, f.Kind)
		var why string
		require.NoError(t, f.Decode(&why))
		require.Contains(t, why, "for namespaces that twlab made")
		return
	}
}

// The article's sysctl.conf goes in as it is, and is judged line by line.
func TestTheArticlesSysctlFile(t *testing.T) {
	requireLab(t)
	t.Parallel()
	out, err := exec.Command(bin, "run", "sysctl-file", "--sysctl-file", "testdata/article/sysctl.conf", "-q", "--format", "json",
		"-o", filepath.Join(t.TempDir(), "run")).Output()
	require.NoError(t, err)
	var doc struct {
		Lines []report.Line `json:"lines"`
	}
	require.NoError(t, json.Unmarshal(out, &doc))
	require.Len(t, doc.Lines, 4)
	moved := func(line int, metric string) string {
		for _, m := range doc.Lines[line].Moved {
			if m.Metric == metric {
				return m.Variant + " " + m.Text
			}
		}
		return ""
	}
	require.Equal(t, "net.ipv4.tcp_syncookies = 1", doc.Lines[0].String())
	require.Empty(t, moved(0, "client.time_wait.end"), "syncookies have nothing to do with it")
	require.Equal(t, "client-closes 100 -> 180", moved(1, "client.connections.opened"), "on the side that connects, on veth")
	if _, err := lab.ReadSysctl("net.ipv4.tcp_tw_recycle"); err != nil {
		require.Equal(t, "NOT ON THIS KERNEL (Linux 4.12 removed it)", doc.Lines[2].Outcome)
	}
	require.Empty(t, moved(3, "client.time_wait.end"), "fin_timeout is not for TIME_WAIT")
	require.Regexp(t, `^silent-peer over 15s -> (9|10|11|12)\.\d+ s$`, moved(3, "client.fin_wait2.life"))
}

// started is a twlab run whose standard error is read line by line.
type started struct {
	cmd   *exec.Cmd
	lines chan string
	out   bytes.Buffer
}

func start(t *testing.T, dir string, args ...string) *started {
	t.Helper()
	s := &started{cmd: exec.Command(bin, append([]string{"run"}, args...)...), lines: make(chan string, 1000)}
	s.cmd.Dir = dir
	s.cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	s.cmd.Stdout = &s.out
	r, err := s.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	go func() {
		defer close(s.lines)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			s.lines <- sc.Text()
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	return s
}

// await returns the submatches of the first line that matches.
func (s *started) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(30 * time.Second)
	var seen []string
	for {
		select {
		case line, ok := <-s.lines:
			require.True(t, ok, "no line matches %s:\n%s", pattern, strings.Join(seen, "\n"))
			seen = append(seen, line)
			if m := re.FindStringSubmatch(line); m != nil {
				return m
			}
		case <-timeout:
			t.Fatalf("no line matches %s within 30 s:\n%s", pattern, strings.Join(seen, "\n"))
		}
	}
}

// netstat and ss, entered into a host as the docs say, must print what the
// sampler counted while nothing changed.
func TestNetstatAndSSPrintTheSamplersCounts(t *testing.T) {
	requireLab(t)
	requireTools(t)
	dir := t.TempDir()
	s := start(t, dir, "keepalive", "--variant", "server-closes", "--set", "traffic.count=1000", "--set", "hold=4s", "-o", "run")
	hosts := map[string]string{} // the line that enters a host
	for range 2 {
		m := s.await(t, `\] (client|server) is up; look into it with: (nsenter .*) ss -tan$`)
		hosts[m[1]] = m[2]
	}
	s.await(t, `\] hold`)
	printed := map[string][2]map[string]int{}
	for host, enter := range hosts {
		printed[host] = [2]map[string]int{
			tally(t, enter+` netstat -an | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'`),
			tally(t, enter+` ss -tan | awk 'NR>1 {++S[$1]} END {for(a in S) print a, S[a]}'`),
		}
	}
	require.NoError(t, s.cmd.Wait(), s.out.String())
	run, err := results.Open(filepath.Join(dir, "run"))
	require.NoError(t, err)
	for host := range hosts {
		want := map[string]int{}
		looks := 0
		for _, snap := range run.Records[0].Stack(host).Snapshots {
			if snap.Phase != results.Hold || snap.Sockets == nil {
				continue
			}
			got := map[string]int{}
			for state, n := range snap.Sockets.Host(host) {
				got[state.String()] = n
			}
			if looks++; looks > 1 {
				require.Equal(t, want, got, "nothing changes on the %s during the hold", host)
			}
			want = got
		}
		require.Greater(t, looks, 2)
		t.Logf("%s: sampler %v, netstat %v, ss %v", host, want, printed[host][0], printed[host][1])
		require.Equal(t, want, printed[host][0], "netstat on the %s", host)
		ss := map[string]int{}
		for state, n := range want {
			ss[map[string]string{"TIME_WAIT": "TIME-WAIT"}[state]+map[string]string{"LISTEN": "LISTEN"}[state]] = n
		}
		require.Equal(t, ss, printed[host][1], "ss on the %s", host)
	}
	require.Positive(t, printed["server"][0]["TIME_WAIT"])
	require.Equal(t, 1, printed["server"][0]["LISTEN"])
}

// netstatLine is the line that articles count states with.
const netstatLine = ` netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'`

// The line of the article, entered into the host, prints the five numbers of
// its table exactly, ten times over 50 s.
func TestPopulationPrintsTheArticlesTable(t *testing.T) {
	requireLab(t)
	requireTools(t)
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, "population", "--set", "hold=53s", "-o", "run")
	enter := s.await(t, `\] client is up; look into it with: (nsenter .*) ss -tan$`)[1]
	s.await(t, `\] hold`)
	for range 10 {
		require.Equal(t, map[string]int{"TIME_WAIT": 1000, "CLOSE_WAIT": 5, "FIN_WAIT2": 20, "ESTABLISHED": 10000, "LAST_ACK": 11}, tally(t, enter+netstatLine))
		time.Sleep(5 * time.Second)
	}
	require.NoError(t, s.cmd.Wait(), s.out.String())
	require.NotContains(t, s.out.String(), "were asked for")
}

// All states are there, and ss and netstat in that host count ten of them as
// the sampler does.
func TestAllStatesInSSAndNetstat(t *testing.T) {
	requireLab(t)
	requireTools(t)
	dir := t.TempDir()
	s := start(t, dir, "all-states", "--variant", "held", "--set", "hold=3s", "-o", "run")
	enter := map[string]string{}
	for range 2 {
		m := s.await(t, `\] (client|server) is up; look into it with: (nsenter .*) ss -tan$`)
		enter[m[1]] = m[2]
	}
	s.await(t, `\] hold`)
	want := map[string]int{
		"SYN_SENT": 3, "ESTABLISHED": 6, "FIN_WAIT1": 3, "FIN_WAIT2": 3, "CLOSE_WAIT": 3, "LAST_ACK": 3, "CLOSING": 3, "TIME_WAIT": 3, "LISTEN": 3,
	}
	inSS := map[string]int{
		"SYN-SENT": 3, "ESTAB": 6, "FIN-WAIT-1": 3, "FIN-WAIT-2": 3, "CLOSE-WAIT": 3, "LAST-ACK": 3, "CLOSING": 3, "TIME-WAIT": 3, "LISTEN": 3,
	}
	require.Equal(t, want, tally(t, enter["client"]+` netstat -an | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'`))
	ss := tally(t, enter["client"]+` ss -tan state all | awk 'NR>1 {++S[$1]} END {for(a in S) print a, S[a]}'`)
	delete(ss, "UNCONN") // bound sockets, which newer ss lists
	require.Equal(t, inSS, ss)
	require.Equal(t, 3, tally(t, enter["server"]+netstatLine)["SYN_RECV"])
	require.Equal(t, 3, tally(t, enter["server"]+` ss -tan | awk 'NR>1 {++S[$1]} END {for(a in S) print a, S[a]}'`)["SYN-RECV"])
	require.NoError(t, s.cmd.Wait(), s.out.String())
	run, err := results.Open(filepath.Join(dir, "run"))
	require.NoError(t, err)
	m := run.Records[0].Metrics()
	for state, n := range want {
		require.Equal(t, float64(n), m["client."+strings.ToLower(state)+".end"], state)
	}
	require.Equal(t, 3.0, m["server.syn_recv.end"])
}

func requireTools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"nsenter", "netstat", "ss", "awk"} {
		if _, err := exec.LookPath(tool); err != nil {
			labtest.Skip(t, "tools", err.Error())
		}
	}
}

// tally runs a shell line that prints names and numbers.
func tally(t *testing.T, line string) map[string]int {
	t.Helper()
	b, err := exec.Command("sh", "-c", line).Output()
	require.NoError(t, err, line)
	out := map[string]int{}
	for f := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		if name, n, ok := strings.Cut(f, " "); ok {
			out[name], err = strconv.Atoi(n)
			require.NoError(t, err)
		}
	}
	return out
}

// processes lists the living processes of the built binary.
func processes(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	var out []string
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err == nil && strings.TrimSuffix(exe, " (deleted)") == bin {
			out = append(out, d)
		}
	}
	return out
}

// sysctls reads net.* and kernel.* of the machine.
func sysctls(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, root := range []string{"/proc/sys/net", "/proc/sys/kernel"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if b, err := os.ReadFile(path); err == nil {
					out[path] = string(b)
				}
			}
			return nil
		})
	}
	require.Greater(t, len(out), 100)
	return out
}

// moving are the sysctls that change by themselves.
var moving = regexp.MustCompile(`^/proc/sys/kernel/(ns_last_pid|random/.*|pty/nr|perf_event_max_sample_rate|tainted)$|nf_conntrack_count$`)

func links(t *testing.T) []string {
	t.Helper()
	ifs, err := net.Interfaces()
	require.NoError(t, err)
	var out []string
	for _, i := range ifs {
		addrs, err := i.Addrs()
		require.NoError(t, err)
		out = append(out, i.Name)
		for _, a := range addrs {
			out = append(out, i.Name+" "+a.String())
		}
	}
	return out
}

// A run that is killed must leave nothing: its namespaces live only as long as
// its processes.
func TestKilledRunsLeaveNothing(t *testing.T) {
	requireLab(t)
	warm := exec.Command(bin, "run", "keepalive", "-q", "--set", "traffic.count=20", "--set", "hold=10ms", "-o", filepath.Join(t.TempDir(), "warm"))
	require.NoError(t, warm.Run()) // first use may load modules that add sysctls
	before, wires := sysctls(t), links(t)
	require.Empty(t, processes(t))
	for i := range 10 {
		dir := t.TempDir()
		args := []string{"keepalive", "--set", "traffic.count=1000", "--set", "hold=200ms", "-o", "run"}
		if i%5 == 4 { // without namespaces only the processes' own care is left
			args = append(args, "--lab", "host", "--set", "traffic.port="+strconv.Itoa(10000+rand.IntN(20000)))
		}
		s := start(t, dir, args...)
		after := time.Duration(rand.Int64N(int64(2200 * time.Millisecond)))
		time.Sleep(after)
		require.NoError(t, s.cmd.Process.Kill())
		_ = s.cmd.Wait()
		require.Eventually(t, func() bool { return len(processes(t)) == 0 }, 2*time.Second, 20*time.Millisecond,
			"round %d: killed after %s, processes live on: %v", i, after, processes(t))
		require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			require.NoError(t, err)
			rel, _ := filepath.Rel(dir, path)
			require.Contains(t, []string{".", "run", "run/run.json", "run/records.jsonl"}, rel, "a file is left")
			return nil
		}))
		t.Logf("round %d: killed after %s", i, after.Round(time.Millisecond))
	}
	require.Equal(t, wires, links(t))
	for name, now := range sysctls(t) {
		if !moving.MatchString(name) {
			require.Equal(t, before[name], now, name)
		}
	}
}

// Ctrl-C ends a run within 2 s and keeps what was measured.
func TestInterruptKeepsTheRecordsOfEndedTrials(t *testing.T) {
	requireLab(t)
	dir := t.TempDir()
	s := start(t, dir, "keepalive", "--set", "traffic.count=1000", "--set", "hold=300ms", "-o", "run")
	s.await(t, `^\[2/3 .*\] load`)
	begin := time.Now()
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	m := s.await(t, `^twlab: interrupted: (.*)$`)
	err := s.cmd.Wait()
	require.Less(t, time.Since(begin), 2*time.Second)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 130, exit.ExitCode())
	require.Equal(t, "the records of ended trials (1 of 3) are in run", m[1])
	require.Empty(t, processes(t))
	run, err := results.Open(filepath.Join(dir, "run"))
	require.NoError(t, err)
	require.Len(t, run.Records, 1)
	require.Contains(t, run.Warnings[0], "2 of 3 trials have no record")

	// Before any trial has ended there is nothing to keep.
	s = start(t, dir, "keepalive", "-o", "none")
	s.await(t, `^\[1/3 .*\] load`)
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.await(t, `^twlab: interrupted: no trial had ended, nothing is kept$`)
	require.ErrorAs(t, s.cmd.Wait(), &exit)
	require.Equal(t, 130, exit.ExitCode())
	require.NoDirExists(t, filepath.Join(dir, "none"))
}
