package conduct

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/internal/wire"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/scenarios"
)

// world is a trial that the test plays.
type world struct {
	io.Reader
	io.Writer
}

func (world) Stop() error         { return nil }
func (world) UserNamespace() bool { return true }

type backend struct{ world }

func (b backend) Name() string                             { return "played" }
func (b backend) Start(context.Context) (lab.Trial, error) { return b.world, nil }
func (backend) OpenFiles() (uint64, error)                 { return 1 << 20, nil }
func (backend) Memory() (uint64, error)                    { return 1 << 40, nil }
func (backend) FindProgram(string) error                   { return nil }

func change(n int64) measure.Transition {
	return measure.Transition{From: measure.Close, To: measure.SynSent, N: n}
}

// counter is a Tracer over a map.
type counter map[uint64]int64

func (c counter) Forget(ns uint64) error { delete(c, ns); return nil }
func (c counter) Transitions(ns uint64) ([]measure.Transition, error) {
	return []measure.Transition{change(c[ns])}, nil
}

// The kernel gives numbers of namespaces away again. What was counted under a number before is dropped while the
// trial waits for it, so that nothing of its own is lost, however late the order is carried out.
func TestCountsOfAnEarlierNamespaceAreDroppedBeforeTheFirstSocket(t *testing.T) {
	down, toTrial := io.Pipe()
	fromTrial, up := io.Pipe()
	counts := counter{7: 100} // of another trial
	s, err := scenarios.Find("keepalive", false)
	require.NoError(t, err)
	plan, err := s.Plan(scenarios.Options{})
	require.NoError(t, err)
	trial := plan.Trials[0]
	go func() {
		conn := wire.New(down, up)
		ask := func() int64 {
			_ = conn.Send(results.FrameTrace, "", nil)
			f, err := conn.Recv()
			var got map[string][]measure.Transition
			if err != nil || f.Decode(&got) != nil {
				return -1
			}
			return got["client"][0].N
		}
		_, _ = conn.Recv()
		_ = conn.Send(results.FrameStack, "client", results.Stack{Name: "client", NetNS: 7})
		earlier := ask()
		counts[7] = 50 // what this trial does
		_ = conn.Send(results.FrameRecord, "", results.Record{Trial: trial, Stacks: []results.Stack{{Name: "client", Transitions: []measure.Transition{change(earlier), change(ask())}}}})
	}()
	rec, err := runTrial(t.Context(), trial, Options{Backend: backend{world{fromTrial, toTrial}}, Tracer: counts}, func(wire.Frame) {})
	require.NoError(t, err)
	require.Equal(t, []measure.Transition{change(100), change(50)}, rec.Stacks[0].Transitions)
	require.Empty(t, counts)
}
