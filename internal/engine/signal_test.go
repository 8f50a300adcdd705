package engine_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
)

// signal is a log that tells when a message was written.
type signal struct {
	slog.Handler
	text string
	once *sync.Once
	seen chan struct{}
}

func newSignal(text string) *signal {
	return &signal{slog.DiscardHandler, text, &sync.Once{}, make(chan struct{})}
}

func (s *signal) log() *slog.Logger                        { return slog.New(s) }
func (s *signal) Enabled(context.Context, slog.Level) bool { return true }
func (s *signal) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *signal) WithGroup(string) slog.Handler            { return s }
func (s *signal) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, s.text) {
		s.once.Do(func() { close(s.seen) })
	}
	return nil
}
