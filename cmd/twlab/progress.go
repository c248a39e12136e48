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

// watcher shows how runs go on: bars on a terminal, plain lines off it. Its
// methods are for one goroutine.
type watcher struct {
	env   env
	quiet bool

	bars    progress.Writer // nil off a terminal
	stopped sync.WaitGroup
	trials  map[string]*watched
}

// watched is what is known of a trial under way.
type watched struct {
	name    string // "2/3 keepalive"
	tracker *progress.Tracker
	counts  map[string]measure.Counts // by host, last seen
}

func newProgress(e env, plans []*scenarios.Plan, quiet bool) *watcher {
	w := &watcher{env: e, quiet: quiet, trials: map[string]*watched{}}
	f, ok := e.err.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return w
	}
	longest := 0
	for _, p := range plans {
		for _, t := range p.Trials {
			longest = max(longest, len(trialName(p, t))+len(", hold"))
		}
	}
	w.bars = progress.NewWriter()
	w.bars.SetOutputWriter(f)
	w.bars.SetAutoStop(false)
	w.bars.SetMessageLength(min(60, longest))
	w.bars.SetTrackerLength(20)
	w.bars.SetStyle(progress.StyleBlocks)
	w.bars.Style().Visibility.ETA = false
	w.bars.Style().Visibility.Speed = false
	w.stopped.Go(w.bars.Render)
	return w
}

// trialName is how progress calls a trial.
func trialName(p *scenarios.Plan, t scenarios.Trial) string {
	return fmt.Sprintf("%d/%d %s", t.Number, len(p.Trials), t.Variant)
}

func (w *watcher) observe(p *scenarios.Plan, t scenarios.Trial, f wire.Frame) {
	if w.quiet {
		return
	}
	key := fmt.Sprint(t.Scenario, t.Number)
	at := w.trials[key]
	if at == nil {
		at = &watched{name: trialName(p, t), counts: map[string]measure.Counts{}}
		w.trials[key] = at
		if w.bars != nil {
			at.tracker = &progress.Tracker{Message: at.name, Total: t.Cost().Requests}
			w.bars.AppendTracker(at.tracker)
		}
	}
	switch f.Kind {
	case results.FrameStack:
		var s results.Stack
		if f.Decode(&s) == nil {
			w.line(at, "%s is up; look into it with: %s", s.Name, enter(s.PID))
		}
	case results.FramePhase:
		var ph results.Phase
		if f.Decode(&ph) == nil {
			w.line(at, "%s%s", ph.Name, at.states())
			if ph.Name == results.Hold && at.tracker != nil {
				at.tracker.UpdateMessage(at.name + ", hold")
			}
		}
	case results.FrameSnapshot:
		var s measure.Snapshot
		if f.Decode(&s) != nil {
			return
		}
		for host := range s.Sockets {
			at.counts[host] = s.Sockets.Host(host)
		}
		if w.bars != nil {
			w.bars.SetPinnedMessages(at.name + at.states())
		}
	case results.FrameStats:
		var s client.Stats
		if f.Host == "client" && at.tracker != nil && f.Decode(&s) == nil {
			at.tracker.SetValue(s.OK + s.Failed)
		}
	case results.FrameRecord:
		w.line(at, "done%s", at.states())
		if at.tracker != nil {
			at.tracker.UpdateMessage(at.name)
			at.tracker.SetValue(at.tracker.Total)
			at.tracker.MarkAsDone()
		}
		delete(w.trials, key)
	case results.FrameError:
		if at.tracker != nil {
			at.tracker.MarkAsErrored()
		}
	}
}

// line is for people who read along off a terminal.
func (w *watcher) line(at *watched, format string, args ...any) {
	if w.bars == nil {
		_, _ = fmt.Fprintf(w.env.err, "[%s] %s\n", at.name, fmt.Sprintf(format, args...))
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
func (w *watched) states() string {
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
