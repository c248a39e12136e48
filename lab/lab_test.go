package lab

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewWorld(t *testing.T) {
	w, addrs, err := NewWorld(Veth, 300, map[string]string{"net.ipv4.tcp_max_tw_buckets": "5"})
	require.NoError(t, err)
	require.Equal(t, "198.18.0.1/15", w.Stacks[0].Addresses[0].String())
	require.Len(t, addrs, 300)
	require.Equal(t, "198.19.0.1", addrs[0].String())
	require.Equal(t, "198.19.1.44", addrs[299].String())
	require.Equal(t, "5", w.Stacks[1].Sysctls["net.ipv4.tcp_max_tw_buckets"], "the scenario's value, not the pinned one")
	require.Equal(t, "131072", Pinned["net.ipv4.tcp_max_tw_buckets"])

	w, addrs, err = NewWorld(Loopback, 2, nil)
	require.NoError(t, err)
	require.Len(t, w.Stacks, 1)
	require.Equal(t, "127.0.0.2", addrs[1].String())

	for _, n := range []int{0, -1, MaxDestinations + 1} {
		_, _, err = NewWorld(Veth, n, nil)
		require.ErrorContains(t, err, "the lab has from 1 to 500")
	}
	_, _, err = NewWorld("wire", 1, nil)
	require.ErrorContains(t, err, `link "wire" is none of [veth loopback]`)
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.tcp_tw_reuse":          "/proc/sys/net/ipv4/tcp_tw_reuse",
		"net.ipv4.conf.eth0/1.rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
	} {
		got, err := SysctlPath(name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	// A scenario must never reach a file outside /proc/sys/net.
	for _, name := range []string{"", "net", "net.", "kernel.panic", "net..x", "net.//.//.etc.passwd", "../../etc/passwd", "net./..x"} {
		_, err := SysctlPath(name)
		require.Error(t, err, name)
	}
}

func TestSysctlErrorsAreSentences(t *testing.T) {
	require.EqualError(t, &SysctlError{"net.ipv4.x", "1", os.ErrNotExist}, "set net.ipv4.x = 1: this kernel has no such sysctl in a network namespace")
	require.EqualError(t, &SysctlError{"net.ipv4.x", "1", syscall.EINVAL}, "set net.ipv4.x = 1: the kernel refuses this value")
	require.EqualError(t, &SysctlError{"net.ipv4.x", "", syscall.EACCES}, "read net.ipv4.x: permission denied")
}
