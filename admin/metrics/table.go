package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// A metric is one row of the table of what is shown. Counters end in _total; units are base units and stand in the name.
type metric struct {
	name   string // without namespace
	kind   prometheus.ValueType
	hist   bool // a histogram; kind does not count
	labels []string
	help   string
}

// namespace begins every name.
const namespace = "lunar_"

// The metrics, in the order of docs/metrics.md.
const (
	buildInfo = iota
	startTime
	targets
	sessions
	sessionsHidden
	loggingIn
	connectionsAccepted
	connectionsTurnedAway
	connectionsDropped
	logins
	loginsFailed
	loginsSlowed
	discoveries
	reinstatements
	sessionsEnded
	sessionEvents
	bufferBytes
	bufferLimit
	orphans
	taskSetFull
	panics
	linesSuppressed
	loopBusy

	targetInfo
	targetReady
	targetSessions
	targetCommands
	targetResponses
	targetReceived
	targetSent
	targetAbsent

	lunInfo
	lunSize
	lunOnline
	lunFailed
	lunQueue
	lunCommands
	lunFailures
	lunBytes
	lunWaiting
	lunOldest
	lunTimeouts
	lunInDoubt
	lunAway
	lunFenced
	lunErrors
	lunDuration

	sessionInfo
	sessionStart
	sessionQueue
	sessionCommands
	sessionFailures
	sessionBytes
	sessionErrors
	sessionReceived
	sessionSent
	metricCount
)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// Labels.
var (
	ofTarget  = []string{"target"}
	ofLUN     = []string{"target", "lun"}
	ofSession = []string{"target", "initiator", "isid", "portal_group"}
)

var table = [metricCount]metric{
	buildInfo:             {"build_info", gauge, false, []string{"version", "goversion"}, "Always 1; the labels say what runs."},
	startTime:             {"start_time_seconds", gauge, false, nil, "When the daemon began to serve, in seconds since the epoch."},
	targets:               {"targets", gauge, false, nil, "Targets."},
	sessions:              {"sessions", gauge, false, nil, "Normal sessions."},
	sessionsHidden:        {"sessions_without_series", gauge, false, nil, "Normal sessions that have no series of their own (lunar_session_…), since there are too many."},
	loggingIn:             {"connections_logging_in", gauge, false, nil, "Connections that are in login or discovery."},
	connectionsAccepted:   {"connections_accepted_total", counter, false, nil, "Connections that portals have taken."},
	connectionsTurnedAway: {"connections_turned_away_total", counter, false, nil, "Connections that were told to try again, or closed, since there was no room for a login."},
	connectionsDropped:    {"connections_dropped_total", counter, false, []string{"reason"}, "Connections of sessions that the target has given up."},
	logins:                {"logins_total", counter, false, nil, "Logins of normal sessions that succeeded."},
	loginsFailed:          {"logins_failed_total", counter, false, []string{"reason"}, "Logins that failed, by the status of the answer or by what kept it from being given."},
	loginsSlowed:          {"logins_slowed_total", counter, false, nil, "Logins whose answer was held back since they had failed to authenticate."},
	discoveries:           {"discovery_sessions_total", counter, false, nil, "Discovery sessions."},
	reinstatements:        {"reinstatements_total", counter, false, nil, "Logins that ended an older session or connection of the same initiator port."},
	sessionsEnded:         {"sessions_ended_total", counter, false, []string{"reason"}, "Normal sessions that have ended: by logout, by the loss or the closing of the connection, by an administrator, or for what the target has dropped it for."},
	sessionEvents:         {"session_events_total", counter, false, []string{"event"}, "What normal sessions have met beside commands, by kind."},
	bufferBytes:           {"buffer_bytes", gauge, false, nil, "Memory that data of commands and unsent answers take of the budget."},
	bufferLimit:           {"buffer_limit_bytes", gauge, false, nil, "The budget for data of commands and unsent answers."},
	orphans:               {"orphans", gauge, false, nil, "Volumes of LUNs that were removed and that have not ended the requests that they had."},
	taskSetFull:           {"task_set_full_total", counter, false, nil, "Commands that were answered TASK SET FULL for want of memory."},
	panics:                {"panics_total", counter, false, nil, "Faults of lunar itself, each of which has cost a connection or taken a logical unit offline."},
	linesSuppressed:       {"log_lines_suppressed_total", counter, false, nil, "Lines left out of the log since there were too many of their kind."},
	loopBusy:              {"loop_busy_seconds_total", counter, false, []string{"loop"}, "Time that an event loop was awake: its rate is the loop's utilisation. A loop has the name of the target that it was made for."},

	targetInfo:      {"target_info", gauge, false, []string{"target", "tid", "alias", "loop"}, "Always 1; the labels tell of the target."},
	targetReady:     {"target_ready", gauge, false, ofTarget, "1: the target takes logins. 0: it is offline."},
	targetSessions:  {"target_sessions", gauge, false, ofTarget, "Normal sessions of the target."},
	targetCommands:  {"target_commands_total", counter, false, ofTarget, "SCSI commands that have come to the target."},
	targetResponses: {"target_responses_total", counter, false, ofTarget, "SCSI commands of the target that were answered."},
	targetReceived:  {"target_received_bytes_total", counter, false, ofTarget, "Data that came with commands of the target, and after them."},
	targetSent:      {"target_sent_bytes_total", counter, false, ofTarget, "Data that commands of the target were answered with."},
	targetAbsent:    {"target_absent_lun_commands_total", counter, false, ofTarget, "Commands to LUNs that the target does not have, or does not show."},

	lunInfo:     {"lun_info", gauge, false, []string{"target", "lun", "kind", "naa", "serial"}, "Always 1; the labels tell of the logical unit. Its kind is disk or controller."},
	lunSize:     {"lun_size_bytes", gauge, false, ofLUN, "Capacity; 0 without a medium."},
	lunOnline:   {"lun_online", gauge, false, ofLUN, "1: there is a medium and it may be used."},
	lunFailed:   {"lun_failed", gauge, false, ofLUN, "1: the volume refuses writes until it is opened anew, or a fault took the unit offline."},
	lunQueue:    {"lun_queue_depth", gauge, false, ofLUN, "Commands that have begun and not ended."},
	lunCommands: {"lun_commands_total", counter, false, []string{"target", "lun", "op"}, "Commands that have ended, however, by what they do to the medium: read, write or other."},
	lunFailures: {"lun_commands_failed_total", counter, false, []string{"target", "lun", "op"}, "Of these, those that ended with another status than GOOD, or were aborted."},
	lunBytes:    {"lun_bytes_total", counter, false, []string{"target", "lun", "op"}, "Data of reads and writes that ended GOOD."},
	lunWaiting:  {"lun_waiting_commands", gauge, false, ofLUN, "Commands that have waited for the volume for longer than the LUN's timeout, those included that were aborted or answered and that the volume has not ended."},
	lunOldest:   {"lun_waiting_longest_seconds", gauge, false, ofLUN, "How long the first of them has waited."},
	lunTimeouts: {"lun_timeouts_total", counter, false, []string{"target", "lun", "answered"}, "Commands that have waited for the volume for longer than the LUN's timeout: answered yes, NOT READY for it (on-timeout: error); no, left waiting."},
	lunInDoubt:  {"lun_in_doubt_commands", gauge, false, ofLUN, "Commands that were aborted or answered, and that the volume has not ended."},
	lunAway:     {"lun_away", gauge, false, ofLUN, "1: the volume could not be opened, and the LUN is there without it."},
	lunFenced:   {"lun_fenced", gauge, false, ofLUN, "1: somebody else has taken the volume over, and every command that needs it is answered NOT READY."},
	lunErrors:   {"lun_errors_total", counter, false, []string{"target", "lun", "sense"}, "Commands that ended with another status than GOOD, by sense key, additional sense code and qualifier in hex (5/24/00), or by status where there is no sense; TASK ABORTED: answered so, or aborted without an answer."},
	lunDuration: {"lun_command_duration_seconds", gauge, true, []string{"target", "lun", "op"}, "Time of reads and writes from their arrival to their status."},

	sessionInfo:     {"session_info", gauge, false, []string{"target", "initiator", "isid", "portal_group", "tsih", "alias", "user", "peer"}, "Always 1; the labels tell of the session."},
	sessionStart:    {"session_start_time_seconds", gauge, false, ofSession, "When the session logged in, in seconds since the epoch."},
	sessionQueue:    {"session_queue_depth", gauge, false, ofSession, "Commands of the session that have begun and not ended."},
	sessionCommands: {"session_commands_total", counter, false, append(ofSession[:4:4], "op"), "Commands of the session that have ended, at all LUNs together: read, write or other."},
	sessionFailures: {"session_commands_failed_total", counter, false, append(ofSession[:4:4], "op"), "Of these, those that ended with another status than GOOD, or were aborted."},
	sessionBytes:    {"session_bytes_total", counter, false, append(ofSession[:4:4], "op"), "Data of reads and writes of the session that ended GOOD."},
	sessionErrors:   {"session_errors_total", counter, false, ofSession, "Commands of the session that ended with another status than GOOD, or were aborted."},
	sessionReceived: {"session_received_bytes_total", counter, false, ofSession, "All bytes that the session's connections have brought, headers and login included."},
	sessionSent:     {"session_sent_bytes_total", counter, false, ofSession, "All bytes that the session's connections have taken, likewise."},
}

// descs makes the table's descriptions.
func descs() (d [metricCount]*prometheus.Desc) {
	for i := range table {
		m := &table[i]
		d[i] = prometheus.NewDesc(namespace+m.name, m.help, m.labels, nil)
	}
	return d
}

// kindName is the kind of a metric in words.
func (m *metric) kindName() string {
	switch {
	case m.hist:
		return "histogram"
	case m.kind == counter:
		return "counter"
	}
	return "gauge"
}
