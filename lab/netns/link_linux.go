package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/lab"
)

// near and far are the names of a stack's links: every stack has the first, a
// proxy the second too, towards the server.
const near, far = "eth0", "eth1"

// Join puts a veth pair between the network namespaces of two processes. The
// first has it as its far end where it has a link already.
func Join(a, b int, second bool) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = near
	if second {
		attrs.Name = far
	}
	attrs.Namespace = netlink.NsPid(a)
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: near, PeerNamespace: netlink.NsPid(b)})
	if err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	return nil
}

// mark is the alias of lo in every stack that Configure set up.
const mark = "made by twlab"

// Made returns an error unless the calling process is in a stack that twlab made.
func Made() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if lo.Attrs().Alias != mark {
		return errors.New("this network namespace is not one of them")
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
	if err := netlink.LinkSetAlias(lo, mark); err != nil {
		return fmt.Errorf("mark lo: %w", err)
	}
	if link == lab.Loopback || link == lab.Unix {
		return nil // all of 127.0.0.0/8 is local already
	}
	if link.Shared() {
		return carry(lo, s.Addresses)
	}
	for name, addresses := range map[string][]netip.Prefix{near: s.Addresses, far: s.Far} {
		if len(addresses) == 0 {
			continue
		}
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if err := carry(dev, addresses); err != nil {
			return err
		}
	}
	return nil
}

// carry gives a link addresses and sets it up.
func carry(dev netlink.Link, addresses []netip.Prefix) error {
	for _, a := range addresses {
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
func AwaitLink(ctx context.Context, s lab.Stack, link lab.Link) error {
	if link.Shared() {
		return nil
	}
	if err := awaitUp(ctx, near); err != nil || len(s.Far) == 0 {
		return err
	}
	return awaitUp(ctx, far)
}

func awaitUp(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if dev.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still %s after 5 s", name, dev.Attrs().OperState)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
