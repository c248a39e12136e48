package results

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twlab/twlab/scenarios"
)

// The files of a run's directory.
const (
	headerFile  = "run.json"
	recordsFile = "records.jsonl"
)

// A Header says what was going to be run.
type Header struct {
	Schema  int             `json:"schema"`
	Twlab   string          `json:"twlab"` // version
	Started time.Time       `json:"started"`
	Plan    *scenarios.Plan `json:"plan"`
}

// A Store is a run's directory being written. It is for one goroutine.
type Store struct {
	Dir    string
	f      *os.File
	stored bool // a record, or a part of one
}

// ErrExists reports a directory that already holds something.
var ErrExists = errors.New("exists already and is not empty; name another with -o, or remove it")

// Create makes the directory and writes the header. A directory that holds
// anything is refused.
func Create(dir string, h Header) (*Store, error) {
	if old, err := os.ReadDir(dir); err == nil && len(old) > 0 {
		return nil, fmt.Errorf("output directory %s %w", dir, ErrExists)
	}
	fail := func(err error) error {
		return fmt.Errorf("output directory %s: %w; name another place with -o", dir, cause(err))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fail(err)
	}
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, headerFile), append(b, '\n'), 0o644); err != nil {
		return nil, fail(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, recordsFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fail(err)
	}
	return &Store{Dir: dir, f: f}, nil
}

// cause drops the path from an error that is going to name it anyway.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Append writes one record as one line and waits until it is on the disk.
func (s *Store) Append(r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	n, err := s.f.Write(append(b, '\n'))
	s.stored = s.stored || n > 0
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: a file that cannot be synced, such as a pipe
		return fmt.Errorf("store the record of trial %d (%s) in %s: %w", r.Trial.Number, r.Trial.Variant, s.f.Name(), cause(err))
	}
	return nil
}

// Close closes the run's file. A run without any record leaves nothing behind.
func (s *Store) Close() error {
	if !s.stored {
		_ = os.Remove(s.f.Name())
		_ = os.Remove(filepath.Join(s.Dir, headerFile))
		_ = os.Remove(s.Dir) // stays where it was there before and is not empty
	}
	return s.f.Close()
}

// A Run is a stored run, read again.
type Run struct {
	Header
	Dir      string
	Records  []*Record // in the order in which they were stored
	Warnings []string  // what could not be read, and what is missing
}

// Open reads the run in dir. Damaged records are left out and named in
// Warnings; a run without any is an error.
func Open(dir string) (*Run, error) {
	b, err := os.ReadFile(filepath.Join(dir, headerFile))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is no run's directory: it has no %s", dir, headerFile)
		}
		return nil, err
	}
	r := &Run{Dir: dir}
	if err := decode(b, &r.Header); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, headerFile), err)
	}
	if r.Plan == nil || r.Plan.Scenario == nil {
		return nil, fmt.Errorf("%s: no plan in it; was it written by twlab?", filepath.Join(dir, headerFile))
	}
	for i, e := range r.Plan.Scenario.Expect {
		if r.Plan.Scenario.Expect[i], err = scenarios.ParseExpectation(e.Text, r.Plan.Scenario.Variants); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, headerFile), err)
		}
	}
	name := filepath.Join(dir, recordsFile)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewReader(f)
	for line := 1; ; line++ {
		b, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", name, cause(err))
		}
		end := err != nil
		if len(bytes.TrimSpace(b)) > 0 {
			rec := &Record{}
			switch err := decode(b, rec); {
			case errors.Is(err, errNewer):
				return nil, fmt.Errorf("%s:%d: %w", name, line, err)
			case err != nil && end:
				r.Warnings = append(r.Warnings, fmt.Sprintf("%s:%d: the record is cut short and was left out: %v", name, line, err))
			case err != nil:
				r.Warnings = append(r.Warnings, fmt.Sprintf("%s:%d: the record is damaged and was left out: %v", name, line, err))
			default:
				r.Records = append(r.Records, rec)
			}
		}
		if end {
			break
		}
	}
	if len(r.Records) == 0 {
		why := "no trial ended"
		if len(r.Warnings) > 0 {
			why = strings.Join(r.Warnings, "; ")
		}
		return nil, fmt.Errorf("%s holds no record: %s", name, why)
	}
	if n := len(r.Plan.Trials) - len(r.Records); n > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d of %d trials have no record: the run did not end, or a record is damaged", n, len(r.Plan.Trials)))
	}
	return r, nil
}

var errNewer = errors.New("was written by a newer twlab; read it with that one")

// decode reads JSON that carries a schema number.
func decode(b []byte, v any) error {
	var head struct{ Schema int }
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	switch {
	case head.Schema > Schema:
		return fmt.Errorf("schema %d %w", head.Schema, errNewer)
	case head.Schema < 1:
		return errors.New("no schema number in it; was it written by twlab?")
	}
	return json.Unmarshal(b, v)
}

// Variant returns the records of a variant.
func (r *Run) Variant(name string) []*Record {
	var out []*Record
	for _, rec := range r.Records {
		if rec.Trial.Variant == name {
			out = append(out, rec)
		}
	}
	return out
}

// Copy copies the run in dir to another place, where a run that is there is
// replaced once the new one is whole.
func Copy(dir, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("copy a run: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(to), ".new-")
	if err != nil {
		return fmt.Errorf("copy a run: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, name := range []string{headerFile, recordsFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(tmp, name), b, 0o644) //nolint:gosec // others may read what was measured
		}
		if err != nil {
			return fmt.Errorf("copy a run: %w", err)
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // as above
		return err
	}
	if _, err := os.Stat(to); err == nil {
		if err := Remove(to); err != nil {
			return err
		}
	}
	return os.Rename(tmp, to)
}

// Remove removes a run's directory, and nothing that is not a run's.
func Remove(dir string) error {
	for _, name := range []string{recordsFile, headerFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}
