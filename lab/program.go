package lab

import "fmt"

// A Program is somebody else's, run as a host of the lab: a proxy between
// client and server. It runs without privileges, in a directory of its own.
type Program struct {
	Command []string          `json:"command"` // name and arguments
	Env     map[string]string `json:"env,omitempty"`
	// Files are written into the directory before the start, by name.
	Files map[string]string `json:"files,omitempty"`
	// Version is a command whose first line of output is the program's version.
	Version []string `json:"version,omitempty"`
	// Port is where the program is expected to listen.
	Port uint16 `json:"port"`
	// Log counts lines of output, by a name, that match a regular expression.
	Log map[string]string `json:"log,omitempty"`
	// Mends are advice for an early end, by a regular expression that a line of
	// output matches.
	Mends map[string]string `json:"mends,omitempty"`
}

// ProgramStats is what became of a Program.
type ProgramStats struct {
	Command []string `json:"command"` // as it was started
	Version string   `json:"version,omitempty"`
	// Output is the last of what it wrote on standard output and standard
	// error, OutputBytes how much that was in all.
	Output      string           `json:"output,omitempty"`
	OutputBytes int64            `json:"output_bytes"`
	Log         map[string]int64 `json:"log,omitempty"` // lines that matched, by name
	CPU         int64            `json:"cpu_ns"`        // user and system, of the program and its children
}

// A MissingProgram is an error that a package mends.
type MissingProgram struct{ Name, Package string }

// Error says how.
func (m *MissingProgram) Error() string {
	if m.Package == "" {
		return fmt.Sprintf("%s is not here: no program of that name is in PATH or /usr/sbin", m.Name)
	}
	return fmt.Sprintf("%s is not here: install it, on Debian with apt-get install %s", m.Name, m.Package)
}
