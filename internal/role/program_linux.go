package role

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/lab/netns"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/measure/sockdiag"
	"github.com/twlab/twlab/scenarios"
)

// Bounds of what a foreign program may take of our patience.
const (
	readyWithin   = 10 * time.Second // until it listens
	versionWithin = 5 * time.Second
	stopWithin    = 2 * time.Second // after SIGTERM
	keptOutput    = 64 << 10        // bytes of its output
	longestLine   = 8 << 10         // of output, for the patterns of a log
)

// runProgram is the driver of a host that is somebody else's program.
func runProgram(ctx context.Context, p *peer) error {
	var t scenarios.Trial
	if _, err := p.options(ctx, &t); err != nil {
		return err
	}
	dir, err := netns.PrivateDir()
	if err != nil {
		return err
	}
	o, err := t.Program(dir)
	if err != nil {
		return err
	}
	for name, text := range o.Files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil { //nolint:gosec // the program is another user
			return err
		}
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "LANG=C"}
	for name, value := range o.Env {
		env = append(env, name+"="+value)
	}
	stats := lab.ProgramStats{Command: o.Command}
	if stats.Version, err = version(o, env, dir); err != nil {
		return err
	}
	out, err := newOutput(o.Log)
	if err != nil {
		return err
	}
	cmd, err := netns.StartProgram(o.Command, env, dir, out)
	if err != nil {
		return err
	}
	ended := make(chan ending, 1)
	go func() { ended <- ending{cmd.Wait()} }()
	if err := listening(ctx, o, ended); err != nil {
		return fmt.Errorf("%w%s", err, out.said(dir, o.Mends))
	}
	if err := p.Send(frameReady, "", nil); err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for {
			if f, err := p.next(ctx); err != nil || f.Kind == frameStop {
				return
			}
		}
	}()
	select {
	case e := <-ended:
		return fmt.Errorf("%s ended in the middle of the trial (%s)%s", o.Command[0], how(e.err), out.said(dir, o.Mends))
	case <-stop:
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(stopWithin):
		_ = cmd.Process.Kill()
		<-ended
	}
	if s := cmd.ProcessState; s != nil {
		stats.CPU = int64(s.UserTime() + s.SystemTime())
	}
	stats.Output, stats.OutputBytes, stats.Log = out.result()
	return p.Send(frameDone, "", stats)
}

// ending is how a program ended.
type ending struct{ err error }

// version runs the program's command for that, and returns its first line.
func version(o *lab.Program, env []string, dir string) (string, error) {
	if len(o.Version) == 0 {
		return "", nil
	}
	var b bytes.Buffer
	cmd, err := netns.StartProgram(o.Version, env, dir, &b)
	if err != nil {
		return "", err
	}
	kill := time.AfterFunc(versionWithin, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %s", strings.Join(o.Version, " "), how(err))
	}
	line, _, _ := strings.Cut(strings.TrimSpace(b.String()), "\n")
	return line, nil
}

// listening waits until somebody listens on the program's port.
func listening(ctx context.Context, o *lab.Program, ended <-chan ending) error {
	open := func() bool {
		diag, err := sockdiag.Open()
		if err != nil {
			return false
		}
		found := false
		_, _ = diag.Sockets(func(s measure.Socket) { found = found || s.State == measure.Listen && s.LocalPort == o.Port })
		return found
	}
	deadline := time.After(readyWithin)
	for {
		select {
		case e := <-ended:
			if e.err == nil && open() {
				return fmt.Errorf("%s went to the background: have it stay in the foreground (nginx: daemon off;)", o.Command[0])
			}
			return fmt.Errorf("%s ended before it listened on port %d (%s)", o.Command[0], o.Port, how(e.err))
		case <-deadline:
			return fmt.Errorf("%s did not listen on port %d within %s", o.Command[0], o.Port, readyWithin)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
			if open() {
				select {
				case e := <-ended: // it may have forked
					ended = again(e)
				case <-time.After(50 * time.Millisecond):
					return nil
				}
			}
		}
	}
}

// again gives back what was taken from a channel.
func again(e ending) <-chan ending {
	c := make(chan ending, 1)
	c <- e
	return c
}

func how(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return strings.TrimPrefix(err.Error(), "wait: ")
}

// output keeps the last of what a program writes, and counts lines.
type output struct {
	mu      sync.Mutex
	kept    []byte
	total   int64
	line    []byte // not yet ended
	pattern map[string]*regexp.Regexp
	matched map[string]int64
}

func newOutput(log map[string]string) (*output, error) {
	o := &output{pattern: map[string]*regexp.Regexp{}, matched: map[string]int64{}}
	for name, expr := range log {
		re, err := regexp.Compile(expr)
		if err != nil {
			return nil, err
		}
		o.pattern[name], o.matched[name] = re, 0
	}
	return o, nil
}

// Write never fails: a program that writes much is not held up for long.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total += int64(len(b))
	o.kept = append(o.kept, b...)
	if n := len(o.kept) - keptOutput; n > 0 {
		o.kept = append(o.kept[:0], o.kept[n:]...)
	}
	for rest := b; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			if len(o.line) < longestLine {
				o.line = append(o.line, rest...)
			}
			break
		}
		o.line = append(o.line, rest[:i]...)
		o.count()
		o.line, rest = o.line[:0], rest[i+1:]
	}
	return len(b), nil
}

func (o *output) count() {
	for name, re := range o.pattern {
		if re.Match(o.line) {
			o.matched[name]++
		}
	}
}

// said is the end of the output as a clause of an error, with what mends it. The
// program's directory is nobody's business.
func (o *output) said(dir string, mends map[string]string) string {
	time.Sleep(50 * time.Millisecond) // the last words may still be in the pipe
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(o.kept)), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	text := strings.ReplaceAll(strings.Join(lines, "\n  "), dir+"/", "")
	if text == "" {
		return "; it said nothing"
	}
	said := "; it said:\n  " + text
	for _, expr := range slices.Sorted(maps.Keys(mends)) {
		if re, err := regexp.Compile(expr); err == nil && re.MatchString(text) {
			said += "\n" + mends[expr]
		}
	}
	return said
}

func (o *output) result() (kept string, total int64, matched map[string]int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count()
	return string(o.kept), o.total, o.matched
}
