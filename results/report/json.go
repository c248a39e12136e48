package report

import (
	"encoding/json"
	"io"

	"github.com/twlab/twlab/results"
	"github.com/twlab/twlab/results/metric"
	"github.com/twlab/twlab/scenarios"
)

// The document that writeJSON writes. Fields are added, never renamed.
type jsonReport struct {
	Schema       int                 `json:"schema"`
	Scenario     string              `json:"scenario"`
	Question     string              `json:"question"`
	Verdict      results.Verdict     `json:"verdict"`
	Answer       string              `json:"answer,omitempty"`
	Directory    string              `json:"directory"`
	Seed         uint64              `json:"seed"`
	Environment  results.Environment `json:"environment"`
	Variants     []jsonVariant       `json:"variants"`
	Expectations []scenarios.Outcome `json:"expectations"`
	Warnings     []string            `json:"warnings"`
	Notes        []string            `json:"notes,omitempty"`
	Lines        []Line              `json:"lines,omitempty"` // of a sysctl.conf
}

type jsonVariant struct {
	Name         string                       `json:"name"`
	Trials       int                          `json:"trials"`
	Settings     scenarios.Settings           `json:"settings"`
	Destinations int                          `json:"destinations"`
	Sysctls      map[string]map[string]string `json:"sysctls"` // by stack, as read back
	Metrics      map[string]jsonMetric        `json:"metrics"`
	Forecast     map[string]float64           `json:"forecast"` // by metric
}

type jsonMetric struct {
	Unit   string           `json:"unit"`
	Better metric.Direction `json:"better"`
	Exact  bool             `json:"exact"`
	Values []float64        `json:"values"`
	Center float64          `json:"center"`
	Low    *float64         `json:"low"`
	High   *float64         `json:"high"`
}

func writeJSON(w io.Writer, r *Report) error {
	doc := jsonReport{
		Schema: results.Schema, Scenario: r.Run.Plan.Scenario.Name, Question: r.Run.Plan.Scenario.Question, Verdict: r.Verdict,
		Answer: r.Answer, Directory: r.Run.Dir, Seed: r.Run.Plan.Seed, Environment: r.Run.Records[0].Environment,
		Variants: []jsonVariant{}, Expectations: append([]scenarios.Outcome{}, r.Expectations...), Warnings: append([]string{}, r.Warnings...),
		Notes: r.Run.Plan.Scenario.Notes, Lines: r.Lines,
	}
	for i, v := range r.Variants {
		out := jsonVariant{
			Name: v.Name, Trials: v.Trials, Settings: r.Run.Plan.Scenario.Variants[i].Settings,
			Sysctls: map[string]map[string]string{}, Metrics: map[string]jsonMetric{},
			Forecast: r.Forecasts[i].Figures,
		}
		for _, rec := range r.Run.Variant(v.Name) {
			out.Destinations = rec.Trial.Destinations
			for _, s := range rec.Stacks {
				out.Sysctls[s.Name] = s.Sysctls
			}
		}
		for name, sample := range v.Samples {
			def, _ := metric.Lookup(name)
			sum, ok := sample.Summary()
			if !ok {
				continue
			}
			out.Metrics[name] = jsonMetric{def.Unit, def.Better, def.Exact, sample.Values, sum.Center, sum.Low, sum.High}
		}
		doc.Variants = append(doc.Variants, out)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}
