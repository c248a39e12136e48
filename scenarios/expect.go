package scenarios

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/twlab/twlab/internal/suggest"
	"github.com/twlab/twlab/results/metric"
)

// An Expectation is a claim over metrics that a machine can check:
// "keepalive.client.time_wait.end <= 16". A metric without a variant before it
// stands for every variant in turn, or for those that a pattern names:
// "tw_reuse_0-*: client.errors.EADDRNOTAVAIL > 0". A minus between two metrics needs blanks
// around it, since a variant's name may hold one.
type Expectation struct {
	Text string `json:"text"`

	program *vm.Program
	terms   []term
	pattern string // of variants; "" : all
}

// A term is a metric that an expectation names.
type term struct {
	variant string // "" : every variant in turn
	metric  string
}

func (t term) String() string {
	if t.variant == "" {
		return t.metric
	}
	return t.variant + "." + t.metric
}

// MarshalText writes the claim.
func (e Expectation) MarshalText() ([]byte, error) { return []byte(e.Text), nil }

// UnmarshalText keeps the claim as text; ParseExpectation makes it checkable.
func (e *Expectation) UnmarshalText(b []byte) error {
	*e = Expectation{Text: string(b)}
	return nil
}

// dotted finds what may be a metric: names joined by dots.
var dotted = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*)+`)

// ParseExpectation reads a claim and checks it against the table of metrics
// and the variants.
func ParseExpectation(text string, variants []Variant) (Expectation, error) {
	e := Expectation{Text: strings.TrimSpace(text)}
	env := map[string]float64{}
	var wrong error
	claim := e.Text
	if m := patterned.FindStringSubmatch(claim); m != nil {
		e.pattern, claim = m[1], m[2]
		if len(e.matching(names(variants))) == 0 {
			return e, fmt.Errorf("expectation %q: no variant matches %s%s", e.Text, e.pattern, suggest.For(e.pattern, names(variants)))
		}
	}
	code := dotted.ReplaceAllStringFunc(claim, func(s string) string {
		t, err := parseTerm(s, variants)
		if err != nil {
			wrong = errors.Join(wrong, err)
			return s
		}
		i := slices.Index(e.terms, t)
		if i < 0 {
			i = len(e.terms)
			e.terms = append(e.terms, t)
		}
		env[slot(i)] = 0
		return slot(i)
	})
	if wrong != nil {
		return e, fmt.Errorf("expectation %q: %w", e.Text, wrong)
	}
	if len(e.terms) == 0 {
		return e, fmt.Errorf("expectation %q names no metric; write such as client.time_wait.peak <= 10", e.Text)
	}
	var err error
	if e.program, err = expr.Compile(code, expr.Env(env), expr.AsBool()); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return e, fmt.Errorf("expectation %q: %s", e.Text, first)
	}
	return e, nil
}

// patterned finds the variants' pattern before a claim.
var patterned = regexp.MustCompile(`(?s)^([a-z0-9_*?-]+):\s+(.*)$`)

// matching lists the variants that the claim is about, where it names none.
func (e Expectation) matching(variants []string) []string {
	if e.pattern == "" {
		return variants
	}
	return slices.DeleteFunc(slices.Clone(variants), func(v string) bool {
		ok, err := path.Match(e.pattern, v)
		return err != nil || !ok
	})
}

func names(variants []Variant) []string {
	var out []string
	for _, v := range variants {
		out = append(out, v.Name)
	}
	return out
}

func slot(i int) string { return "metric_" + strconv.Itoa(i) }

func parseTerm(s string, variants []Variant) (term, error) {
	if _, ok := metric.Lookup(s); ok {
		return term{metric: s}, nil
	}
	first, rest, _ := strings.Cut(s, ".")
	if slices.Contains(names(variants), first) {
		if _, ok := metric.Lookup(rest); ok {
			return term{first, rest}, nil
		}
		return term{}, fmt.Errorf("no metric is called %s%s", rest, suggest.For(rest, metric.Names()))
	}
	if _, ok := metric.Lookup(rest); ok {
		return term{}, fmt.Errorf("no variant is called %s%s", first, suggest.For(first, names(variants)))
	}
	return term{}, fmt.Errorf("no metric is called %s%s", s, suggest.For(s, metric.Names()))
}

// An Outcome is what became of an expectation.
type Outcome struct {
	Text string `json:"text"`
	Held bool   `json:"held"`
	// Why says, for one that did not hold, which figures it met.
	Why string `json:"why,omitempty"`
}

// Needs says whether the expectation names any variant, other than those given.
func (e Expectation) Needs(other []string) bool {
	return len(e.matching(other)) == 0 || slices.ContainsFunc(e.terms, func(t term) bool { return t.variant != "" && !slices.Contains(other, t.variant) })
}

// Judge checks the claim. value returns a metric of a variant; a metric that
// is absent fails the claim.
func (e Expectation) Judge(variants []string, value func(variant, name string) (float64, bool)) Outcome {
	out := Outcome{Text: e.Text, Held: true}
	rounds := []string{""}
	if slices.ContainsFunc(e.terms, func(t term) bool { return t.variant == "" }) {
		rounds = e.matching(variants)
	}
	var why []string
	for _, v := range rounds {
		if met, ok := e.holds(v, value); !ok {
			out.Held = false
			why = append(why, met)
		}
	}
	out.Why = strings.Join(why, "; ")
	return out
}

// holds checks the claim once; met tells the figures.
func (e Expectation) holds(variant string, value func(variant, name string) (float64, bool)) (met string, ok bool) {
	env := map[string]float64{}
	var figures []string
	whole := true
	for i, t := range e.terms {
		if t.variant == "" {
			t.variant = variant
		}
		v, known := value(t.variant, t.metric)
		if !known {
			figures = append(figures, t.String()+" is absent")
			whole = false
			continue
		}
		env[slot(i)] = v
		figures = append(figures, fmt.Sprintf("%s is %s", t, strconv.FormatFloat(v, 'f', -1, 64)))
	}
	met = strings.Join(figures, ", ")
	if !whole {
		return met, false
	}
	got, err := expr.Run(e.program, env)
	if err != nil {
		return met + ": " + err.Error(), false
	}
	held, _ := got.(bool)
	return met, held
}

// placeholder finds the metrics in an answer.
var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

func checkAnswer(text string, variants []Variant) error {
	for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
		t, err := parseTerm(m[1], variants)
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if t.variant == "" {
			return fmt.Errorf("answer: {%s} does not say of which variant", m[1])
		}
	}
	return nil
}

// FillAnswer puts figures into the scenario's answer. ok is false where there is no
// answer, or a figure is absent.
func (s *Scenario) FillAnswer(figure func(variant, name string) (string, bool)) (text string, ok bool) {
	ok = s.Answer != ""
	text = placeholder.ReplaceAllStringFunc(strings.TrimSpace(s.Answer), func(p string) string {
		t, err := parseTerm(strings.Trim(p, "{}"), s.Variants)
		if err != nil {
			ok = false
			return p
		}
		f, known := figure(t.variant, t.metric)
		ok = ok && known
		return f
	})
	return text, ok
}
