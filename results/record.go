// Package results keeps what was seen: a Record for each trial, a Store that
// appends them to a run's directory as they come, a Run that reads them again,
// and the metrics that are taken from them.
//
// From here on there is no kernel and no lab: everything is a pure function of
// stored records, on any OS, for last year's run as for today's. The package
// knows plans and snapshots, never how they were obtained.
package results

import (
	"time"

	"github.com/twlab/twlab/client"
	"github.com/twlab/twlab/lab"
	"github.com/twlab/twlab/measure"
	"github.com/twlab/twlab/scenarios"
	"github.com/twlab/twlab/server"
)

// Schema is the version of Record and Header that this program writes. It
// reads every older one; a newer one is refused. Fields may be added without
// a new number: readers ignore what they do not know.
const Schema = 1

// A Record is what one trial left behind. All times in it are ns of
// CLOCK_MONOTONIC since the trial's start, but Started.
type Record struct {
	Schema      int             `json:"schema"`
	Trial       scenarios.Trial `json:"trial"`
	Started     time.Time       `json:"started"` // the wall clock, once
	Environment Environment     `json:"environment"`
	Stacks      []Stack         `json:"stacks"`
	Phases      []Phase         `json:"phases"`
	Client      client.Stats    `json:"client"`
	Server      server.Stats    `json:"server"`
	// Proxy is the program between client and server, nil where there was none.
	Proxy    *lab.ProgramStats `json:"proxy,omitempty"`
	Warnings []string          `json:"warnings,omitempty"`
}

// An Environment is what a trial ran on.
type Environment struct {
	Twlab         string `json:"twlab"`          // version
	Go            string `json:"go"`             // version
	OS            string `json:"os"`             // "linux"
	Arch          string `json:"arch"`           // "amd64"
	Kernel        string `json:"kernel"`         // release, as uname -r prints it
	CPU           string `json:"cpu"`            // model
	CPUs          int    `json:"cpus"`           // that this program may use
	Memory        int64  `json:"memory_bytes"`   // of the machine
	OpenFiles     uint64 `json:"open_files"`     // hard limit of a process
	Backend       string `json:"backend"`        // "netns"
	UserNamespace bool   `json:"user_namespace"` // the lab had one of its own
	Engine        string `json:"engine"`         // as scenarios.Engine
	// Untraced says why changes of state were not counted one by one (see
	// Stack.Transitions); "" where they were, and in records from before.
	Untraced string `json:"untraced,omitempty"`
}

// A Stack is what was set and seen on one network namespace.
type Stack struct {
	Name      string            `json:"name"`
	Hosts     []string          `json:"hosts"`
	Addresses []string          `json:"addresses"`
	Sysctls   map[string]string `json:"sysctls"` // read back after they were set, and others of interest
	// Tried are those that the kernel was free to refuse.
	Tried []lab.TriedSysctl `json:"tried,omitempty"`
	// HoldSysctls were set as the hold began, read back.
	HoldSysctls map[string]string  `json:"hold_sysctls,omitempty"`
	PID         int                `json:"pid"`     // of the process that held it, as the machine counted
	Sockets     string             `json:"sockets"` // where tables came from: "sock_diag" or "procfs"
	Snapshots   []measure.Snapshot `json:"snapshots"`
	Sampler     measure.Cost       `json:"sampler"`
	NetNS       uint64             `json:"netns,omitempty"` // inode number of the namespace
	// Transitions are all changes of state from the stack's beginning to the
	// end of the hold; none where the kernel does not let them be traced.
	Transitions []measure.Transition `json:"transitions,omitempty"`
}

// A Phase of a trial.
type Phase struct {
	Name  string `json:"name"` // Load, Hold
	Begin int64  `json:"begin_ns"`
	End   int64  `json:"end_ns"`
}

// The phases that metrics are taken over. A load ends when its connections
// are closed and the last segments have arrived.
const (
	Load = "load"
	Hold = "hold"
)

// Stack returns the stack of that name, nil where there is none.
func (r *Record) Stack(name string) *Stack {
	for i := range r.Stacks {
		if r.Stacks[i].Name == name {
			return &r.Stacks[i]
		}
	}
	return nil
}
