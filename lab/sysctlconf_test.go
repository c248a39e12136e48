package lab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What sysctl of procps 4.0 does with such lines.
func TestParseSysctlConfAsSysctlDoes(t *testing.T) {
	got := ParseSysctlConf([]byte("\ufeff# comment\n; comment\n\n" +
		"net.ipv4.tcp_syncookies = 1       #a comment behind\n" +
		"  net.ipv4.tcp_tw_reuse=1\r\n" +
		"-net/ipv4/tcp_tw_recycle=1\n" +
		"net.ipv4.tcp_fin_timeout＝65\n" +
		"net.ipv4.tcp_fin_timeout=65\nnet.ipv4.tcp_fin_timeout=66\n" +
		"net.ipv4.tcp_rfc1337\n" +
		"net.ipv4.tcp_rfc1337=\n" +
		"net.ipv4.tcp＿rfc1337=1\n" +
		"net/ipv4/conf/eth0.100/rp_filter = 1\n" +
		"vm.swappiness = 10"))
	require.Equal(t, []SysctlLine{
		{Number: 4, Name: "net.ipv4.tcp_syncookies", Value: "1       #a comment behind"},
		{Number: 5, Name: "net.ipv4.tcp_tw_reuse", Value: "1"},
		{Number: 6, Name: "net.ipv4.tcp_tw_recycle", Value: "1"},
		{Number: 7, Name: "net.ipv4.tcp_fin_timeout＝65", Wrong: "there is no = in it, but '＝', which sysctl does not read: write ="},
		{Number: 8, Name: "net.ipv4.tcp_fin_timeout", Value: "65"},
		{Number: 9, Name: "net.ipv4.tcp_fin_timeout", Value: "66"},
		{Number: 10, Name: "net.ipv4.tcp_rfc1337", Wrong: "there is no = in it"},
		{Number: 11, Name: "net.ipv4.tcp_rfc1337", Wrong: "there is no value"},
		{Number: 12, Name: "net.ipv4.tcp＿rfc1337", Value: "1", Wrong: "the name has a character that no sysctl has: look for full-width letters and blanks"},
		{Number: 13, Name: "net.ipv4.conf.eth0/100.rp_filter", Value: "1"},
		{Number: 14, Name: "vm.swappiness", Value: "10"},
	}, got)
	require.Equal(t, "net.ipv4.tcp_syncookies = 1", got[0].String())
	require.NoError(t, got[0].Namespaced())
	require.ErrorContains(t, got[3].Namespaced(), "sysctl -p does not read it")
	require.ErrorContains(t, got[10].Namespaced(), "whole kernel")
}

func TestWithProxy(t *testing.T) {
	w, err := NewWorld(Veth, 1, 2, nil)
	require.NoError(t, err)
	p, err := w.WithProxy()
	require.NoError(t, err)
	require.Len(t, p.Stacks, 3)
	require.Equal(t, []string{"client", "proxy", "server"}, []string{p.Stacks[0].Name, p.Stacks[1].Name, p.Stacks[2].Name})
	require.True(t, p.Stacks[0].Addresses[0].Contains(Via), "the client reaches the proxy")
	require.False(t, p.Stacks[0].Addresses[0].Contains(p.Servers[0]), "and not the server")
	require.True(t, p.Stacks[1].Far[0].Contains(p.Servers[1]))
	require.Equal(t, 15, w.Stacks[0].Addresses[0].Bits(), "the world without one stays as it was")
	l, err := NewWorld(Loopback, 1, 1, nil)
	require.NoError(t, err)
	_, err = l.WithProxy()
	require.ErrorContains(t, err, "a proxy needs link veth")
}
