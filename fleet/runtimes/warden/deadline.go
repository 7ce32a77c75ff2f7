package main

import (
	"errors"
	"io"
	"os"
	"strconv"
	"time"
)

const (
	deadlineVariable = "WARDEN_DEADLINE"
	deadlinePath     = "/relay/deadline"

	// longestDeadline in digits: years into the future, and far from where the arithmetic would wrap around.
	longestDeadline = 12

	// patience with a file that was fine before: the engine removes it for a moment when it writes a new one.
	patience = 5 * time.Second
)

// A fence knows until when the relay may run. No file, or one that cannot be read, means that it may not run.
type fence struct {
	path            string
	last            time.Time
	unreadableSince time.Time
}

func newFence() *fence {
	if path := os.Getenv(deadlineVariable); path != "" {
		return &fence{path: path}
	}
	return &fence{path: deadlinePath}
}

// deadline looks at the file again. The zero time, which has always passed, stands for "there is none".
func (f *fence) deadline() time.Time {
	told, err := readDeadline(f.path)
	switch {
	case err == nil:
		f.last, f.unreadableSince = told, time.Time{}
	case f.unreadableSince.IsZero():
		f.unreadableSince = time.Now()
	case time.Since(f.unreadableSince) > patience:
		f.last = time.Time{}
	}
	return f.last
}

// readDeadline reads Unix seconds: ASCII digits, and at most one newline after them.
func readDeadline(path string) (time.Time, error) {
	file, err := os.Open(path)
	if err != nil {
		return time.Time{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, longestDeadline+2))
	if err != nil {
		return time.Time{}, err
	}
	if length := len(text); length > 0 && text[length-1] == '\n' {
		text = text[:length-1]
	}
	if len(text) == 0 || len(text) > longestDeadline {
		return time.Time{}, errors.New("not a deadline")
	}
	for _, digit := range text {
		if digit < '0' || digit > '9' {
			return time.Time{}, errors.New("not a deadline")
		}
	}
	seconds, err := strconv.ParseInt(string(text), 10, 64)
	// Without a monotonic reading in it, every comparison goes by the wall clock, as it is set at that moment.
	return time.Unix(seconds, 0), err
}
