// Package trace counts every change of a TCP socket's state, in every network
// namespace of the kernel, with a BPF program on the tracepoint
// sock:inet_sock_set_state. Sampling can miss what is short; this cannot.
//
// It needs CAP_BPF and CAP_PERFMON in the initial user namespace, Linux 5.5
// and its type information (BTF), and costs each change about 130 ns. Where it
// is not allowed, Open says why, and a lab goes without.
//
// What the tracepoint never shows: request sockets (SYN_RECV shows, from LISTEN,
// when the handshake is completed), and timewait minisocks. A socket that goes to TIME_WAIT shows as
// closed, from FIN_WAIT2 or CLOSING; its birth is a counter's to tell
// (TcpExt.TW).
package trace

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/measure"
)

// key is a change of state in a network namespace, as the program writes it.
type key struct {
	NetNS    uint32 // inode number
	From, To uint16
}

// most is the number of different changes in all namespaces together that are
// told apart. A trial makes about 15 on each stack.
const most = 1 << 16

// A Tracer counts from Open to Close. It may be shared.
type Tracer struct {
	counts *ebpf.Map
	prog   *ebpf.Program
	link   link.Link
}

// Open starts counting. The error says in one sentence why that cannot be.
func Open() (*Tracer, error) {
	t := &Tracer{}
	if err := t.open(); err != nil {
		t.Close()
		if errors.Is(err, os.ErrPermission) {
			return nil, errors.New("it needs CAP_BPF and CAP_PERFMON in the initial user namespace")
		}
		return nil, err
	}
	return t, nil
}

func (t *Tracer) open() (err error) {
	_ = rlimit.RemoveMemlock() // of this process, where the kernel still asks (before 5.11)
	t.counts, err = ebpf.NewMap(&ebpf.MapSpec{Name: "twlab_changes", Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: most})
	if err != nil {
		return fmt.Errorf("make a BPF map: %w", err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("read the kernel's type information: %w", err)
	}
	var at struct{ net, inum, protocol uint32 }
	for _, f := range []struct {
		into *uint32
		in   string
		path []string
	}{
		{&at.net, "sock", []string{"__sk_common", "skc_net", "net"}},
		{&at.inum, "net", []string{"ns", "inum"}},
		{&at.protocol, "sock", []string{"sk_protocol"}},
	} {
		if *f.into, err = offset(kernel, f.in, f.path); err != nil {
			return err
		}
	}
	t.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "twlab_changes", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state", License: "GPL and additional rights",
		Instructions: program(t.counts, at.net, at.inum, at.protocol),
	})
	if err != nil {
		return fmt.Errorf("load a BPF program: %w", err)
	}
	if t.link, err = link.AttachTracing(link.TracingOptions{Program: t.prog}); err != nil {
		return fmt.Errorf("attach to the tracepoint sock:inet_sock_set_state: %w", err)
	}
	return nil
}

// offset finds a member, and a member of that, in the kernel's own layout.
func offset(kernel *btf.Spec, in string, path []string) (uint32, error) {
	var s *btf.Struct
	if err := kernel.TypeByName(in, &s); err != nil {
		return 0, fmt.Errorf("the kernel's type information has no struct %s: %w", in, err)
	}
	var sum uint32
	for i, name := range path {
		at := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == name })
		if at < 0 {
			return 0, fmt.Errorf("the kernel's struct %s has no member %s", in, name)
		}
		m := s.Members[at]
		if m.BitfieldSize != 0 {
			return 0, fmt.Errorf("the kernel's struct %s has %s as a bit field", in, name)
		}
		sum += m.Offset.Bytes()
		if i == len(path)-1 {
			return sum, nil
		}
		next, ok := btf.UnderlyingType(m.Type).(*btf.Struct)
		if !ok {
			return 0, fmt.Errorf("the kernel's %s.%s is no struct", in, name)
		}
		s = next
	}
	return sum, nil
}

// The instructions below are offered under GPL-2.0 beside this project's
// licence: the kernel opens its structures to no other program.

// program adds one to the count of {namespace, from, to}. Its context are the
// arguments of the tracepoint: struct sock *, int, int. Several CPUs may come
// at once, so a count is made as 0 before one is added.
func program(counts *ebpf.Map, net, inum, protocol uint32) asm.Instructions {
	const theKey, theZero = -8, -16 // on the stack
	load := func(dst, src asm.Register, off uint32, size asm.Size) asm.Instruction {
		return asm.LoadMem(dst, src, int16(off), size)
	}
	lookup := asm.Instructions{
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, theKey),
		asm.FnMapLookupElem.Call(),
	}
	out := asm.Instructions{
		load(asm.R6, asm.R1, 0, asm.DWord),
		load(asm.R7, asm.R1, 8, asm.DWord),
		load(asm.R8, asm.R1, 16, asm.DWord),
		load(asm.R2, asm.R6, protocol, asm.Half),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "exit"),
		load(asm.R2, asm.R6, net, asm.DWord),
		load(asm.R2, asm.R2, inum, asm.Word),
		asm.StoreMem(asm.RFP, theKey, asm.R2, asm.Word),
		asm.StoreMem(asm.RFP, theKey+4, asm.R7, asm.Half),
		asm.StoreMem(asm.RFP, theKey+6, asm.R8, asm.Half),
	}
	out = append(out, lookup...)
	out = append(out,
		asm.JNE.Imm(asm.R0, 0, "add"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, theZero, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, theKey),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, theZero),
		asm.Mov.Imm(asm.R4, int32(ebpf.UpdateNoExist)),
		asm.FnMapUpdateElem.Call(),
	)
	out = append(out, lookup...)
	return append(out,
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.Mov.Imm(asm.R1, 1).WithSymbol("add"),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
		asm.Return(),
	)
}

// Forget drops what was counted in the network namespace with that inode
// number: the kernel gives numbers away again.
func (t *Tracer) Forget(netns uint64) error {
	return t.each(netns, func(k key, _ int64) error {
		if err := t.counts.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from the BPF map: %w", err)
		}
		return nil
	})
}

// Transitions returns what was counted in a network namespace since Open or
// Forget, in the order of the states.
func (t *Tracer) Transitions(netns uint64) ([]measure.Transition, error) {
	var out []measure.Transition
	err := t.each(netns, func(k key, n int64) error {
		out = append(out, measure.Transition{From: measure.State(k.From), To: measure.State(k.To), N: n})
		return nil
	})
	measure.SortTransitions(out)
	return out, err
}

// each visits what was counted in a namespace. The keys are gathered first: a
// walk over a map that changes starts anew.
func (t *Tracer) each(netns uint64, visit func(key, int64) error) error {
	found := map[key]int64{}
	var k key
	var n int64
	entries := t.counts.Iterate()
	for entries.Next(&k, &n) {
		if uint64(k.NetNS) == netns {
			found[k] = n
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the BPF map: %w", err)
	}
	for k, n := range found {
		if err := visit(k, n); err != nil {
			return err
		}
	}
	return nil
}

// Close stops counting.
func (t *Tracer) Close() {
	if t.link != nil {
		_ = t.link.Close()
	}
	if t.prog != nil {
		_ = t.prog.Close()
	}
	if t.counts != nil {
		_ = t.counts.Close()
	}
}
