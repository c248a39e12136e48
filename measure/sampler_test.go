package measure

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fake is a stack whose sockets a test writes down.
type fake struct {
	sockets    []Socket
	consistent bool
	err        error
	walk       time.Duration
	now        *int64
}

func (f *fake) Counters() (Counters, error) { return Counters{TimewaitAlive: 7}, f.err }

func (f *fake) Sockets(visit func(Socket)) (bool, error) {
	for _, s := range f.sockets {
		visit(s)
	}
	*f.now += int64(f.walk)
	return f.consistent, nil
}

func sampler(f *fake, hosts ...Host) (*Sampler, *[]Snapshot) {
	var out []Snapshot
	now := int64(0)
	f.now = &now
	s := NewSampler(hosts, f, f, func() int64 { now += 1000; return now }, Options{}, func(s Snapshot) { out = append(out, s) })
	return s, &out
}

func TestMarkCountsByHostFamilyAndState(t *testing.T) {
	f := &fake{consistent: true, sockets: []Socket{
		{State: Listen, Family: INET, LocalPort: 8080},
		{State: Established, Family: INET, LocalPort: 8080, RemotePort: 40000},
		{State: Established, Family: INET6, LocalPort: 40000, RemotePort: 8080},
		{State: FinWait2, Family: INET, LocalPort: 40001, RemotePort: 8080, TimewaitRow: true},
		{State: FinWait2, Family: INET, LocalPort: 40002, RemotePort: 8080},
		{State: TimeWait, Family: INET, LocalPort: 40003, RemotePort: 8080, TimewaitRow: true},
		{State: Established, Family: INET, LocalPort: 1, RemotePort: 2}, // nobody's
		{State: 0, LocalPort: 8080},
		{State: 200, LocalPort: 8080}, // states of no known kernel
	}}
	s, out := sampler(f, Host{Name: "server", LocalPorts: []uint16{8080}}, Host{Name: "client", RemotePorts: []uint16{8080}})
	snap, err := s.Mark("load")
	require.NoError(t, err)
	require.Equal(t, []Snapshot{snap}, *out)
	require.Equal(t, Table{
		"server": {INET: {Listen: 1, Established: 1}},
		"client": {INET6: {Established: 1}, INET: {FinWait2: 2, TimeWait: 1}},
	}, snap.Sockets)
	require.Equal(t, 1, snap.Minisocks)
	require.Equal(t, "load", snap.Phase)
	require.Less(t, snap.Begin, snap.End)

	b, err := json.Marshal(snap)
	require.NoError(t, err)
	var back Snapshot
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, snap, back)
	require.Contains(t, string(b), `"FIN_WAIT2":2`)
}

func TestAHostAloneOwnsEverySocket(t *testing.T) {
	s, _ := sampler(&fake{consistent: true, sockets: []Socket{{State: Established, Family: INET, LocalPort: 1, RemotePort: 2}}}, Host{Name: "client"})
	snap, err := s.Mark("load")
	require.NoError(t, err)
	require.Equal(t, 1, snap.Sockets.Host("client").Total())
	require.Equal(t, 0, snap.Sockets.Host("server").Total(), "an unknown host has none")
}

// A walk of length d is followed by 40 d without one.
func TestLongWalksComeSeldom(t *testing.T) {
	f := &fake{consistent: false, walk: 50 * time.Millisecond}
	s, out := sampler(f, Host{Name: "client"})
	_, err := s.Mark("load")
	require.NoError(t, err)
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	require.NoError(t, s.Run(ctx))
	require.GreaterOrEqual(t, len(*out), 2)
	for _, snap := range (*out)[1:] {
		require.Nil(t, snap.Sockets, "the next walk is 2 s away")
		require.Equal(t, int64(7), snap.Counters[TimewaitAlive])
	}
	c := s.Cost()
	require.Equal(t, []int{len(*out), 1, 1}, []int{c.Snapshots, c.Dumps, c.Inconsistent})
	require.GreaterOrEqual(t, c.DumpLongest, int64(50*time.Millisecond))
}

func TestAReaderThatFailsEndsTheSampler(t *testing.T) {
	s, _ := sampler(&fake{err: errors.New("gone")}, Host{Name: "client"})
	_, err := s.Mark("load")
	require.EqualError(t, err, "read counters: gone")
	require.EqualError(t, s.Run(t.Context()), "read counters: gone")
}

func TestStatesHaveNamesAndKeys(t *testing.T) {
	require.Len(t, States, 11)
	for _, s := range States {
		b, err := s.MarshalText()
		require.NoError(t, err)
		var back State
		require.NoError(t, back.UnmarshalText(b))
		require.Equal(t, s, back)
	}
	require.Equal(t, "TIME_WAIT", TimeWait.String())
	require.Equal(t, "time_wait", TimeWait.Key())
	require.Equal(t, "STATE_12", State(12).String())
	require.Error(t, new(State).UnmarshalText([]byte("ITMED_WAIT")))
}
