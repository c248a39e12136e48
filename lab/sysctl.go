package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// A SysctlError says which sysctl could not be set or read, and why.
type SysctlError struct {
	Name, Value string
	Err         error
}

func (e *SysctlError) Error() string {
	what := "read " + e.Name
	if e.Value != "" {
		what = fmt.Sprintf("set %s = %s", e.Name, e.Value)
	}
	var pe *os.PathError
	switch {
	case errors.As(e.Err, &pe) && pe.Op == "write" && !errors.Is(e.Err, os.ErrPermission):
		return what + ": the kernel refuses this value (" + pe.Err.Error() + ")"
	case errors.Is(e.Err, os.ErrNotExist):
		return what + ": this kernel has no such sysctl in a network namespace" + whyNot(e.Name)
	}
	return what + ": " + e.Err.Error()
}

func (e *SysctlError) Unwrap() error { return e.Err }

// SysctlPath returns the file of a sysctl: "net.ipv4.tcp_tw_reuse" is
// /proc/sys/net/ipv4/tcp_tw_reuse. As in sysctl(8), a slash in the name stands
// for a dot in the file's.
func SysctlPath(name string) (string, error) {
	path := strings.NewReplacer(".", "/", "/", ".").Replace(name)
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("%q is no sysctl's name", name)
		}
	}
	if !strings.HasPrefix(path, "net/") {
		return "", fmt.Errorf("sysctl %s: only those under net. belong to a network namespace", name)
	}
	return "/proc/sys/" + path, nil
}

// ReadSysctl returns the value in the network namespace of the calling task,
// fields parted by single blanks.
func ReadSysctl(name string) (string, error) {
	path, err := SysctlPath(name)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", &SysctlError{Name: name, Err: err}
	}
	return strings.Join(strings.Fields(string(b)), " "), nil
}

// SetSysctl writes the value in the network namespace of the calling task and
// reads it back; another value than the one written is an error.
func SetSysctl(name, value string) error {
	path, err := SysctlPath(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return &SysctlError{Name: name, Value: value, Err: err}
	}
	got, err := ReadSysctl(name)
	if err != nil {
		return err
	}
	if want := strings.Join(strings.Fields(value), " "); got != want {
		return &SysctlError{Name: name, Value: value, Err: fmt.Errorf("reads back as %s", got)}
	}
	return nil
}
