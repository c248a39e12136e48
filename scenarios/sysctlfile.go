package scenarios

import (
	"fmt"
	"slices"

	"github.com/twlab/twlab/lab"
)

// UseSysctlFile makes the scenario's variants try the lines of a sysctl.conf:
// each of them before, with each line alone, and with all lines. The scenario's
// claims are about its own file, and go.
func (s *Scenario) UseSysctlFile(name string, data []byte) error {
	if s.SysctlFile == "" {
		return fmt.Errorf("--sysctl-file is for scenario sysctl-file, not %s", s.Name)
	}
	s.Expect, s.Answer = nil, ""
	if err := s.tryLines(data); err != nil {
		return fmt.Errorf("--sysctl-file: %s: %w", name, err)
	}
	s.Notes = append(s.Notes, "the lines are those of "+name)
	return nil
}

// tryLines multiplies the variants.
func (s *Scenario) tryLines(data []byte) error {
	s.SysctlFile, s.SysctlLines = string(data), lab.ParseSysctlConf(data)
	var able []lab.SysctlLine
	for _, l := range s.SysctlLines {
		if l.Namespaced() == nil {
			able = append(able, l)
		}
	}
	if len(able) == 0 {
		return fmt.Errorf("no line sets a sysctl below net., which a stack of the lab could have")
	}
	if s.kinds == nil {
		s.kinds = s.Variants
	}
	if n := len(s.kinds) * (len(able) + 2); n > maxVariants {
		return fmt.Errorf("%d lines below net. make %d variants, and %d are the most: try fewer at a time", len(able), n, maxVariants)
	}
	s.Variants = nil
	add := func(prefix string, line int, try []lab.SysctlLine) {
		for _, kind := range s.kinds {
			v := Variant{Name: prefix + "-" + kind.Name, Settings: kind.clone(), varies: append(slices.Clone(kind.varies), "try"), Line: line}
			if v.Try = try; line != 0 {
				v.Baseline = "before-" + kind.Name
			}
			s.Variants = append(s.Variants, v)
		}
	}
	add("before", 0, nil)
	for _, l := range able {
		add(fmt.Sprintf("line%d", l.Number), l.Number, []lab.SysctlLine{l})
	}
	add("all", AllLines, able)
	return nil
}

// AllLines is a variant's Line where it has all of them.
const AllLines = -1
