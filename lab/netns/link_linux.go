package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/lab"
)

// device is the name of each end of a veth link in its own stack.
const device = "eth0"

// Join puts a veth pair between the network namespaces of two processes.
func Join(a, b int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = device
	attrs.Namespace = netlink.NsPid(a)
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: device, PeerNamespace: netlink.NsPid(b)})
	if err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	return nil
}

// Configure sets the calling process's stack up: sysctls first, so that every
// socket and address is born under them, then addresses and links.
func Configure(s lab.Stack, link lab.Link) error {
	for name, value := range s.Sysctls {
		if err := lab.SetSysctl(name, value); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if link == lab.Loopback {
		return nil // all of 127.0.0.0/8 is local already
	}
	dev := lo
	if !link.Shared() {
		if dev, err = netlink.LinkByName(device); err != nil {
			return fmt.Errorf("find %s: %w", device, err)
		}
	}
	for _, a := range s.Addresses {
		if a.Addr().IsLoopback() {
			continue
		}
		ip := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		// Without nodad an IPv6 address cannot be bound for more than a second.
		if err := netlink.AddrAdd(dev, &netlink.Addr{IPNet: ip, Flags: nodad(a)}); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", dev.Attrs().Name, err)
	}
	return nil
}

func nodad(a netip.Prefix) int {
	if a.Addr().Is6() {
		return unix.IFA_F_NODAD
	}
	return 0
}

// AwaitLink waits until the stack's link carries traffic: the first SYN on a
// link that is not quite up is lost for a second, and no counter tells.
func AwaitLink(ctx context.Context, link lab.Link) error {
	if link.Shared() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		dev, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("find %s: %w", device, err)
		}
		if dev.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still %s after 5 s", device, dev.Attrs().OperState)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
