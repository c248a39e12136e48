package lab

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewWorld(t *testing.T) {
	w, err := NewWorld(Veth, 2, 300, map[string]string{"net.ipv4.tcp_max_tw_buckets": "5"})
	require.NoError(t, err)
	require.Equal(t, "198.18.0.1/15", w.Stacks[0].Addresses[0].String())
	require.Len(t, w.Clients, 2)
	require.Len(t, w.Servers, 300)
	require.Equal(t, "198.19.0.1", w.Servers[0].String())
	require.Equal(t, "198.19.1.44", w.Servers[299].String())
	require.Equal(t, "5", w.Stacks[1].Sysctls["net.ipv4.tcp_max_tw_buckets"], "the scenario's value, not the pinned one")
	require.Equal(t, "131072", Pinned["net.ipv4.tcp_max_tw_buckets"])

	w, err = NewWorld(Loopback, 1, 2, nil)
	require.NoError(t, err)
	require.Len(t, w.Stacks, 1)
	require.Equal(t, "127.0.0.2", w.Servers[1].String())
	w, err = NewWorld(Loopback6, 1, 3, nil)
	require.NoError(t, err)
	require.Equal(t, "[::1 2001:2::2:2 2001:2::2:3]", fmt.Sprint(w.Servers))
	w, err = NewWorld(Veth6, 1, 1, nil)
	require.NoError(t, err)
	require.Equal(t, "2001:2::1:1/64", w.Stacks[0].Addresses[0].String())

	for _, n := range []int{0, -1, MaxAddresses + 1} {
		_, err = NewWorld(Veth, 1, n, nil)
		require.ErrorContains(t, err, "has from 1 to 500")
	}
	_, err = NewWorld("wire", 1, 1, nil)
	require.ErrorContains(t, err, `link "wire" is none of [veth veth6 loopback loopback6 unix]`)
}

func TestKnobs(t *testing.T) {
	for _, c := range []struct{ name, value, full, err string }{
		{"tcp_tw_reuse", "1", "net.ipv4.tcp_tw_reuse", ""},
		{"net.ipv4.tcp_tw_reuse", "3", "", "net.ipv4.tcp_tw_reuse = 3: write a whole number from 0 to 2"},
		{"tcp_tw_reusse", "1", "", "no sysctl is known as tcp_tw_reusse; did you mean tcp_tw_reuse?"},
		{"net.ipv4.some_day", "1", "net.ipv4.some_day", ""},
		{"tcp_max_orphans", "1", "", "belongs to the whole kernel: a network namespace cannot have its own, only a guest kernel can"},
		{"kernel.panic", "1", "", "only those under net. belong to a network namespace"},
		{"ip_local_port_range", "40000 40099", "net.ipv4.ip_local_port_range", ""},
		{"ip_local_port_range", "40099 40000", "", "write two port numbers, the lower first"},
		{"tcp_rmem", "1 2", "", "write three whole numbers"},
		{"tcp_fin_timeout", "", "", "has no value"},
	} {
		full, err := CheckSysctl(c.name, c.value)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.full, full)
	}
	seen := map[string]bool{}
	for _, k := range Knobs {
		require.NotEmpty(t, k.Doc)
		require.False(t, seen[ShortName(k.Name)])
		seen[ShortName(k.Name)] = true
	}
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
	require.EqualError(t, &SysctlError{"net.ipv4.tcp_tw_reus", "1", os.ErrNotExist},
		"set net.ipv4.tcp_tw_reus = 1: this kernel has no such sysctl in a network namespace; did you mean net.ipv4.tcp_tw_reuse?")
	require.EqualError(t, &SysctlError{"net.ipv4.tcp_tw_recycle", "1", os.ErrNotExist},
		"set net.ipv4.tcp_tw_recycle = 1: this kernel has no such sysctl in a network namespace (Linux 4.12 removed it)")
	require.EqualError(t, &SysctlError{"net.ipv4.x", "1", &os.PathError{Op: "write", Err: syscall.EINVAL}},
		"set net.ipv4.x = 1: the kernel refuses this value (invalid argument)")
	require.EqualError(t, &SysctlError{"net.ipv4.tcp_congestion_control", "x", &os.PathError{Op: "write", Err: syscall.ENOENT}},
		"set net.ipv4.tcp_congestion_control = x: the kernel refuses this value (no such file or directory)")
	require.EqualError(t, &SysctlError{"net.ipv4.x", "", syscall.EACCES}, "read net.ipv4.x: permission denied")
}
