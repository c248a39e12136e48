package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/twlab/twlab/lab"
)

// nobody is the user that other people's programs run as.
const nobody = 65534

// mapped says whether a user number exists in this process's user namespace.
func mapped(id uint64) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, size uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err == nil && inside <= id && id < inside+size {
			return true
		}
	}
	return false
}

// ids maps root of a new user namespace to the user who starts it, and nobody
// to nobody where that is allowed, which it is for root.
func ids(own int) []syscall.SysProcIDMap {
	out := []syscall.SysProcIDMap{{ContainerID: 0, HostID: own, Size: 1}}
	if own == 0 && mapped(nobody) {
		out = append(out, syscall.SysProcIDMap{ContainerID: nobody, HostID: nobody, Size: 1})
	}
	return out
}

// PrivateDir makes a directory that exists only in the calling process's mount
// namespace, and in memory: nothing of it can be left behind. It belongs to
// the user that programs run as.
func PrivateDir() (string, error) {
	for _, at := range []string{"/mnt", "/media", "/srv", "/tmp"} {
		if info, err := os.Stat(at); err != nil || !info.IsDir() {
			continue
		}
		if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64m,mode=755"); err != nil {
			return "", fmt.Errorf("mount a tmpfs for a program's files: %w", err)
		}
		dir := filepath.Join(at, "twlab")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		if mapped(nobody) {
			return dir, os.Chown(dir, nobody, nobody)
		}
		return dir, nil
	}
	return "", errors.New("no directory to mount a tmpfs on: /mnt, /media, /srv and /tmp are missing")
}

// StartProgram starts somebody else's program in dir, as nobody: it has no power
// over the stack, and where root started the trial none over root's files. It dies with the
// trial. Its output goes to out.
func StartProgram(command, env []string, dir string, out io.Writer) (*exec.Cmd, error) {
	path, err := FindProgram(command[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, command[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, out, out
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if mapped(nobody) {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	} else {
		// The only user there is becomes nobody in a namespace below. The child maps
		// itself: from here its number in /proc would be another process's.
		attr.Unshareflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}}
		attr.GidMappings = attr.UidMappings
	}
	cmd.SysProcAttr = attr
	if err := spawn(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", command[0], unwrapPath(err))
	}
	return cmd, nil
}

// FindProgram looks a program up in PATH and where daemons are.
func FindProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(path)
	}
	if !strings.Contains(name, "/") {
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", &lab.MissingProgram{Name: name}
}

// FindProgram implements lab.Backend.
func (Backend) FindProgram(name string) error {
	_, err := FindProgram(name)
	return err
}
