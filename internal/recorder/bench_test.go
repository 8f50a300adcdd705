package recorder_test

// What recording costs: processor time of the recorder alone, for a gigabyte of WAL of a busy pgbench.

import (
	"syscall"
	"testing"
	"time"

	"sandglass"
)

// BenchmarkRecording reports seconds of processor time for a gigabyte of WAL, and how often a thread of ours
// waited in a second: live, while pgbench writes, and behind, catching up with what it wrote.
//
//	go test ./internal/recorder -run '^$' -bench Recording -benchtime 1x -cpuprofile /tmp/cpu
func BenchmarkRecording(b *testing.B) {
	o := keepWAL("shared_buffers", "256MB")
	o.Durable = true
	g := newRig(b, o)
	g.check(g.production.PgbenchInit(b.Context(), "postgres", 25))
	g.start()
	g.imaged()
	g.durable(g.flushed())
	load := func() (from, to sandglass.LSN) {
		g.production.Exec(b, "postgres", "checkpoint")
		from = g.flushedTo()
		g.check(g.production.Pgbench(b.Context(), "postgres", 4, 8*time.Second, "-M", "prepared").Run())
		return from, g.flushedTo()
	}
	b.Run("live", func(b *testing.B) {
		var m meter
		for b.Loop() {
			m.run(g, func() sandglass.LSN { from, to := load(); g.durable(to); return to - from })
		}
		m.report(b)
	})
	b.Run("behind", func(b *testing.B) {
		var m meter
		for b.Loop() {
			g.stop()
			from, to := load()
			m.run(g, func() sandglass.LSN { g.start(); g.durable(to); return to - from })
		}
		m.report(b)
	})
}

// flushedTo is the end of what production has on its disk.
func (g *rig) flushedTo() sandglass.LSN {
	g.t.Helper()
	lsn, err := sandglass.ParseLSN(g.production.Query(g.t, "postgres", "select pg_current_wal_flush_lsn()"))
	g.check(err)
	return lsn
}

// meter adds up processor time.
type meter struct {
	cpu, length time.Duration
	waits       int64
	wal         sandglass.LSN
}

// run counts what is spent on the WAL that do says.
func (m *meter) run(g *rig, do func() sandglass.LSN) {
	g.t.Helper()
	var before, after syscall.Rusage
	g.check(syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	begun := time.Now()
	m.wal += do()
	m.length += time.Since(begun)
	g.check(syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	m.cpu += time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	m.waits += after.Nvcsw - before.Nvcsw
}

func (m *meter) report(b *testing.B) {
	gb := float64(m.wal) / 1e9
	b.ReportMetric(m.cpu.Seconds()/gb, "cpu-s/GB")
	b.ReportMetric(float64(m.waits)/m.length.Seconds(), "waits/s")
	b.ReportMetric(gb*1000/m.length.Seconds(), "MB/s")
	b.ReportMetric(0, "ns/op")
}
