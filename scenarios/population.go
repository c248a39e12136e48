package scenarios

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/server"
)

// doors are the behaviours of the server that a population needs, each on a
// port of its own, behind the one that serves.
var doors = []server.Behaviour{server.Keep, server.Hang, server.Deaf, server.DeafHang, server.DeafLater, server.Drop, server.OnlySYN}

// behaviours says which door brings a client's socket to a state. TIME_WAIT
// needs none: the server that serves closes after the client.
var behaviours = map[measure.State]server.Behaviour{
	measure.Established: server.Keep,
	measure.FinWait2:    server.Keep,
	measure.CloseWait:   server.Hang,
	measure.FinWait1:    server.Deaf,
	measure.LastAck:     server.DeafHang,
	measure.Closing:     server.DeafLater,
	measure.SynSent:     server.Drop,
	measure.SynRecv:     server.OnlySYN,
}

// checkPopulation refuses what cannot be held, before anything is built, and
// says what could be.
func (s Settings) checkPopulation() error {
	if most := s.mostTimeWait(); s.Population.Of(measure.TimeWait) > most {
		return fmt.Errorf("population: TIME_WAIT=%d is above tcp_max_tw_buckets: %d would fit, or raise it with --sysctl tcp_max_tw_buckets=N",
			s.Population.Of(measure.TimeWait), most)
	}
	if t := s.Traffic; s.Population.Of(measure.TimeWait) > 0 && (t.Close == CloseBoth || t.Close == CloseLateReset || t.ServerForgets > 0) {
		return errors.New("population: TIME_WAIT needs a server that closes after the client: traffic.close client, server or reset, and traffic.server_forgets 0")
	}
	established, halfOpen := s.Population.Of(measure.Established), s.Population.Of(measure.SynRecv)
	if established > 0 && established < halfOpen {
		return fmt.Errorf("population: SYN_RECV=%d at the server are as many ESTABLISHED at the client: ask for at least as many of those", halfOpen)
	}
	dests := int64(s.Traffic.Destinations)
	if dests == 0 {
		dests = lab.MaxAddresses
	}
	total := int64(s.Population.Total())
	if fit := s.PortRange() * dests * int64(max(1, s.Traffic.Sources)); total > fit {
		return fmt.Errorf("population: %d sockets need more ports than there are: %d would fit with %d destinations", total, fit, dests)
	}
	return nil
}

// FreshFor is how long sockets in TIME_WAIT last for certain after they were
// made, with room for what comes before the hold.
const FreshFor = 55 * time.Second

// Refilled says whether sockets in TIME_WAIT must be made anew during the hold.
func (s Settings) Refilled() bool {
	return s.Population.Of(measure.TimeWait) > 0 && time.Duration(s.Hold) > FreshFor
}

// mostTimeWait is the cap on TIME_WAIT.
func (s Settings) mostTimeWait() int {
	for _, v := range []string{s.Sysctls["net.ipv4.tcp_max_tw_buckets"], lab.Pinned["net.ipv4.tcp_max_tw_buckets"]} {
		if n, err := strconv.Atoi(v); err == nil {
			return n
		}
	}
	return 0
}

// What things take of the kernel's memory and of the drivers', in bytes, with
// room, measured on Linux 6.18: a world without any socket 24 MiB, both ends of an
// open connection 3 to 5 KiB, with full queues 9 KiB; a TIME_WAIT socket less
// than half a KiB.
const (
	perEmptyWorld = 32 << 20
	perOpen       = 10 << 10
	perTimeWait   = 512
)

// Memory is about what the trial's sockets take, in bytes.
func (t Trial) Memory() uint64 {
	p := t.Settings.Population
	left := uint64(t.Settings.Traffic.left())
	return perEmptyWorld + (uint64(p.open()+t.Settings.Traffic.Concurrency)+left)*perOpen + left*uint64(t.Settings.Traffic.Body) + uint64(p.Of(measure.TimeWait))*perTimeWait
}

// open is the number of a population's sockets that a process keeps open.
func (p Population) open() int { return p.Total() - p.Of(measure.TimeWait) }

// hold says what both sides do to bring the population about.
func (s Settings) hold(servers []netip.Addr, listen netip.Addr) ([]client.Held, []server.Door) {
	var held []client.Held
	var open []server.Door
	for _, m := range s.Population {
		if m.N == 0 {
			continue
		}
		h := client.Held{State: m.State.String(), N: m.N}
		port := s.Traffic.Port
		if b, ok := behaviours[m.State]; ok {
			for i, d := range doors {
				if d == b {
					port += uint16(i) + 1
				}
			}
			at := netip.AddrPortFrom(listen, port)
			if s.Link.Shared() {
				for _, a := range servers {
					open = appendDoor(open, server.Door{At: netip.AddrPortFrom(a, port), Behaviour: b})
				}
			} else {
				open = appendDoor(open, server.Door{At: at, Behaviour: b})
			}
		}
		switch m.State {
		case measure.SynRecv: // the client has sent its ACK, and is ESTABLISHED
			h.State = measure.Established.String()
		case measure.Established:
			h.N -= s.Population.Of(measure.SynRecv)
		}
		if m.State != measure.Listen && m.State != measure.Close {
			for _, a := range servers {
				h.At = append(h.At, netip.AddrPortFrom(a, port))
			}
		}
		held = append(held, h)
	}
	return held, open
}

// appendDoor adds a door that is not there yet: two states may share one.
func appendDoor(list []server.Door, d server.Door) []server.Door {
	for _, have := range list {
		if have == d {
			return list
		}
	}
	return append(list, d)
}
