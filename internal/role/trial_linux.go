package role

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/internal/pace"
	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/lab/netns"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

// settleFor bounds the wait for the last segments after the load. It covers
// several retransmissions of a FIN.
const settleFor = 5 * time.Second

// trial is the first process of a world. All its fields belong to one
// goroutine; frames of the stacks come through events.
type trial struct {
	up     *peer
	rec    *results.Record
	stacks []*wire.Conn // as in rec.Stacks
	at     map[string]*wire.Conn
	events chan event
	clock  pace.Clock
	ended  map[int]bool                // stacks whose work is done
	early  []event                     // answers that came before they were waited for
	latest map[string]measure.Snapshot // the last full look at each stack
}

type event struct {
	stack int
	wire.Frame
	err error
}

func runTrial(ctx context.Context, p *peer) error {
	f, err := p.next(ctx)
	if err != nil {
		return err
	}
	t := &trial{up: p, rec: &results.Record{}, at: map[string]*wire.Conn{}, events: make(chan event, 64), latest: map[string]measure.Snapshot{}, ended: map[int]bool{}}
	if err := f.Decode(t.rec); err != nil {
		return err
	}
	epoch := pace.Monotonic()
	t.clock = pace.NewClock(epoch)
	t.rec.Schema, t.rec.Started = results.Schema, time.Now().UTC()
	if err := environment(&t.rec.Environment); err != nil {
		return err
	}
	if !t.onMachine() {
		if err := netns.PrepareTrial(); err != nil {
			return err
		}
	}
	world, c, s, err := t.rec.Trial.World()
	if err != nil {
		return err
	}
	traffic := t.rec.Trial.Settings.Traffic
	if traffic.Protocol.TLS() {
		if s.Stdlib.Certificate, s.Stdlib.Key, err = certificate(world.Servers); err != nil {
			return err
		}
		c.Stdlib.Roots = s.Stdlib.Certificate
	}
	t.rec.Environment.Engine = traffic.Engine.String()
	ports := []uint16{}
	for _, a := range s.Listen {
		ports = append(ports, a.Port())
	}
	for _, d := range s.Doors {
		ports = append(ports, d.At.Port())
	}
	if err := t.build(ctx, world, ports, epoch); err != nil {
		return err
	}
	if err := t.trace(ctx); err != nil { // no socket is there yet
		return err
	}
	type driver struct {
		host, role string
		options    any
	}
	drivers := []driver{{"server", "server", s}}
	if t.at[lab.ProxyHost] != nil {
		drivers = append(drivers, driver{lab.ProxyHost, "program", t.rec.Trial})
	}
	for _, d := range append(drivers, driver{"client", "client", c}) {
		if err := t.order(frameStart, d.host, start{Role: d.role, Engine: traffic.Engine, Epoch: epoch, Options: d.options}); err != nil {
			return err
		}
		if _, err := t.await(ctx, frameReady, d.host); err != nil {
			return fmt.Errorf("start %s: %w", d.host, err)
		}
	}
	if err := t.phases(ctx); err != nil {
		return err
	}
	t.warn()
	return p.Send(results.FrameRecord, "", t.rec)
}

// build makes the stacks, joins them, and has them configured.
func (t *trial) build(ctx context.Context, world lab.World, ports []uint16, epoch int64) error {
	var launcher lab.Launcher = netns.Exec{NewStack: !t.onMachine()}
	var pids []int
	for i, s := range world.Stacks {
		proc, err := launcher.Launch(ctx, "stack", s.Name)
		if err != nil {
			return err
		}
		conn := wire.New(proc, proc)
		t.stacks = append(t.stacks, conn)
		pids = append(pids, proc.PID())
		go func() { // ends with the process, which ends with this one
			for {
				f, err := conn.Recv()
				if err != nil {
					err = errOr(proc.Stop(), err)
				}
				t.events <- event{i, f, err}
				if err != nil {
					return
				}
			}
		}()
	}
	for i := 1; i < len(pids); i++ {
		if err := netns.Join(pids[i-1], pids[i], i > 1); err != nil {
			if errors.Is(err, unix.EPERM) {
				return netns.Forbidden(err)
			}
			return err
		}
	}
	t.rec.Stacks = make([]results.Stack, len(world.Stacks))
	for i, s := range world.Stacks {
		o := setup{Stack: s, Link: world.Link, Epoch: epoch, Found: t.onMachine(), Hosts: []measure.Host{{Name: s.Name}}}
		if world.Link.Shared() {
			o.Hosts = []measure.Host{{Name: "server", LocalPorts: ports}, {Name: "client", RemotePorts: ports}}
		}
		for _, h := range o.Hosts {
			t.at[h.Name] = t.stacks[i]
		}
		if err := t.stacks[i].Send(frameSetup, s.Name, o); err != nil {
			return err
		}
	}
	for i, s := range world.Stacks {
		f, err := t.await(ctx, frameConfigured, s.Name)
		if err != nil {
			return err
		}
		if err := f.Decode(&t.rec.Stacks[i]); err != nil {
			return err
		}
		if err := t.up.Send(results.FrameStack, s.Name, t.rec.Stacks[i]); err != nil {
			return err
		}
	}
	return nil
}

// onMachine says whether the trial runs on the machine's own stack.
func (t *trial) onMachine() bool { return t.rec.Environment.Backend == netns.MachineName }

// phases runs load and hold, and collects what everybody counted.
func (t *trial) phases(ctx context.Context) error {
	if err := t.phase(ctx, results.Load); err != nil {
		return err
	}
	if err := t.order(frameGo, "client", nil); err != nil {
		return err
	}
	f, err := t.await(ctx, frameDone, "client")
	if err != nil {
		return err
	}
	if err := f.Decode(&t.rec.Client); err != nil {
		return err
	}
	if err := t.order(frameRelease, "server", nil); err != nil {
		return err
	}
	if err := t.settle(ctx); err != nil {
		return err
	}
	if err := t.phase(ctx, results.Hold); err != nil {
		return err
	}
	if err := t.setSysctls(ctx, t.rec.Trial.Settings.HoldSysctls); err != nil {
		return err
	}
	hold := time.Duration(t.rec.Trial.Settings.Hold)
	if t.rec.Trial.Settings.Refilled() {
		if err := t.rest(ctx, scenarios.FreshFor); err != nil {
			return err
		}
		if err := t.refill(ctx, hold-scenarios.FreshFor); err != nil {
			return err
		}
		hold = 0
	}
	if err := t.rest(ctx, hold); err != nil {
		return err
	}
	if err := t.look(ctx, results.Hold); err != nil {
		return err
	}
	t.endPhase()
	if err := t.trace(ctx); err != nil {
		return err
	}
	if err := t.order(frameStop, "server", nil); err != nil {
		return err
	}
	if f, err = t.await(ctx, frameDone, "server"); err != nil {
		return err
	}
	if err := f.Decode(&t.rec.Server); err != nil {
		return err
	}
	if t.at[lab.ProxyHost] != nil {
		if err := t.order(frameStop, lab.ProxyHost, nil); err != nil {
			return err
		}
		if f, err = t.await(ctx, frameDone, lab.ProxyHost); err != nil {
			return err
		}
		t.rec.Proxy = &lab.ProgramStats{}
		if err := f.Decode(t.rec.Proxy); err != nil {
			return err
		}
	}
	for i := range t.stacks {
		s := &t.rec.Stacks[i]
		if err := t.ask(ctx, i, frameFinish, nil, frameCost, &s.Sampler); err != nil {
			return err
		}
		t.ended[i] = true
		// What the sampler saw after the last look is past the hold.
		s.Snapshots = slices.DeleteFunc(s.Snapshots, func(snap measure.Snapshot) bool { return snap.Begin > t.latest[s.Name].Begin })
	}
	return nil
}

// trace asks whoever may trace the kernel what was counted on the stacks since it was asked last; the first
// time that is an earlier trial's, whose namespaces had the same numbers.
func (t *trial) trace(ctx context.Context) error {
	if t.rec.Environment.Untraced != "" {
		return nil
	}
	if err := t.up.Send(results.FrameTrace, "", nil); err != nil {
		return err
	}
	f, err := t.up.next(ctx)
	if err != nil {
		return err
	}
	var counted map[string][]measure.Transition
	if err := f.Decode(&counted); err != nil {
		return err
	}
	for i := range t.rec.Stacks {
		t.rec.Stacks[i].Transitions = counted[t.rec.Stacks[i].Name]
	}
	return nil
}

// rest lets time pass, and handles what comes.
func (t *trial) rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case e := <-t.events:
			if err := t.handle(e); err != nil {
				return err
			}
		}
	}
}

// refillEvery is the pause between two looks at what has died of age.
const refillEvery = 200 * time.Millisecond

// refill has sockets in TIME_WAIT made anew as they die, for so long, and
// ends when all are there.
func (t *trial) refill(ctx context.Context, d time.Duration) error {
	want := t.rec.Trial.Settings.Population.Of(measure.TimeWait)
	for begin := t.clock.Now(); ; {
		if err := t.look(ctx, results.Hold); err != nil {
			return err
		}
		have := 0
		for _, s := range t.latest {
			have += s.Sockets.Host("client")[measure.TimeWait]
		}
		over := t.clock.Now() - begin - int64(d)
		if have >= want && over >= 0 || over > int64(settleFor) {
			return nil
		}
		if have < want {
			if err := t.order(frameRefill, "client", want-have); err != nil {
				return err
			}
			if _, err := t.await(ctx, frameRefilled, "client"); err != nil {
				return err
			}
			over = -int64(refillEvery) // the server's last FINs may be on their way
		}
		if err := t.rest(ctx, min(refillEvery, time.Duration(max(0, -over)))); err != nil {
			return err
		}
	}
}

// setSysctls sets sysctls on all stacks while the trial runs.
func (t *trial) setSysctls(ctx context.Context, sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	for i := range t.stacks {
		s := &t.rec.Stacks[i]
		if err := t.ask(ctx, i, frameSysctls, sysctls, frameSet, &s.HoldSysctls); err != nil {
			return err
		}
	}
	return nil
}

// phase starts a phase on all stacks, and ends the one before.
func (t *trial) phase(ctx context.Context, name string) error {
	t.endPhase()
	ph := results.Phase{Name: name, Begin: t.clock.Now()}
	t.rec.Phases = append(t.rec.Phases, ph)
	if err := t.up.Send(results.FramePhase, "", ph); err != nil {
		return err
	}
	return t.look(ctx, name)
}

func (t *trial) endPhase() {
	if n := len(t.rec.Phases); n > 0 {
		t.rec.Phases[n-1].End = t.clock.Now()
	}
}

// look takes a full snapshot of every stack.
func (t *trial) look(ctx context.Context, phase string) error {
	for i, conn := range t.stacks {
		if err := conn.Send(frameMark, t.rec.Stacks[i].Name, phase); err != nil {
			return err
		}
	}
	for i := range t.stacks {
		f, err := t.await(ctx, frameMarked, t.rec.Stacks[i].Name)
		if err != nil {
			return err
		}
		var s measure.Snapshot
		if err := f.Decode(&s); err != nil {
			return err
		}
		t.latest[t.rec.Stacks[i].Name] = s
	}
	return nil
}

// settle waits until all connections are closed on both sides: the load ends
// with the last of its segments, not with the client's last system call.
func (t *trial) settle(ctx context.Context) error {
	for begin := t.clock.Now(); ; {
		if err := t.look(ctx, results.Load); err != nil {
			return err
		}
		left := t.missing()
		for _, s := range t.latest {
			for host := range s.Sockets {
				counts := s.Sockets.Host(host)
				for _, state := range measure.States {
					if n := counts[state]; n > 0 && !t.rests(host, state) {
						left += fmt.Sprintf(" still %d %s on the %s;", n, state, host)
					}
				}
			}
		}
		if left == "" {
			return nil
		}
		if t.clock.Now()-begin > int64(settleFor) {
			t.rec.Warnings = append(t.rec.Warnings, fmt.Sprintf("%s after the load:%s", settleFor, left))
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// missing says which states of the population are not there to the number.
func (t *trial) missing() string {
	out := ""
	for _, m := range t.rec.Trial.Settings.Population {
		for _, s := range t.latest {
			if _, here := s.Sockets[m.Host()]; !here {
				continue
			}
			got := s.Sockets.Host(m.Host())[m.State]
			unowned := m.State == measure.Listen || m.State == measure.Close
			switch {
			case got == m.N:
			case unowned && t.rec.Trial.Settings.Link.Shared():
				// No port tells whose they are.
			case m.State == measure.Close && got == 0:
				// Before Linux 6.8 no one lists bound sockets; warn says so.
			default:
				out += fmt.Sprintf(" %d %s were asked for on the %s and there are %d;", m.N, m.State, m.Host(), got)
			}
		}
	}
	return out
}

// rests says whether a host's sockets may stay in that state after the load.
func (t *trial) rests(host string, state measure.State) bool {
	if len(t.rec.Trial.Settings.Population) > 0 || t.at[lab.ProxyHost] != nil && host != "client" {
		return true // a proxy's pool stays open, and it closes when it likes
	}
	silent := t.rec.Trial.Settings.Traffic.Silent > 0
	if t.rec.Trial.Settings.Traffic.Leaves() {
		return true // that is what the trial is about
	}
	switch state {
	case measure.SynSent, measure.SynRecv:
		return silent
	case measure.Listen, measure.TimeWait, measure.Close:
		return true
	case measure.FinWait2:
		return host == "client" && t.rec.Trial.Settings.Traffic.ServerForgets > 0
	case measure.CloseWait:
		return host == "server" && t.rec.Trial.Settings.Traffic.ServerForgets > 0
	}
	return false
}

// ask sends a frame to a stack and unpacks its answer.
func (t *trial) ask(ctx context.Context, stack int, kind string, body any, answer string, into any) error {
	name := t.rec.Stacks[stack].Name
	if err := t.stacks[stack].Send(kind, name, body); err != nil {
		return err
	}
	f, err := t.await(ctx, answer, name)
	if err != nil {
		return err
	}
	return f.Decode(into)
}

// order sends a frame to the stack of a host.
func (t *trial) order(kind, host string, body any) error { return t.at[host].Send(kind, host, body) }

// await handles frames until the one of that kind and host comes.
func (t *trial) await(ctx context.Context, kind, host string) (wire.Frame, error) {
	for i, e := range t.early {
		if e.Kind == kind && e.Host == host {
			t.early = slices.Delete(t.early, i, i+1)
			return e.Frame, nil
		}
	}
	for {
		select {
		case <-ctx.Done():
			return wire.Frame{}, ctx.Err()
		case e := <-t.events:
			if e.err == nil && e.Kind == kind && e.Host == host {
				return e.Frame, nil
			}
			if err := t.handle(e); err != nil {
				return wire.Frame{}, err
			}
		}
	}
}

// handle deals with a frame that nobody waits for.
func (t *trial) handle(e event) error {
	s := &t.rec.Stacks[e.stack]
	switch {
	case e.err != nil && t.ended[e.stack]:
		return nil
	case e.err != nil:
		return fmt.Errorf("stack %s ended: %w", s.Name, e.err)
	case e.Kind == results.FrameError:
		var why string
		if err := e.Decode(&why); err != nil {
			return err
		}
		return errors.New(why)
	case e.Kind == results.FrameSnapshot:
		var snap measure.Snapshot
		if err := e.Decode(&snap); err != nil {
			return err
		}
		s.Snapshots = append(s.Snapshots, snap)
		return t.up.Forward(e.Frame)
	case e.Kind == results.FrameStats:
		return t.up.Forward(e.Frame)
	case e.Kind == frameIdle:
		return t.order(frameRelease, "server", nil)
	}
	t.early = append(t.early, e)
	return nil
}

// warn says what the reader of the figures must know.
func (t *trial) warn() {
	r := t.rec
	add := func(format string, args ...any) { r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...)) }
	c, tr := r.Client, r.Trial.Settings.Traffic
	if c.Started < tr.Count {
		add("load not reached: %d of %d requests were started when the time was over", c.Started, tr.Count)
	}
	// Trials that only count may be late: what they count does not depend on it.
	if c.Late*20 > c.Started && (!r.Trial.Parallel || c.LateMost > int64(100*time.Millisecond)) {
		add("the rate was not held: more than 5 %% of the requests started over 1 ms late (see client.requests.late)")
	}
	if c.Opened != r.Server.Accepted && len(r.Trial.Settings.Population) == 0 && r.Proxy == nil {
		add("the client opened %d connections, the server accepted %d", c.Opened, r.Server.Accepted)
	}
	for _, e := range c.Errors {
		on := "a new connection"
		if e.Reused {
			on = "a reused connection"
		}
		add("%d requests met %s in %s on %s", e.Count, e.Errno, e.Phase, on)
	}
	for _, e := range r.Server.Errors {
		add("the server met %s in %s, %d times", e.Errno, e.Phase, e.Count)
	}
	m := r.Metrics()
	for _, s := range r.Stacks {
		if n := m[s.Name+".timewait_socks.refused"]; n > 0 {
			add("%.0f sockets of stack %s were refused TIME_WAIT: tcp_max_tw_buckets is %s", n, s.Name, s.Sysctls["net.ipv4.tcp_max_tw_buckets"])
		}
		if n := s.Sampler.Inconsistent; n > 0 {
			add("%d of %d socket tables of stack %s changed while they were read", n, s.Sampler.Dumps, s.Name)
		}
		if n := s.Sampler.Late; n > s.Sampler.Snapshots/10 {
			add("the sampler of stack %s missed %d of its turns", s.Name, n)
		}
	}
	if n := r.Trial.Settings.Population.Of(measure.Close); n > 0 && m["client.close.peak"] == 0 && !r.Trial.Settings.Link.Shared() {
		add("%d bound sockets are there, and this kernel lists none: sock_diag shows CLOSE since Linux 6.8", n)
	}
	if t.onMachine() {
		s := r.Stacks[0]
		if tw := s.Snapshots[0].Sockets.Host("client")[measure.TimeWait] + s.Snapshots[0].Sockets.Host("server")[measure.TimeWait]; tw > 0 {
			add("%d sockets in TIME_WAIT on port %d were there before: wait a minute, or --set traffic.port=N", tw, r.Trial.Settings.Traffic.Port)
		}
		add("this was the machine's own stack: stack.* counts all of its traffic, and sockets in TIME_WAIT remain for about 62 s")
	}
	if r.Environment.Backend == "netns" && !r.Environment.UserNamespace {
		add("the lab had no user namespace of its own: they are forbidden here, and root went without")
	}
}

// environment fills in what only a process on that kernel can tell.
func environment(e *results.Environment) error {
	e.Go, e.OS, e.Arch, e.CPUs = runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	e.Kernel = unix.ByteSliceToString(u.Release[:])
	files, err := netns.Backend{}.OpenFiles()
	if err != nil {
		return err
	}
	e.OpenFiles = files
	fs, err := procfs.NewFS("/proc")
	if err != nil {
		return err
	}
	// The two below are for the reader's eye: without them the record is whole.
	if cpus, err := fs.CPUInfo(); err == nil && len(cpus) > 0 {
		e.CPU = cpus[0].ModelName
	}
	if mem, err := fs.Meminfo(); err == nil && mem.MemTotalBytes != nil {
		e.Memory = int64(*mem.MemTotalBytes)
	}
	return nil
}
