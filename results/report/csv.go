package report

import (
	"encoding/csv"
	"io"
	"slices"
	"strconv"

	"github.com/twlab/twlab/results/metric"
)

// writeCSV writes a line for each variant and metric, in base units.
func writeCSV(w io.Writer, r *Report) error {
	out := csv.NewWriter(w)
	lines := [][]string{{"scenario", "variant", "metric", "unit", "better", "exact", "trials", "center", "low", "high"}}
	number := func(v *float64) string {
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'g', -1, 64)
	}
	for _, v := range r.Variants {
		var names []string
		for name := range v.Samples {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			sum, ok := v.Samples[name].Summary()
			if !ok {
				continue
			}
			def, _ := metric.Lookup(name)
			lines = append(lines, []string{
				r.Run.Plan.Scenario.Name, v.Name, name, def.Unit, string(def.Better), strconv.FormatBool(def.Exact),
				strconv.Itoa(len(v.Samples[name].Values)), number(&sum.Center), number(sum.Low), number(sum.High),
			})
		}
	}
	return out.WriteAll(lines)
}
