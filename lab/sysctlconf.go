package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"
)

// A SysctlLine is a line of a sysctl.conf that sets something.
type SysctlLine struct {
	Number int    `json:"number"` // from 1
	Name   string `json:"name"`
	// Value is what is written, as sysctl(8) does it: the rest of the line without
	// blanks at its ends. A comment behind the value is part of it; the kernel
	// stops reading a number at a blank.
	Value string `json:"value"`
	// Wrong says why sysctl(8) does not read the line; "" where it does.
	Wrong string `json:"wrong,omitempty"`
}

// String writes the line without what the kernel does not read.
func (l SysctlLine) String() string {
	value := l.Value
	for _, comment := range []string{" #", "\t#", " ;", "\t;"} {
		value, _, _ = strings.Cut(value, comment)
	}
	return l.Name + " = " + strings.TrimSpace(value)
}

// ParseSysctlConf reads a sysctl.conf as `sysctl -p` does: # and ; begin a
// comment at the beginning of a line, blanks around = do not count, a leading
// - says that a failure does not matter, a name's first separator may be a
// slash. Lines that sysctl cannot read are among the result.
func ParseSysctlConf(data []byte) []SysctlLine {
	var out []SysctlLine
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		l := SysctlLine{Number: number}
		name, value, ok := strings.Cut(line, "=")
		l.Name = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), "-"))
		l.Value = strings.TrimSpace(value)
		if i := strings.IndexAny(l.Name, "./"); i >= 0 && l.Name[i] == '/' {
			l.Name = strings.NewReplacer("/", ".", ".", "/").Replace(l.Name)
		}
		wide, _ := utf8.DecodeRuneInString(strings.TrimLeftFunc(strings.Join(strings.Fields(line), ""), func(r rune) bool { return r < 0x80 }))
		switch {
		case !ok && wide != utf8.RuneError:
			l.Name, l.Wrong = line, fmt.Sprintf("there is no = in it, but %q, which sysctl does not read: write =", wide)
		case !ok:
			l.Name, l.Wrong = line, "there is no = in it"
		case strings.ContainsFunc(l.Name, func(r rune) bool { return r >= 0x80 }):
			l.Wrong = "the name has a character that no sysctl has: look for full-width letters and blanks"
		case l.Value == "":
			l.Wrong = "there is no value"
		}
		out = append(out, l)
	}
	return out
}

// Namespaced says whether the line could be tried in a stack: sysctl reads it,
// and it is below net.
func (l SysctlLine) Namespaced() error {
	if l.Wrong != "" {
		return errors.New("sysctl -p does not read it: " + l.Wrong)
	}
	if !strings.HasPrefix(l.Name, "net.") {
		return errors.New("it belongs to the whole kernel, and is not tried in the lab")
	}
	if _, err := SysctlPath(l.Name); err != nil {
		return err
	}
	return nil
}

// A TriedSysctl is what became of a line on a stack.
type TriedSysctl struct {
	Line SysctlLine `json:"line"`
	// Before and After are the values around it, "" where the kernel has none.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Refused says why it could not be set; "" where it was.
	Refused string `json:"refused,omitempty"`
}

// TrySysctl writes a line's value in the network namespace of the calling task, as
// sysctl(8) does.
func TrySysctl(l SysctlLine) TriedSysctl {
	t := TriedSysctl{Line: l}
	t.Before, _ = ReadSysctl(l.Name)
	path, err := SysctlPath(l.Name)
	if err == nil {
		err = os.WriteFile(path, []byte(l.Value), 0)
	}
	t.After, _ = ReadSysctl(l.Name)
	k, documented := FindKnob(l.Name)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist) && documented && k.Scope == KernelScope:
		t.Refused = "it belongs to the whole kernel: a network namespace has none"
	case errors.Is(err, os.ErrNotExist):
		t.Refused = "NOT ON THIS KERNEL" + whyNot(l.Name)
	case errors.Is(err, os.ErrPermission):
		t.Refused = "it can only be read in a network namespace"
	default:
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		t.Refused = "the kernel refuses this value: " + err.Error()
	}
	return t
}
