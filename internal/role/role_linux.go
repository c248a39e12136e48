// Package role is what a re-executed twlab process does: the first process of
// a trial, the keeper of a stack, a client or a server. They are started by
// each other, never by a person, and speak in frames on standard input and
// output. Each ends when its standard input does.
//
//	trial            makes stacks, joins links, says when what happens, writes the record
//	└ stack NAME     a network namespace: sysctls, addresses, the sampler
//	  └ client       a driver, alone in its process
//	  └ server
//	  └ program    somebody else's, as the host proxy
//
// Only this package knows the back rooms that work inside a trial.
package role

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

// Frames within a trial. Host says which driver a frame is for or from.
const (
	frameSetup      = "setup"      // trial to stack: setup
	frameConfigured = "configured" // back: results.Stack
	frameStart      = "start"      // trial to stack: start; a driver process
	frameReady      = "ready"      // driver to trial
	frameGo         = "go"         // trial to client
	frameIdle       = "idle"       // client to trial: the pool waits to be closed
	frameRefill     = "refill"     // trial to client: int, sockets in TIME_WAIT to make anew
	frameRefilled   = "refilled"   // back
	frameRelease    = "release"    // trial to server: close what is open
	frameStop       = "stop"       // trial to server
	frameDone       = "done"       // driver to trial: final stats
	frameMark       = "mark"       // trial to stack: string, a phase; a full snapshot
	frameMarked     = "marked"     // back: measure.Snapshot
	frameSysctls    = "sysctls"    // trial to stack: map of sysctls to set now
	frameSet        = "set"        // back: map of sysctls as read back
	frameFinish     = "finish"     // trial to stack
	frameCost       = "cost"       // back: measure.Cost
	frameOptions    = "options"    // stack to driver: start
)

// setup is what a stack is told.
type setup struct {
	Stack lab.Stack      `json:"stack"`
	Link  lab.Link       `json:"link"`
	Hosts []measure.Host `json:"hosts"`
	Epoch int64          `json:"epoch"` // CLOCK_MONOTONIC at the trial's start, ns
	// Found says that the stack is the machine's own, and stays as it is.
	Found bool `json:"found,omitempty"`
}

// start is what a driver is told. Options are those of its role.
type start struct {
	Role    string           `json:"role"`             // "client", "server" or "program"
	Engine  scenarios.Engine `json:"engine,omitempty"` // of a client or server
	Epoch   int64            `json:"epoch"`
	Options any              `json:"options"`
}

// Main runs a role until its work is done, its input ends, or ctx does.
func Main(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &peer{Conn: wire.New(in, out), frames: make(chan wire.Frame, 16), cancel: cancel}
	go p.read()
	var err error
	switch {
	case len(args) == 1 && args[0] == "trial":
		err = runTrial(ctx, p)
	case len(args) == 2 && args[0] == "stack":
		err = runStack(ctx, p, args[1])
	case len(args) == 1 && args[0] == "client":
		err = runClient(ctx, p)
	case len(args) == 1 && args[0] == "server":
		err = runServer(ctx, p)
	case len(args) == 1 && args[0] == "program":
		err = runProgram(ctx, p)
	default:
		return fmt.Errorf("no role %q", args)
	}
	if err != nil && ctx.Err() == nil {
		// Whoever waits for the answer gets the reason instead.
		if e := p.Send(results.FrameError, "", err.Error()); e == nil {
			return nil
		}
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// peer is the process on the other side of standard input and output. Its
// frames come through a channel; its end cancels the role.
type peer struct {
	*wire.Conn
	frames chan wire.Frame
	cancel context.CancelCauseFunc
}

func (p *peer) read() {
	defer close(p.frames)
	for {
		f, err := p.Recv()
		if err != nil {
			p.cancel(fmt.Errorf("standard input: %w", err))
			return
		}
		p.frames <- f
	}
}

// next returns the next frame.
func (p *peer) next(ctx context.Context) (wire.Frame, error) {
	select {
	case <-ctx.Done():
		return wire.Frame{}, ctx.Err()
	case f, ok := <-p.frames:
		if !ok {
			return f, io.EOF
		}
		return f, nil
	}
}
