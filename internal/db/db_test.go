package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"sandglass"
	"sandglass/internal/db"
	"sandglass/internal/pgtest"
)

var cluster *pgtest.Cluster

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if cluster, err = pgtest.Start(context.Background(), pgtest.Options{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer cluster.Remove()
		code := m.Run()
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// open makes a database of the test's own and opens it.
func open(t *testing.T) *db.DB {
	t.Helper()
	name := strings.ToLower(t.Name())
	cluster.Exec(t, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "CREATE DATABASE "+name)
	d, err := db.Open(t.Context(), cluster.ConnString(name), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code sandglass.Code) {
	t.Helper()
	if sandglass.CodeOf(err) != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

// TestOpenTogether: many processes that open a new database at once make one schema.
func TestOpenTogether(t *testing.T) {
	cluster.Exec(t, "postgres", "DROP DATABASE IF EXISTS opentogether", "CREATE DATABASE opentogether")
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			d, err := db.Open(t.Context(), cluster.ConnString("opentogether"), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Error(err)
				return
			}
			d.Close()
		})
	}
	all.Wait()
	if got := cluster.Query(t, "opentogether", `SELECT string_agg(DISTINCT schemaname, ',') FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`); got != db.Schema {
		t.Errorf("tables are in %s", got)
	}
}

func TestNewerIsRefused(t *testing.T) {
	open(t)
	cluster.Exec(t, "testnewerisrefused", "INSERT INTO sandglass.migration (name) VALUES ('9999_future.sql')")
	_, err := db.Open(t.Context(), cluster.ConnString("testnewerisrefused"), slog.New(slog.DiscardHandler))
	wantCode(t, err, db.CodeNewer)
}

// TestOrdinaryRole: a role of a team that owns nothing but a schema made for it.
func TestOrdinaryRole(t *testing.T) {
	// The schema is there: making one would need CREATE on the database.
	cluster.Exec(t, "postgres", "DROP DATABASE IF EXISTS ordinaryrole WITH (FORCE)", "DROP ROLE IF EXISTS team",
		"CREATE ROLE team LOGIN PASSWORD 'secret'", "CREATE DATABASE ordinaryrole")
	cluster.Exec(t, "ordinaryrole", "CREATE SCHEMA sandglass AUTHORIZATION team")
	d, err := db.Open(t.Context(), cluster.URL("team", "secret", "ordinaryrole"), slog.New(slog.DiscardHandler))
	ok(t, err)
	d.Close()
}

var sandbox = sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Server: &sandglass.Server{Port: 6001}}

func TestEnvironments(t *testing.T) {
	d, ctx := open(t), t.Context()
	created, err := d.ApplyEnvironment(ctx, sandbox)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	restored := time.Now().UTC().Truncate(time.Microsecond)
	ok(t, d.UpdateEnvironment(ctx, "uat", func(e *db.Environment) error {
		e.Recording, e.Server, e.Held, e.Incarnation, e.Restored, e.RestoredFrom, e.RestoredAt = true, db.WishRunning, true, "i1", "yesterday", "prod", restored
		return nil
	}))
	oops := errors.New("oops")
	if err := d.UpdateEnvironment(ctx, "uat", func(e *db.Environment) error { e.Held = false; return oops }); err != oops {
		t.Errorf("the error became %v", err)
	}
	changed := sandbox
	changed.Tenant = "contoso"
	if created, err := d.ApplyEnvironment(ctx, changed); err != nil || created {
		t.Fatalf("created %v, %v", created, err)
	}
	e, err := d.Environment(ctx, "uat")
	ok(t, err)
	want := db.Environment{Declaration: changed, Created: e.Created, Changed: e.Changed, Recording: true, Server: db.WishRunning,
		Shown: db.Shown{Held: true, Incarnation: "i1", Restored: "yesterday", RestoredFrom: "prod", RestoredAt: restored}}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
	production := sandglass.Environment{Name: "uat", Kind: sandglass.Production}
	_, err = d.ApplyEnvironment(ctx, production)
	wantCode(t, err, sandglass.CodeConfig)
	_, err = d.Environment(ctx, "nowhere")
	wantCode(t, err, sandglass.CodeEnvironmentUnknown)
	if all, err := d.Environments(ctx); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	remove := func() error { return d.Do(ctx, func(tx *db.Tx) error { return tx.RemoveEnvironment(ctx, "uat") }) }
	ok(t, d.InsertVolume(ctx, db.Volume{Host: "h", Volume: sandglass.Volume{ID: "v1", Environment: "uat", Driver: "full", Path: "/v1", Major: 15}}))
	wantCode(t, remove(), sandglass.CodeVolumeInUse)
	ok(t, d.VolumeBecome(ctx, "v1", sandglass.VolumeGone, time.Time{}))
	ok(t, remove())
	wantCode(t, remove(), sandglass.CodeEnvironmentUnknown)
}

// TestRemovalOrOperation: of a removal and an operation that begin at once, one wins and the other is told.
func TestRemovalOrOperation(t *testing.T) {
	d, ctx := open(t), t.Context()
	remove := func() error { return d.Do(ctx, func(tx *db.Tx) error { return tx.BeginRemoval(ctx, "uat") }) }
	for round := range 20 {
		_, err := d.ApplyEnvironment(ctx, sandbox)
		ok(t, err)
		o := db.Operation{Host: "h", Exclusive: true, Request: sandglass.Request{Kind: sandglass.KindRestore, Environment: "uat"},
			Operation: sandglass.Operation{ID: fmt.Sprintf("o%02d", round), Kind: sandglass.KindRestore, Environment: "uat", State: sandglass.Queued}}
		var removed, began error
		var both sync.WaitGroup
		both.Go(func() { removed = remove() })
		both.Go(func() { began = d.Do(ctx, func(tx *db.Tx) error { return tx.InsertOperation(ctx, o) }) })
		both.Wait()
		if (removed == nil) == (began == nil) || sandglass.CodeOf(errors.Join(removed, began)) != sandglass.CodeEnvironmentBusy {
			t.Fatalf("round %d: removal %v, operation %v", round, removed, began)
		}
		if removed == nil {
			_, err := d.ApplyEnvironment(ctx, sandbox)
			wantCode(t, err, sandglass.CodeEnvironmentBusy)
			ok(t, remove()) // a second `env rm` finishes the first
			ok(t, d.Do(ctx, func(tx *db.Tx) error { return tx.RemoveEnvironment(ctx, "uat") }))
			continue
		}
		ok(t, d.Do(ctx, func(tx *db.Tx) error {
			o, err := tx.LockOperation(ctx, o.ID)
			o.State = sandglass.Cancelled
			return errors.Join(err, tx.UpdateOperation(ctx, o))
		}))
	}
}

func TestVolumes(t *testing.T) {
	d, ctx := open(t), t.Context()
	_, err := d.ApplyEnvironment(ctx, sandbox)
	ok(t, err)
	for _, id := range []string{"v1", "v2"} {
		v := db.Volume{Host: "h", Volume: sandglass.Volume{ID: id, Environment: "uat", Operation: "o", Driver: "full", Path: "/" + id, Major: 15, Moment: "noon"}}
		ok(t, d.InsertVolume(ctx, v))
		ok(t, d.InsertVolume(ctx, v)) // again, as after a crash
	}
	swap := func(id string, then sandglass.VolumeState) {
		t.Helper()
		for range 2 {
			ok(t, d.Do(ctx, func(tx *db.Tx) error { return tx.Swap(ctx, id, then, time.Now().Add(time.Hour)) }))
		}
	}
	want := func(current string, v1, v2 sandglass.VolumeState) {
		t.Helper()
		e, err := d.Environment(ctx, "uat")
		ok(t, err)
		a, err := d.Volume(ctx, "v1")
		ok(t, err)
		b, err := d.Volume(ctx, "v2")
		ok(t, err)
		if e.Volume != current || a.State != v1 || b.State != v2 {
			t.Errorf("current %q, v1 %s, v2 %s; want %q, %s, %s", e.Volume, a.State, b.State, current, v1, v2)
		}
		for _, v := range []db.Volume{a, b} {
			if kept := v.State == sandglass.VolumeKept; v.KeptSince.IsZero() == kept || v.KeptUntil.IsZero() == kept {
				t.Errorf("%s is %s since %v until %v", v.ID, v.State, v.KeptSince, v.KeptUntil)
			}
		}
	}
	swap("v1", sandglass.VolumeKept)
	want("v1", sandglass.VolumeCurrent, sandglass.VolumeStaging)
	swap("v2", sandglass.VolumeKept)
	want("v2", sandglass.VolumeKept, sandglass.VolumeCurrent)
	swap("v1", sandglass.VolumeStaging) // the cutover is rolled back
	want("v1", sandglass.VolumeCurrent, sandglass.VolumeStaging)
	ok(t, d.VolumeBecome(ctx, "v2", sandglass.VolumeGone, time.Time{}))
	if err := d.VolumeBecome(ctx, "v2", sandglass.VolumeCurrent, time.Time{}); err == nil {
		t.Error("a volume that is gone became current")
	}
	ok(t, d.SetVolumeBytes(ctx, "v1", 77))
	all, err := d.Volumes(ctx, "uat")
	ok(t, err)
	if len(all) != 1 || all[0].ID != "v1" || all[0].Bytes != 77 || all[0].Moment != "noon" || all[0].Host != "h" {
		t.Errorf("volumes are %+v", all)
	}
	ok(t, d.VolumeBecome(ctx, "v1", sandglass.VolumeGone, time.Time{}))
	want("", sandglass.VolumeGone, sandglass.VolumeGone)
	_, err = d.Volume(ctx, "v3")
	wantCode(t, err, sandglass.CodeVolumeUnknown)
}

// TestVolumeUIDs: no two volumes of a host that are there have one user ID; what each was given last is known when they are gone.
func TestVolumeUIDs(t *testing.T) {
	d, ctx := open(t), t.Context()
	insert := func(id, host string, uid int) error {
		return d.InsertVolume(ctx, db.Volume{Host: host, UID: uid, Volume: sandglass.Volume{ID: id, Environment: "uat", Driver: "full", Path: "/" + id, Major: 15}})
	}
	want := func(host string, held map[int]bool) map[int]time.Time {
		t.Helper()
		given, got, err := d.UIDs(ctx, host)
		ok(t, err)
		if diff := cmp.Diff(held, got); diff != "" || len(given) != len(held) {
			t.Errorf("of %s: %v, %v", host, given, diff)
		}
		return given
	}
	ok(t, insert("v1", "h", 5001))
	ok(t, insert("v1", "h", 5002)) // again: it keeps what it has
	ok(t, insert("v2", "h", 5002))
	ok(t, insert("v3", "other", 5001))
	ok(t, insert("v4", "h", 0))
	ok(t, insert("v5", "h", 0))
	if err := insert("v6", "h", 5001); err == nil {
		t.Error("two volumes have one user ID")
	}
	first := want("h", map[int]bool{5001: true, 5002: true})
	want("other", map[int]bool{5001: true})
	for id, uid := range map[string]int{"v1": 5001, "v2": 5002, "v3": 5001, "v4": 0} {
		if v, err := d.Volume(ctx, id); err != nil || v.UID != uid {
			t.Errorf("%s is of %d, %v", id, v.UID, err)
		}
	}
	ok(t, d.VolumeBecome(ctx, "v1", sandglass.VolumeGone, time.Time{}))
	want("h", map[int]bool{5001: false, 5002: true})
	ok(t, insert("v6", "h", 5001))
	if now := want("h", map[int]bool{5001: true, 5002: true}); !now[5001].After(first[5001]) || !now[5002].Equal(first[5002]) {
		t.Errorf("given at %v, before at %v", now, first)
	}
	// Who chooses one lets others wait.
	ok(t, d.Do(ctx, func(tx *db.Tx) error {
		ok(t, tx.LockUIDs(ctx, "h"))
		err := d.Do(ctx, func(other *db.Tx) error {
			if _, err := other.Exec(ctx, "SET LOCAL lock_timeout = '50ms'"); err != nil {
				return err
			}
			ok(t, other.LockUIDs(ctx, "other"))
			return other.LockUIDs(ctx, "h")
		})
		if code := pgtest.SQLState(err); code != "55P03" {
			t.Errorf("a second choice did not wait: %v", err)
		}
		return nil
	}))
}

// TestVolumeStates tries every pair of states.
func TestVolumeStates(t *testing.T) {
	states := []sandglass.VolumeState{sandglass.VolumeStaging, sandglass.VolumeCurrent, sandglass.VolumeKept, sandglass.VolumeGone}
	may := []string{"staging current", "staging gone", "current kept", "current staging", "current gone", "kept current", "kept gone"}
	for _, from := range states {
		for _, to := range states {
			if got, want := db.VolumeCanBecome(from, to), slices.Contains(may, string(from)+" "+string(to)); got != want {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
}

func TestRecords(t *testing.T) {
	d, ctx := open(t), t.Context()
	ok(t, d.Audit(ctx, db.AuditRow{Who: "anna", What: "peek.opened", Environment: "prod", Detail: json.RawMessage(`{"reason": "lost order"}`)}))
	ok(t, d.Audit(ctx, db.AuditRow{Who: "ben", What: "peek.closed", Environment: "prod"}))
	rows, err := d.Audits(ctx, "prod", 10)
	if err != nil || len(rows) != 2 || rows[0].Who != "ben" || string(rows[1].Detail) != `{"reason": "lost order"}` || rows[1].At.IsZero() {
		t.Errorf("%+v, %v", rows, err)
	}
}

// TestForget: what is old goes, except what a volume that is there still names; and an operation that comes back from
// the repository has all that was asked for.
func TestForget(t *testing.T) {
	d, ctx := open(t), t.Context()
	now := time.Now().UTC().Truncate(time.Microsecond)
	request := sandglass.Request{Kind: sandglass.KindPeek, Environment: "uat", Reason: "why", TTL: sandglass.Duration(time.Minute), Moment: &sandglass.Moment{Kind: sandglass.AtXID, XID: 7}}
	put := func(id string, age time.Duration, r *sandglass.Request) {
		o := sandglass.Operation{ID: id, Kind: sandglass.KindPeek, Environment: "uat", State: sandglass.Succeeded, Created: now.Add(-age), Ended: now.Add(-age), Reason: "why", Request: r}
		ok(t, d.Do(ctx, func(tx *db.Tx) error { return tx.ImportOperation(ctx, "h", o) }))
	}
	put("old", 3*time.Hour, nil)
	put("old-with-volume", 3*time.Hour, nil)
	put("new", time.Hour, &request)
	ok(t, d.InsertVolume(ctx, db.Volume{Host: "h", Volume: sandglass.Volume{ID: "v1", Environment: "uat", Operation: "old-with-volume", Driver: "full", Path: "/v1", Major: 15}}))
	ok(t, d.Audit(ctx, db.AuditRow{Who: "anna", What: "peek.asked", Operation: "new"}))
	if n, err := d.Forget(ctx, now.Add(-2*time.Hour)); err != nil || n != 1 {
		t.Errorf("%d rows, %v", n, err)
	}
	known, err := d.KnownOperations(ctx)
	ok(t, err)
	if known["old"] || !known["old-with-volume"] || !known["new"] {
		t.Errorf("left: %v", known)
	}
	o, err := d.Operation(ctx, "new")
	ok(t, err)
	if diff := cmp.Diff(request, o.Request); diff != "" {
		t.Error(diff)
	}
	if rows, err := d.Audits(ctx, "", 10); err != nil || len(rows) != 1 {
		t.Errorf("audit: %v, %v", rows, err)
	}
}

// TestSubscribe: a change is heard after its commit, by its topic and by all, also when the
// listening connection was lost in between.
func TestSubscribe(t *testing.T) {
	d, ctx := open(t), t.Context()
	one, end := d.Subscribe(db.EnvironmentTopic("uat"))
	defer end()
	all, endAll := d.Subscribe("")
	defer endAll()
	other, endOther := d.Subscribe(db.EnvironmentTopic("prod"))
	defer endOther()
	_, err := d.ApplyEnvironment(ctx, sandbox)
	ok(t, err)
	<-one
	<-all
	if len(other) != 0 {
		t.Error("a change of another topic was heard")
	}
	cluster.Query(t, "testsubscribe", `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN sandglass'`)
	<-other // whatever may have been missed
	_, err = d.ApplyEnvironment(ctx, sandbox)
	ok(t, err)
	<-one
}
