package measure

import (
	"cmp"
	"slices"
)

// A Transition is a number of sockets that went from one state to another.
type Transition struct {
	From State `json:"from"`
	To   State `json:"to"`
	N    int64 `json:"n"`
}

// SortTransitions sorts in the order of a connection's life.
func SortTransitions(list []Transition) {
	place := func(s State) int { return slices.Index(States, s) }
	slices.SortFunc(list, func(a, b Transition) int {
		return cmp.Or(cmp.Compare(place(a.From), place(b.From)), cmp.Compare(place(a.To), place(b.To)))
	})
}
