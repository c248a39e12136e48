package main

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

// watcher shows how a run goes on: bars on a terminal, plain lines off it.
// Its methods are for one goroutine.
type watcher struct {
	env   env
	total int
	quiet bool

	bars    progress.Writer // nil off a terminal
	stopped sync.WaitGroup
	tracker *progress.Tracker

	trial  int
	counts map[string]measure.Counts // by host, last seen
}

func newProgress(e env, p *scenarios.Plan, quiet bool) *watcher {
	w := &watcher{env: e, total: len(p.Trials), quiet: quiet, counts: map[string]measure.Counts{}}
	f, ok := e.err.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return w
	}
	w.bars = progress.NewWriter()
	w.bars.SetOutputWriter(f)
	w.bars.SetAutoStop(false)
	w.bars.SetMessageLength(24)
	w.bars.SetTrackerLength(20)
	w.bars.SetStyle(progress.StyleBlocks)
	w.bars.Style().Visibility.ETA = false
	w.bars.Style().Visibility.Speed = false
	w.stopped.Go(w.bars.Render)
	return w
}

func (w *watcher) observe(t scenarios.Trial, f wire.Frame) {
	if w.quiet {
		return
	}
	if t.Number != w.trial {
		w.trial = t.Number
		if w.bars != nil {
			w.tracker = &progress.Tracker{Message: fmt.Sprintf("%d/%d %s", t.Number, w.total, t.Variant), Total: t.Cost().Requests}
			w.bars.AppendTracker(w.tracker)
		}
	}
	switch f.Kind {
	case results.FrameStack:
		var s results.Stack
		if f.Decode(&s) == nil {
			w.line(t, "%s is up; look into it with: %s", s.Name, enter(s.PID))
		}
	case results.FramePhase:
		var p results.Phase
		if f.Decode(&p) == nil {
			w.line(t, "%s%s", p.Name, w.states())
			if p.Name == results.Hold && w.tracker != nil {
				w.tracker.UpdateMessage(fmt.Sprintf("%d/%d %s, hold", t.Number, w.total, t.Variant))
			}
		}
	case results.FrameSnapshot:
		var s measure.Snapshot
		if f.Decode(&s) != nil {
			return
		}
		for host := range s.Sockets {
			w.counts[host] = s.Sockets.Host(host)
		}
		if w.bars != nil {
			w.bars.SetPinnedMessages(strings.TrimPrefix(w.states(), ": "))
		}
	case results.FrameStats:
		var s client.Stats
		if f.Host == "client" && w.tracker != nil && f.Decode(&s) == nil {
			w.tracker.SetValue(s.OK + s.Failed)
		}
	case results.FrameRecord:
		w.line(t, "done%s", w.states())
		clear(w.counts)
		if w.tracker != nil {
			w.tracker.UpdateMessage(fmt.Sprintf("%d/%d %s", t.Number, w.total, t.Variant))
			w.tracker.SetValue(w.tracker.Total)
			w.tracker.MarkAsDone()
		}
	case results.FrameError:
		if w.tracker != nil {
			w.tracker.MarkAsErrored()
		}
	}
}

// line is for people who read along off a terminal.
func (w *watcher) line(t scenarios.Trial, format string, args ...any) {
	if w.bars == nil {
		_, _ = fmt.Fprintf(w.env.err, "[%d/%d %s] %s\n", t.Number, w.total, t.Variant, fmt.Sprintf(format, args...))
	}
}

// enter is the command that opens a shell's view into a stack.
func enter(pid int) string {
	if os.Geteuid() == 0 {
		return fmt.Sprintf("nsenter -t %d -n ss -tan", pid)
	}
	return fmt.Sprintf("nsenter -t %d -U -n --preserve-credentials ss -tan", pid)
}

// states writes the sockets that were seen last, by host.
func (w *watcher) states() string {
	out := ""
	for _, host := range []string{"client", "server"} {
		for _, s := range measure.States {
			if n := w.counts[host][s]; n > 0 && s != measure.Listen {
				out += fmt.Sprintf(", %s %d %s", host, n, s)
			}
		}
	}
	if out == "" {
		return ""
	}
	return ": " + strings.TrimPrefix(out, ", ")
}

// stop leaves the bars as they are and gives the terminal back.
func (w *watcher) stop() {
	if w.bars != nil {
		w.bars.SetPinnedMessages()
		w.bars.Stop()
		w.stopped.Wait()
	}
}
