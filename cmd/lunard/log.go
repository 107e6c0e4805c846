package main

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// logLines is how many lines may wait for a slow standard error; beyond that they are counted and dropped, so that nobody
// on a loop waits for a terminal.
const logLines = 1024

// An asyncLog is the daemon's log: logrus behind a bounded writer of its own goroutine.
type asyncLog struct {
	l       *logrus.Logger
	level   logrus.Level // what it was begun with
	out     io.Writer
	lines   chan []byte
	done    chan struct{}
	dropped atomic.Uint64
}

// newLog begins a log that goes to out.
func newLog(level string, out io.Writer) (*asyncLog, error) {
	lv, err := logrus.ParseLevel(level)
	if err != nil || lv > logrus.DebugLevel || lv < logrus.ErrorLevel {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", level)
	}
	a := &asyncLog{l: logrus.New(), level: lv, out: out, lines: make(chan []byte, logLines), done: make(chan struct{})}
	a.l.SetOutput(a)
	a.l.SetLevel(lv)
	a.l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	go a.write()
	return a, nil
}

// Write is io.Writer's, for logrus: it never waits.
func (a *asyncLog) Write(line []byte) (int, error) {
	select {
	case a.lines <- append([]byte(nil), line...):
	default:
		a.dropped.Add(1)
	}
	return len(line), nil
}

func (a *asyncLog) write() {
	defer close(a.done)
	for line := range a.lines {
		if n := a.dropped.Swap(0); n != 0 {
			fmt.Fprintf(a.out, "lunard: %d log lines were dropped\n", n)
		}
		_, _ = a.out.Write(line) // there is nowhere left to say that it failed
	}
}

// close writes what waits. Nothing may be logged afterwards.
func (a *asyncLog) close() {
	a.l.SetOutput(a.out)
	close(a.lines)
	<-a.done
}

// Debug is target.Logger's.
func (a *asyncLog) Debug(msg string, kv ...any) { a.log(logrus.DebugLevel, msg, kv) }

// Info is target.Logger's.
func (a *asyncLog) Info(msg string, kv ...any) { a.log(logrus.InfoLevel, msg, kv) }

// Warn is target.Logger's.
func (a *asyncLog) Warn(msg string, kv ...any) { a.log(logrus.WarnLevel, msg, kv) }

func (a *asyncLog) log(lv logrus.Level, msg string, kv []any) {
	if !a.l.IsLevelEnabled(lv) {
		return
	}
	a.l.WithFields(fieldsOf(kv)).Log(lv, msg)
}

func fieldsOf(kv []any) logrus.Fields {
	fields := make(logrus.Fields, len(kv)/2)
	for i := 0; i+1 < len(kv); i += 2 {
		v := kv[i+1]
		if list, ok := v.([]string); ok {
			v = strings.Join(list, " ")
		}
		fields[fmt.Sprint(kv[i])] = v
	}
	return fields
}

// audit writes a line for a change that somebody asked for, whatever the level.
func (a *asyncLog) audit(msg string, kv ...any) {
	e := logrus.NewEntry(a.l)
	e.Data = fieldsOf(kv)
	e.Time, e.Level, e.Message = time.Now(), logrus.InfoLevel, msg
	line, err := a.l.Formatter.Format(e)
	if err != nil {
		line = []byte(msg + " (the line cannot be written: " + err.Error() + ")\n")
	}
	_, _ = a.Write(line)
}

// setDebug makes the log tell more, or as much as it was begun with.
func (a *asyncLog) setDebug(on bool) {
	if on {
		a.l.SetLevel(logrus.DebugLevel)
	} else {
		a.l.SetLevel(a.level)
	}
}
