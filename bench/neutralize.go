package main

// Neutralizing and proving a copy of an ERP, against one hand-written psql script that does the same
// statements and rewrites the same tables and catalogs, and proves nothing. Both work on servers with
// the settings of a staging server, each on a copy of the same data folder.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"sandglass"
	"sandglass/internal/erp"
	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
	"sandglass/internal/search"
	"sandglass/internal/server"
)

// bytesAtScale1 is what the ERP takes on the disk at scale 1, indexes included.
const bytesAtScale1 = 170e6

func (b *bench) neutralize(ctx context.Context) (err error) {
	settings := server.StagingSettings(15, sandglass.Parameters{MaxWALSenders: 10}, nil)
	delete(settings, "max_connections")
	original, err := pgtest.Start(ctx, pgtest.Options{Dir: filepath.Join(b.dir, "erp"), Durable: true, Settings: settings, HBA: []string{"local all " + policy.OurRole + " trust"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, original.Remove()) }()
	scale := float64(b.size) / bytesAtScale1
	if err := original.Do(ctx, "postgres", "CREATE ROLE "+policy.OurRole+" SUPERUSER LOGIN", "CREATE DATABASE "+erp.Business, "CREATE DATABASE "+erp.Reporting); err != nil {
		return err
	}
	b.note("filling an ERP of scale %.1f, about %s", scale, b.size)
	if err := erp.Fill(ctx, original.Connect, erp.Options{Seed: 1, Scale: scale}); err != nil {
		return err
	}
	if err := errors.Join(original.Do(ctx, erp.Business, "VACUUM ANALYZE"), original.Do(ctx, erp.Reporting, "VACUUM ANALYZE")); err != nil {
		return err
	}
	in, err := erpInput()
	if err != nil {
		return err
	}
	scripts, err := handWritten(ctx, original, in.Packs)
	if err != nil {
		return err
	}
	if err := original.Stop(); err != nil {
		return err
	}
	var ours, theirs []time.Duration
	for i := range b.runs {
		var took, peer time.Duration
		halves := []func() error{
			func() (err error) {
				took, err = b.onCopy(ctx, original, func(c *pgtest.Cluster) error { return neutralizeAndProve(ctx, c, in) })
				return err
			},
			func() (err error) {
				peer, err = b.onCopy(ctx, original, func(c *pgtest.Cluster) error { return runScripts(ctx, c, scripts) })
				return err
			},
		}
		for j := range 2 { // in turn, which comes first
			if err := halves[(i+j)%2](); err != nil {
				return err
			}
		}
		ours, theirs = append(ours, took), append(theirs, peer)
		b.note("neutralize and prove %d: Sandglass %s, psql %s", i+1, seconds(took), seconds(peer))
	}
	a, z := median(ours), median(theirs)
	ratio := a.Seconds() / z.Seconds()
	limit := time.Duration(40 * float64(time.Second) * max(1, float64(b.size)/4e9))
	b.report.add("neutralize and prove an ERP of "+b.size.String(), seconds(a), seconds(z)+" (psql script)", fmt.Sprintf("%.2f of its time", ratio),
		"at most 1.3", ratio <= 1.3)
	return b.searchCopy(ctx, original, a, limit)
}

// searchCopy measures the last part of the proof, the search of the finished copy: its large values by SQL, then all files. What
// comes before it took some time already; together they have a limit.
func (b *bench) searchCopy(ctx context.Context, original *pgtest.Cluster, before, limit time.Duration) error {
	var needles []search.Needle
	for i := range 1000 {
		needles = append(needles, search.Needle{Value: fmt.Appendf(nil, "secret-%d.prod.example", i), Of: i, Word: true})
	}
	index := search.NewIndex(needles)
	var hidden, files time.Duration
	var read, hits int64
	_, err := b.onCopy(ctx, original, func(c *pgtest.Cluster) error {
		var found atomic.Int64
		begin := time.Now()
		err := policy.Stored{Look: func(_ string, value []byte) { found.Add(int64(len(index.Mentioned(value)))) }, Unread: func(string, string) { found.Add(1) }}.Read(ctx, stagingOf(c))
		hidden = time.Since(begin)
		if err = errors.Join(err, c.Stop()); err != nil {
			return err
		}
		begin = time.Now()
		inFiles, bytes, err := index.Search(ctx, c.Data(), search.Options{})
		files, read, hits = time.Since(begin), bytes, found.Load()+int64(len(inFiles))
		return err
	})
	if err != nil {
		return err
	}
	b.note("search of the finished copy: large values %s, files %s for %s", seconds(hidden), seconds(files), sandglass.Bytes(read))
	all := before + hidden + files
	b.report.add("the same with the search of all its files", seconds(all), "", fmt.Sprintf("%.0f MB/s searched", float64(read)/1e6/(hidden+files).Seconds()),
		fmt.Sprintf("at most %.0f s, nothing found", limit.Seconds()), hits == 0 && all <= limit)
	return nil
}

func erpInput() (policy.Input, error) {
	packs, err := pack.Load("", []string{"dynamics365-finops"})
	databases := map[string]string{"business": erp.Business, "reporting": erp.Reporting}
	return policy.Input{Run: "bench", Source: sandglass.Environment{Name: "prod", Databases: databases}, Environment: sandglass.Environment{Name: "uat", Databases: databases}, Packs: packs, Moment: "now"}, err
}

// onCopy measures do on a server on a copy of the stopped cluster. What copying wrote is on the disk before it begins.
func (b *bench) onCopy(ctx context.Context, original *pgtest.Cluster, do func(*pgtest.Cluster) error) (took time.Duration, err error) {
	dir := filepath.Join(b.dir, "copy")
	if out, err := exec.CommandContext(ctx, "cp", "-a", original.Dir, dir).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("copy the cluster: %w: %s", err, out)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	conf := filepath.Join(dir, "data", "postgresql.conf")
	text, err := os.ReadFile(conf)
	if err == nil {
		err = os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), original.Dir, dir)), 0o600)
	}
	if err != nil {
		return 0, err
	}
	c, err := pgtest.Open(dir)
	if err != nil {
		return 0, err
	}
	if out, err := exec.CommandContext(ctx, "sync").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("sync: %w: %s", err, out)
	}
	if err := c.Start(ctx); err != nil {
		return 0, err
	}
	begin := time.Now()
	err = do(c)
	return time.Since(begin), errors.Join(err, c.Kill())
}

func stagingOf(c *pgtest.Cluster) policy.Staging {
	return policy.Staging{Major: c.Major, Connect: func(ctx context.Context, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", c.Socket(), c.Port, policy.OurRole, database))
	}}
}

func neutralizeAndProve(ctx context.Context, c *pgtest.Cluster, in policy.Input) error {
	st := stagingOf(c)
	if _, err := policy.Neutralize(ctx, st, in); err != nil {
		return err
	}
	findings, err := policy.Prove(ctx, st, in)
	for _, f := range findings {
		if f.Level == sandglass.Stop {
			err = errors.Join(err, errors.New(f.Message))
		}
	}
	return err
}

func runScripts(ctx context.Context, c *pgtest.Cluster, scripts map[string]string) error {
	for _, database := range slices.Sorted(maps.Keys(scripts)) {
		cmd := c.Command(ctx, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-")
		cmd.Stdin = strings.NewReader(scripts[database])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("psql: %w: %s", err, out)
		}
	}
	return nil
}

// handWritten are the scripts by database, as somebody would write them who knows the schema.
func handWritten(ctx context.Context, c *pgtest.Cluster, packs []pack.Pack) (map[string]string, error) {
	conn, err := c.Connect(ctx, erp.Business)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const quiet = "SET session_replication_role = replica;\n"
	const catalogs = "VACUUM FULL pg_user_mapping; VACUUM FULL pg_foreign_server; VACUUM FULL pg_foreign_data_wrapper; VACUUM FULL pg_foreign_table; VACUUM FULL pg_statistic_ext_data; VACUUM FULL pg_statistic;\n"
	var statements strings.Builder
	var tables []string
	for _, p := range packs {
		for _, r := range p.Rules {
			var there bool
			if err := conn.QueryRow(ctx, "SELECT to_regclass('public.' || $1::text) IS NOT NULL", r.Table).Scan(&there); err != nil {
				return nil, err
			}
			if r.Database != "business" || !there {
				continue
			}
			sql, err := statement(ctx, conn, r)
			if err != nil {
				return nil, err
			}
			statements.WriteString(sql + ";\n")
			if !slices.Contains(tables, r.Table) {
				tables = append(tables, r.Table)
			}
		}
	}
	business := quiet + statements.String()
	for _, t := range tables {
		business += fmt.Sprintf("DELETE FROM pg_statistic WHERE starelid = 'public.%s'::regclass;\nVACUUM (FULL, ANALYZE) public.%[1]s;\n", t)
	}
	shared := "UPDATE pg_authid SET rolcanlogin = false, rolpassword = NULL WHERE oid >= 16384 AND rolname <> '" + policy.OurRole + "';\nDELETE FROM pg_db_role_setting;\n" +
		"VACUUM FULL pg_authid; VACUUM FULL pg_auth_members; VACUUM FULL pg_db_role_setting; VACUUM FULL pg_subscription; VACUUM FULL pg_replication_origin;\n"
	return map[string]string{erp.Business: business + catalogs, erp.Reporting: catalogs, "postgres": shared + catalogs}, nil
}

// statement is what a rule does, written by hand.
func statement(ctx context.Context, conn *pgx.Conn, r pack.Rule) (string, error) {
	where := ""
	if r.Where != "" {
		where = " WHERE " + r.Where
	}
	switch r.Action() {
	case "set":
		var sets []string
		for _, c := range slices.Sorted(maps.Keys(r.Set)) {
			sets = append(sets, c+" = "+r.Set[c])
		}
		return "UPDATE public." + r.Table + " SET " + strings.Join(sets, ", ") + where, nil
	case "clear":
		var sets, filled []string
		for _, c := range r.Clear {
			var empty string
			if err := conn.QueryRow(ctx, `SELECT CASE WHEN NOT attnotnull THEN 'NULL' WHEN typname = 'bytea' THEN '''\x''' WHEN typcategory = 'N' THEN '0' ELSE '''''' END
				FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = to_regclass('public.' || $1::text) AND attname = $2`, r.Table, c).Scan(&empty); err != nil {
				return "", fmt.Errorf("look at %s.%s: %w", r.Table, c, err)
			}
			sets, filled = append(sets, c+" = "+empty), append(filled, c+" IS DISTINCT FROM "+empty)
		}
		return "UPDATE public." + r.Table + " SET " + strings.Join(sets, ", ") + " WHERE " + strings.Join(filled, " OR "), nil
	case "delete":
		return "DELETE FROM public." + r.Table + where, nil
	case "insert":
		return "", fmt.Errorf("%s inserts; the script does not know that yet", r.Name)
	case "merge":
		return "SELECT 1", nil // there is no sandbox to merge from
	}
	var referenced bool
	err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass('public.' || $1::text))`, r.Table).Scan(&referenced)
	if referenced {
		return "DELETE FROM public." + r.Table, err
	}
	return "TRUNCATE public." + r.Table, err
}
