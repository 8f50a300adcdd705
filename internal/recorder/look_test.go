package recorder_test

import (
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/recorder"
)

// A setting that a reload changes under the recorder's connection is seen: production's commits wait for us from then on.
func TestReloadedUnderTheRecorder(t *testing.T) {
	g := newRig(t, keepWAL())
	g.config = func(c *recorder.Config) { c.LookEvery = 100 * time.Millisecond }
	g.start()
	g.imaged()
	g.production.Exec(t, "postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	g.until("the setting to be seen", 30*time.Second, func(s sandglass.RecorderStatus) bool {
		return s.State == sandglass.RecorderStreaming && s.LastError != nil && s.LastError.Code == sandglass.CodeProductionSync
	})
	g.production.Exec(t, "postgres", "CREATE TABLE waits_for_us (n int)", "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	g.until("all to be well", 30*time.Second, func(s sandglass.RecorderStatus) bool {
		return s.State == sandglass.RecorderStreaming && s.LastError == nil
	})
}
