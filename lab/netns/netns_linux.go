// Package netns gives a trial's world a home in namespaces of this kernel: a
// user, PID, mount and network namespace for the trial, one more network
// namespace for each stack, all of them owned by the process that `Start`
// starts and gone when it ends. Nothing has a name, so nothing is left behind.
//
// It uses clone flags on child processes and never setns on a thread:
// /proc/net follows a process's first thread, and the Go runtime moves work
// between threads.
package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/lab"
)

// Backend starts trials as namespaces of this kernel. The zero value works.
type Backend struct{}

// Name implements lab.Backend.
func (Backend) Name() string { return "netns" }

// OpenFiles implements lab.Backend: the hard limit, to which the Go runtime
// lifts the soft one.
func (Backend) OpenFiles() (uint64, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return r.Max, nil
}

// Memory implements lab.Backend: what the kernel says is available, or the
// rest of the control group's limit, whichever is less.
func (Backend) Memory() (uint64, error) {
	fs, err := procfs.NewFS("/proc")
	if err != nil {
		return 0, err
	}
	mem, err := fs.Meminfo()
	if err != nil {
		return 0, fmt.Errorf("read how much memory is available: %w", err)
	}
	if mem.MemAvailableBytes == nil { // before Linux 3.14
		return math.MaxUint64, nil
	}
	free := *mem.MemAvailableBytes
	limit, err1 := number("/sys/fs/cgroup/memory.max")
	used, err2 := number("/sys/fs/cgroup/memory.current")
	if err1 == nil && err2 == nil && limit > used { // "max" is no number: no limit
		free = min(free, limit-used)
	}
	return free, nil
}

func number(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// Start implements lab.Backend. It prefers a user namespace, also for root: a
// program in the lab is never the machine's true root. Root goes without one
// where they are forbidden; an ordinary user gets an error that says what to do.
func (Backend) Start(ctx context.Context) (lab.Trial, error) {
	const world = syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	p, err := start(ctx, syscall.SysProcAttr{
		Cloneflags:  world | syscall.CLONE_NEWUSER,
		UidMappings: ids(os.Geteuid()),
		GidMappings: ids(os.Getegid()),
		// Root's may drop groups, as programs that become nobody do.
		GidMappingsEnableSetgroups: os.Geteuid() == 0,
	}, "trial")
	if err == nil {
		return &trial{process: p, userNS: true}, nil
	}
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EINVAL) {
		return nil, err
	}
	if os.Geteuid() == 0 {
		p, rootErr := start(ctx, syscall.SysProcAttr{Cloneflags: world}, "trial")
		if rootErr == nil {
			return &trial{process: p}, nil
		}
	}
	return nil, Forbidden(err)
}

// Machine starts trials on the machine's own stack, without any namespace: for
// before and after tuning a real machine. It writes no sysctl and adds no
// address; what it leaves are sockets in TIME_WAIT.
type Machine struct{ Backend }

// MachineName is Machine's name, which a trial acts upon.
const MachineName = "host"

// Name implements lab.Backend.
func (Machine) Name() string { return MachineName }

// Start implements lab.Backend.
func (Machine) Start(ctx context.Context) (lab.Trial, error) {
	p, err := start(ctx, syscall.SysProcAttr{}, "trial")
	if err != nil {
		return nil, err
	}
	return &trial{process: p}, nil
}

// Forbidden turns the error of a refused namespace into a sentence that says
// why, as far as the machine tells, and what to do.
func Forbidden(err error) error {
	why := "the kernel or the container it runs in forbids it"
	for _, k := range []struct{ file, value, why string }{
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns is 1"},
	} {
		if b, e := os.ReadFile(k.file); e == nil && strings.TrimSpace(string(b)) == k.value {
			why = k.why
			break
		}
	}
	return fmt.Errorf("make a user namespace for the lab: %s (%w); run as root, or have that setting changed, "+
		"or start the container with user namespaces allowed", why, err)
}

// Exec starts twlab processes inside a trial by fork and exec.
type Exec struct {
	// NewStack gives the process a network namespace of its own.
	NewStack bool
}

// Launch implements lab.Launcher.
func (e Exec) Launch(ctx context.Context, role ...string) (lab.Process, error) {
	attr := syscall.SysProcAttr{}
	if e.NewStack {
		attr.Cloneflags = syscall.CLONE_NEWNET
	}
	return start(ctx, attr, role...)
}

type trial struct {
	*process
	userNS bool
}

func (t *trial) UserNamespace() bool { return t.userNS }

// process is a twlab process on two pipes. Stop may be called more than once.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	stderr *tail

	once sync.Once
	err  error
}

func (p *process) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p *process) PID() int                    { return p.cmd.Process.Pid }

// Stop closes the process's standard input, which every role takes as the
// order to end, and kills what has not ended half a second later.
func (p *process) Stop() error {
	p.once.Do(func() {
		_ = p.in.Close()
		kill := time.AfterFunc(500*time.Millisecond, func() { _ = p.cmd.Process.Kill() })
		p.err = p.cmd.Wait()
		kill.Stop()
		if msg := p.stderr.String(); msg != "" {
			p.err = fmt.Errorf("%w: %s", errOr(p.err, "it wrote"), msg)
		}
	})
	return p.err
}

func errOr(err error, s string) error {
	if err != nil {
		return err
	}
	return errors.New(s)
}

// tail keeps the last of what a process said on standard error.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// start re-executes this very program in a role. The child dies with this
// process, by Pdeathsig and by the end of its standard input.
func start(ctx context.Context, attr syscall.SysProcAttr, role ...string) (*process, error) {
	attr.Pdeathsig = syscall.SIGKILL
	attr.Setpgid = true // a terminal's Ctrl-C is for `twlab run` alone
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{"twlab", "role"}, role...)
	cmd.SysProcAttr = &attr
	p := &process{cmd: cmd, stderr: &tail{}}
	cmd.Stderr = p.stderr
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := spawn(cmd); err != nil {
		return nil, fmt.Errorf("start twlab %s: %w", strings.Join(cmd.Args[1:], " "), unwrapPath(err))
	}
	return p, nil
}

// unwrapPath drops "fork/exec /proc/self/exe:", which says nothing to a person.
func unwrapPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// spawn starts cmd from a thread that lives as long as this process: Pdeathsig
// follows the parent's thread, and the runtime ends threads as it likes.
func spawn(cmd *exec.Cmd) error {
	spawner.Do(func() {
		go func() {
			runtime.LockOSThread()
			for req := range spawns {
				req.done <- req.cmd.Start()
			}
		}()
	})
	done := make(chan error)
	spawns <- spawnRequest{cmd, done}
	return <-done
}

type spawnRequest struct {
	cmd  *exec.Cmd
	done chan error
}

var (
	spawner sync.Once
	spawns  = make(chan spawnRequest)
)

// PrepareTrial is for the trial's first process, before it starts a stack: it
// keeps mounts private and sizes the hash table of the stacks to come. Its
// failure with EPERM means a user namespace without the powers it should have.
func PrepareTrial() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return Forbidden(fmt.Errorf("make mounts private: %w", err))
	}
	// Since Linux 6.1; before, all namespaces share the machine's table.
	err := lab.SetSysctl("net.ipv4.tcp_child_ehash_entries", fmt.Sprint(lab.HashEntries))
	if errors.Is(err, os.ErrPermission) {
		return Forbidden(err)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
