package labtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/twlab/twlab/lab"
)

const mode = "TWLAB_LABTEST"

// errMissing is why there is no namespace; nil where this process is in one.
var errMissing = errors.New("TestMain does not call labtest.Main")

// Main runs the tests in a network namespace with lo up, or without where none
// is to be had.
func Main(m *testing.M) {
	if os.Getenv(mode) == "" {
		if errMissing = again("probe"); errMissing == nil {
			err := again("inside")
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				os.Exit(exit.ExitCode())
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "labtest:", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
		os.Exit(m.Run())
	}
	err := ready()
	if os.Getenv(mode) == "probe" || err != nil {
		if err != nil {
			fmt.Fprintln(os.Stderr, "labtest:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	errMissing = nil
	os.Exit(m.Run())
}

// ready really sets a knob and a link up: a namespace can be had and lack the
// power over itself.
func ready() error {
	if err := lab.SetSysctl("net.ipv4.tcp_max_tw_buckets", "100000"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func again(as string) error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), mode+"="+as)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd.Run()
}

// Require skips the test, or fails it where TWLAB_REQUIRE says so, unless the ability is there.
func Require(t testing.TB, ability string) {
	t.Helper()
	if ability != "netns" {
		t.Fatalf("labtest: no ability is called %s", ability)
	}
	if errMissing != nil {
		Skip(t, ability, errMissing.Error())
	}
}
