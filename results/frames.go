package results

// The frames between `twlab run` and `twlab role trial`. Down goes one
// FrameTrial: a Record with Trial set and the parts of Environment that only
// the caller knows. Up come the others; FrameRecord or FrameError is the last.
const (
	FrameTrial    = "trial"    // Record
	FrameStack    = "stack"    // Stack, configured, without snapshots
	FramePhase    = "phase"    // Phase, at its begin
	FrameSnapshot = "snapshot" // measure.Snapshot of the stack named by Host
	FrameStats    = "stats"    // client.Stats or server.Stats of Host
	FrameTrace    = "trace"    // nothing: before the first socket, and when the hold is over; the trial waits for FrameTraced
	FrameTraced   = "traced"   // down: []measure.Transition by the stack's name, since the last FrameTrace
	FrameRecord   = "record"   // Record, whole
	FrameError    = "error"    // string: why there is no record
)
