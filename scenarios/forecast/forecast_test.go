package forecast

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twlab/twlab/scenarios"
)

// Each expected number is arithmetic on paper, and was met by the kernel.
func TestForecast(t *testing.T) {
	for _, c := range []struct {
		settings string
		want     map[string]float64
	}{
		{"traffic: {count: 8000, rate: 2000/s}", map[string]float64{
			"client.connections.opened": 8000, "client.errors.EADDRNOTAVAIL": 0, "client.time_wait.peak": 8000, "server.time_wait.peak": 0,
		}},
		{"traffic: {count: 8000, rate: 2000/s, keepalive: true}", map[string]float64{"client.connections.opened": 16, "client.time_wait.end": 16}},
		{"traffic: {count: 8000, rate: 2000/s, close: reset}", map[string]float64{"client.time_wait.peak": 0, "server.time_wait.peak": 0}},
		{"traffic: {count: 8000, rate: 2000/s, close: server}", map[string]float64{"client.time_wait.peak": 0, "client.connections.opened": 8000}},
		// 100 ports, once.
		{"traffic: {count: 600, rate: 150/s, destinations: 1}\nsysctls: {ip_local_port_range: 40000 40099}", map[string]float64{
			"client.connections.opened": 100, "client.errors.EADDRNOTAVAIL": 500, "client.time_wait.peak": 100,
		}},
		{"traffic: {count: 600, rate: 150/s, destinations: 2}\nsysctls: {ip_local_port_range: 40000 40099}", map[string]float64{"client.connections.opened": 200}},
		{"traffic: {count: 600, rate: 150/s, destinations: 2, sources: 2}\nsysctls: {ip_local_port_range: 40000 40099}", map[string]float64{"client.connections.opened": 400}},
		{"traffic: {count: 600, rate: 150/s, destinations: 2, sources: 1, bind: early}\nsysctls: {ip_local_port_range: 40000 40099}", map[string]float64{
			"client.connections.opened": 100, "client.errors.EADDRINUSE": 500,
		}},
		// 100 ports, once a second.
		{"traffic: {count: 600, rate: 150/s, destinations: 1}\nsysctls: {ip_local_port_range: 40000 40099, tcp_tw_reuse: 1}", map[string]float64{"client.connections.opened": 400}},
		{"traffic: {count: 600, rate: 150/s, destinations: 1}\nsysctls: {ip_local_port_range: 40000 40099, tcp_tw_reuse: 1, tcp_timestamps: 0}", map[string]float64{"client.connections.opened": 100}},
		{"traffic: {count: 600, rate: 150/s, destinations: 1}\nlink: loopback\nsysctls: {ip_local_port_range: 40000 40099}", map[string]float64{"client.connections.opened": 400}},
		{"traffic: {count: 1800, rate: 600/s, destinations: 1}\nsysctls: {ip_local_port_range: 40000 40099, tcp_tw_reuse: 1, tcp_tw_reuse_delay: 500}", map[string]float64{"client.connections.opened": 600}},
		{"traffic: {count: 1800, rate: 600/s, destinations: 1}\nsysctls: {ip_local_port_range: 40000 40099, tcp_tw_reuse: 1, tcp_tw_reuse_delay: 100}", map[string]float64{"client.connections.opened": 1800}},
		// 67 s: the ports come back once.
		{"traffic: {count: 10050, rate: 150/s, destinations: 1}\nsysctls: {ip_local_port_range: 40000 40099}", map[string]float64{"client.connections.opened": 200, "client.time_wait.peak": 100}},
		// Rate times life.
		{"traffic: {rate: 8/s, duration: 75s}\nsysctls: {ip_local_port_range: 40000 40599}", map[string]float64{"client.connections.opened": 600, "client.time_wait.peak": 488}},
		// Caps.
		{"traffic: {count: 2000, rate: 1000/s}\nsysctls: {tcp_max_tw_buckets: 100}", map[string]float64{"client.connections.opened": 2000, "client.time_wait.peak": 100}},
		// FIN_WAIT2.
		{"traffic: {count: 500, rate: 1000/s, server_forgets: 20}\nhold: 10s\nsysctls: {tcp_fin_timeout: 5}", map[string]float64{
			"client.time_wait.end": 400, "client.fin_wait2.peak": 100, "client.fin_wait2.life": 5,
		}},
		{"traffic: {count: 500, rate: 1000/s, server_forgets: 20}\nhold: 66s\nsysctls: {tcp_fin_timeout: 65}", map[string]float64{
			"client.time_wait.life": 61, "client.fin_wait2.life": 10,
		}},
		{"traffic: {count: 2000, rate: 1000/s, keepalive: true, concurrency: 8, requests_per_connection: 10}", map[string]float64{"client.connections.opened": 204}},
	} {
		s, err := scenarios.Parse("x.yaml", []byte("name: x\nquestion: q\nvariants: [{name: v}]\n"+c.settings+"\n"), false)
		require.NoError(t, err, c.settings)
		p, err := s.Plan(scenarios.Options{})
		require.NoError(t, err)
		got := Of(p.Trials[0]).Figures
		for name, want := range c.want {
			require.Contains(t, got, name, c.settings)
			require.InDelta(t, want, got[name], 0.5, "%s: %s", c.settings, name)
		}
	}
}

func TestNotesSayWhatWillBeMet(t *testing.T) {
	s, err := scenarios.Parse("x.yaml", []byte("name: x\nquestion: q\nvariants: [{name: v}]\ntraffic: {count: 20000, rate: 2000/s, destinations: 1}\n"), false)
	require.NoError(t, err)
	p, err := s.Plan(scenarios.Options{})
	require.NoError(t, err)
	require.Contains(t, Of(p.Trials[0]).Notes[0], "20000 connections to each destination pass half of the 28232 ports: connect() will take milliseconds")
}
