package metric

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLookup(t *testing.T) {
	for name, want := range map[string]string{
		"client.time_wait.peak":           "HOST.time_wait.peak",
		"stack.timewait_socks.births":     "HOST.timewait_socks.births",
		"client.errors.EADDRNOTAVAIL":     "client.errors.ERRNO",
		"client.errors.EOF":               "client.errors.ERRNO",
		"proxy_2.cpu":                     "HOST.cpu",
		"client.connections.opened":       "client.connections.opened",
		"client.reuse_ratio":              "client.reuse_ratio",
		"server.connections.accepted":     "server.connections.accepted",
		"server.sampler.cpu":              "HOST.sampler.cpu",
		"client.time_wait":                "",
		"time_wait.peak":                  "",
		"client.time-wait.peak":           "",
		"server.reuse_ratios":             "",
		"client.errors.":                  "",
		"client.errors.eaddrnotavail":     "",
		"Client.time_wait.peak":           "",
		"client.time_wait.peak.something": "",
	} {
		d, ok := Lookup(name)
		require.Equal(t, want != "", ok, name)
		require.Equal(t, want, d.Name, name)
	}
}

func TestEveryMetricIsDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Table {
		require.NotEmpty(t, d.Unit, d.Name)
		require.NotEmpty(t, d.Doc, d.Name)
		require.False(t, seen[d.Name], "%s stands twice", d.Name)
		seen[d.Name] = true
	}
}
