// Package procnet reads TCP counters and sockets from /proc/net with
// prometheus/procfs. It sees the network namespace of its own process and
// needs no privileges.
//
// The counters are cheap (0.1 ms) and are what a sampler reads often. The
// sockets of /proc/net/tcp are not: under churn the walk may never end and
// lists sockets twice. They serve where sock_diag is missing, and as a
// cross-check at quiet moments; sockdiag is the reader of choice.
package procnet

import (
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/procfs"

	"github.com/twlab/twlab/measure"
)

// A Reader reads the calling process's own /proc. It may be shared.
type Reader struct {
	fs   procfs.FS
	self procfs.Proc
}

// Open returns a reader. It goes through /proc/self, not a process number: in
// a new PID namespace an old /proc still counts in the outer numbers, where
// one's own number is somebody else.
func Open() (*Reader, error) {
	root, err := procfs.NewFS("/proc")
	if err != nil {
		return nil, err
	}
	self, err := root.Self()
	if err != nil {
		return nil, fmt.Errorf("/proc/self: %w", err)
	}
	own, err := procfs.NewFS("/proc/self")
	if err != nil {
		return nil, err
	}
	return &Reader{fs: own, self: self}, nil
}

// PID returns the process number as the mounted /proc counts, which is the
// machine's own unless a new /proc was mounted: the one to give to nsenter.
func (r *Reader) PID() int { return r.self.PID }

// Counters implements measure.CounterReader. Besides the counters that metrics
// need it reads those that explain them.
func (r *Reader) Counters() (measure.Counters, error) {
	snmp, err := r.self.Snmp()
	if err != nil {
		return nil, err
	}
	ext, err := r.self.Netstat()
	if err != nil {
		return nil, err
	}
	c := measure.Counters{}
	set := func(name string, v *float64) {
		if v != nil {
			c[name] = int64(*v)
		}
	}
	set(measure.ActiveOpens, snmp.ActiveOpens)
	set(measure.PassiveOpens, snmp.PassiveOpens)
	set("Tcp.AttemptFails", snmp.AttemptFails)
	set("Tcp.EstabResets", snmp.EstabResets)
	set("Tcp.CurrEstab", snmp.CurrEstab)
	set("Tcp.OutSegs", snmp.OutSegs)
	set("Tcp.RetransSegs", snmp.RetransSegs)
	set("Tcp.OutRsts", snmp.OutRsts)
	set(measure.TimewaitBorn, ext.TW)
	set(measure.TimewaitBornShort, ext.TWKilled)
	set(measure.TimewaitRecycled, ext.TWRecycled)
	set(measure.TimewaitRefused, ext.TCPTimeWaitOverflow)
	set("TcpExt.ListenOverflows", ext.ListenOverflows)
	set("TcpExt.ListenDrops", ext.ListenDrops)
	set("TcpExt.SyncookiesSent", ext.SyncookiesSent)
	set("TcpExt.SyncookiesRecv", ext.SyncookiesRecv)
	set("TcpExt.TCPReqQFullDrop", ext.TCPReqQFullDrop)
	set("TcpExt.TCPReqQFullDoCookies", ext.TCPReqQFullDoCookies)
	set("TcpExt.TCPAbortOnData", ext.TCPAbortOnData)
	set("TcpExt.TCPAbortOnClose", ext.TCPAbortOnClose)

	s4, err := r.fs.NetSockstat()
	if err != nil {
		return nil, err
	}
	for _, p := range s4.Protocols {
		if p.Protocol == "TCP" {
			c["sockstat.TCP.inuse"] = int64(p.InUse)
			if p.TW != nil {
				c[measure.TimewaitAlive] = int64(*p.TW)
			}
		}
	}
	s6, err := r.fs.NetSockstat6()
	if errors.Is(err, os.ErrNotExist) {
		return c, nil // a kernel without IPv6
	}
	if err != nil {
		return nil, err
	}
	for _, p := range s6.Protocols {
		if p.Protocol == "TCP6" {
			c["sockstat6.TCP6.inuse"] = int64(p.InUse)
		}
	}
	return c, nil
}

// Sockets implements measure.SocketReader over /proc/net/tcp and tcp6.
func (r *Reader) Sockets(visit func(measure.Socket)) (consistent bool, err error) {
	//nolint:staticcheck // deprecated for being slow, which the package doc says; no other reader exists without sock_diag
	t4, err := r.fs.NetTCP()
	if err != nil {
		return false, err
	}
	tables := map[measure.Family]procfs.NetTCP{measure.INET: t4}
	//nolint:staticcheck // as above
	t6, err := r.fs.NetTCP6()
	if err == nil {
		tables[measure.INET6] = t6
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	for family, table := range tables {
		for _, line := range table {
			state := measure.State(line.St)
			visit(measure.Socket{
				State: state, Family: family, LocalPort: uint16(line.LocalPort), RemotePort: uint16(line.RemPort),
				// /proc/net/tcp prints inode 0 for timewait minisocks; so does
				// an orphan FIN_WAIT2 socket that is still full, rare enough.
				TimewaitRow: state == measure.TimeWait || state == measure.FinWait2 && line.Inode == 0,
			})
		}
	}
	return true, nil
}
