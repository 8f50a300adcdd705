// The rules of the pack dynamics365-finops, each with a fixture before and after, on a real
// server; the proof before and after; resuming at every rule; and the secrets nowhere in the files.

package policy_test

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandglass"
	"sandglass/internal/pack"
	"sandglass/internal/pgtest"
	"sandglass/internal/policy"
)

//go:embed testdata/finops.sql
var finopsSQL string

var (
	erpProd = sandglass.Environment{Name: "prod", Kind: sandglass.Production, Databases: map[string]string{"business": "axdb"},
		Versions: map[string]string{"application": "10.0.38", "platform": "62", "reporting": "10.0.38"}}
	erpUAT = sandglass.Environment{Name: "uat", Kind: sandglass.Sandbox, Databases: map[string]string{"business": "axdb_uat"}, Packs: []string{"dynamics365-finops"},
		Versions: map[string]string{"application": "10.0.38", "platform": "62", "reporting": "10.0.38"}, Server: &sandglass.Server{Port: 1}}
)

// erpFixtures say for each rule what its table holds before and after: SELECT columns FROM table.
var erpFixtures = []struct{ rule, columns, table, want, after string }{
	{"e-mail-addresses", "recid, type, locator", "logisticselectronicaddress", "1 2 secret-mail@customer.example; 2 1 +43 1 234; 3 3 https://customer.example; 4 2 no address; 5 3 secret-odd@in-a-url; 6 2 -",
		"1 2 ; 2 1 +43 1 234; 3 3 https://customer.example; 4 2 no address; 5 3 ; 6 2 -"},
	{"user-mail-addresses", "id, email", "sysuserinfo", "alice secret-alice@customer.example; bob no address", "alice -; bob no address"},
	{"sales-mail-addresses", "salesid, email", "salestable", "SO-1 secret-buyer@customer.example; SO-2 no address; SO-3 -", "SO-1 -; SO-2 no address; SO-3 -"},
	{"purchase-mail-addresses", "purchid, email", "purchtable", "PO-1 secret-seller@vendor.example; PO-2 ", "PO-1 ; PO-2 "},
	{"invoice-mail-addresses", "invoiceid, mcremail", "custinvoicejour", "CI-1 secret-caller@customer.example; CI-2 -", "CI-1 -; CI-2 -"},
	{"fiscal-mail-addresses", "efdocemailapproved, efdocemailcanceled, efdocemailevent", "fiscalestablishment_br", "secret-approved@customer.example - secret-event@customer.example", "- - -"},
	{"fiscal-consumer-mail-addresses", "fiscalestablishmentid, consumerefdocemailapproved", "fiscalestablishment_br", "f secret-consumer@customer.example", "f -"},
	{"fiscal-technical-mail-addresses", "fiscalestablishmentid, technicalresponsibleemail", "fiscalestablishment_br", "f secret-technical@partner.example", "f -"},
	{"smtp-relay", "smtprelayservername, smtpusername, smtpportnumber", "sysemailparameters", "secret-relay.prod.example secret-relay-user 587", "  587"},
	{"mail-provider", "mailernoninteractive", "sysemailparameters", "Exchange", "SMTP"},
	{"smtp-passwords", "aosid, password", "sysemailsmtppassword", `aos1 \x7365637265742d736d7470`, ""},
	{"mail-attachments", "attachmentspath", "sysemailparameters", `\\secret-files\mail`, "-"},
	{"print-settings", "description", "printmgmtsettings", "invoices; secret-printer", ""},
	{"print-instances", "name", "printmgmtdocinstance", "original", ""},
	{"servers", "serverid", "sysserverconfig", "aos-2; secret-aos-1", ""},
	{"server-sessions", "instance_name", "sysserversessions", "secret-aos-1", ""},
	{"printers", "printerpath", "syscorpnetprinters", `\\secret-print\p1`, ""},
	{"client-sessions", "clientcomputer", "sysclientsessions", "secret-laptop", ""},
	{"batch-servers", "serverid", "batchserverconfig", "secret-batch-1", ""},
	{"batch-server-groups", "groupid, serverid", "batchservergroup", "g secret-batch-1", ""},
	{"batch-jobs", "recid, status", "batchjob", "0 0; 1 1; 2 2; 3 3; 4 4; 5 5; 6 6; 7 7; 8 8", "0 0; 1 0; 2 0; 3 3; 4 4; 5 0; 6 6; 7 0; 8 8"},
	{"batch-tasks", "recid, serverid, info", "batch", `1 secret-batch-1 \x7365637265742d7461736b2d6c6f67; 2 - -`, "1 - -; 2 - -"},
	{"batch-job-history", "caption", "batchjobhistory", "past", ""},
	{"batch-history", "caption", "batchhistory", "past task", ""},
	{"batch-constraints-history", "batchid", "batchconstraintshistory", "1", ""},
	{"users", "id, enable", "userinfo", "Admin 0; DBMovementAPI 0; FRServiceUser 1; RetailServiceAccount 1; alice 1; bob 0", "Admin 1; DBMovementAPI 1; FRServiceUser 1; RetailServiceAccount 1; alice 0; bob 0"},
	{"administrator", "id, enable", "userinfo WHERE id = 'Admin'", "Admin 0", "Admin 1"},
	{"automation-user", "id, enable", "userinfo WHERE id = 'DBMovementAPI'", "DBMovementAPI 0", "DBMovementAPI 1"},
	{"user-partition", "id, partition", "userinfo WHERE id IN ('alice', 'bob')", "alice 5637144577; bob 5637144576", "alice 5637144576; bob 5637144576"},
	{"user-export-sites", "id, defaultexcelexportsite, defaultexcelexportpath", "sysuserinfo", `alice https://secret-share.example \\secret-files\alice; bob - -`, "alice - -; bob - -"},
	{"user-log", "userid, computername", "sysuserlog", "alice secret-terminal-1; bob ", "alice -; bob "},
	{"merchant-properties-plain", "merchantproperties", "creditcardaccountsetup", "<url>https://secret-pay.example</url>", "-"},
	{"merchant-properties", "connectorname, securemerchantproperties", "creditcardaccountsetup", `c \x7365637265742d6361726473`, "c -"},
	{"exchange-rate-providers", "key, value", "exchangerateproviderconfigurationdetails", "ServiceKey secret-rates", "ServiceKey -"},
	{"fiscal-establishments", "fiscalestablishmentid, consumerefdoccsc", "fiscalestablishment_br", "f secret-csc", "f -"},
	{"fiscal-establishment-codes", "consumerefdoccsctoken, technicalresponsiblecsrt", "fiscalestablishment_br", `000001 \x7365637265742d63737274`, "- -"},
	{"fiscal-establishments-staging", "recid, csc", "fiscalestablishmentstaging", "1 secret-csc-staging", "1 "},
	{"person-numbers", "recid, personidentificationnumber", "hcmpersonidentificationnumber", "1 secret-person", "1 "},
	{"person-numbers-hire", "recid, personidentificationnumber", "hcmworkeractionhire", "1 secret-hire", "1 -"},
	{"oauth-tokens", "sid, encryptedaccesstoken, encryptedrefreshtoken", "sysoauthusertokens", "s secret-access secret-refresh", "s - -"},
	{"attachments", "filename, storageproviderid, accessinformation", "docuvalue", "a.pdf 1 secret-blob; b.pdf 0 -; c.pdf 2 secret-share", "a.pdf 0 ; b.pdf 0 -; c.pdf 2 "},
	{"deleted-attachments", "filename, storageproviderid, accessinformation", "docudeletedvalue", "d.pdf 1 secret-blob-2", "d.pdf 0 "},
	{"attachment-paths", "filename, path", "docuvalue", `a.pdf -; b.pdf \\secret-files\docs; c.pdf `, "a.pdf -; b.pdf -; c.pdf "},
	{"deleted-attachment-paths", "filename, path", "docudeletedvalue", `d.pdf \\secret-files\old`, "d.pdf "},
	{"template-folders", "dataarea, templatefolder_w", "companyinfo", `nwat \\secret-files\templates`, "nwat -"},
	{"document-templates", "templateid, fileid", "docutemplate", "letter 5ec2e700-0000-4000-8000-000000000001", "letter -"},
	{"maintenance-mode", "parm, value", "sqlsystemvariables", "CONFIGURATIONMODE 1; OTHER 1", "CONFIGURATIONMODE 0; OTHER 1"},
	{"database-log", "data", "databaselog", "secret-old-value", ""},
	{"dual-write-projects", "externalenvironmenturl", "dualwriteprojectconfiguration", "https://secret-crm.example", ""},
	{"dual-write-fields", "servicebusconnectionstring, storageaccountsasconnectionstring", "dualwriteprojectfieldconfiguration", "secret-bus secret-storage", ""},
	{"event-endpoints", "name", "businesseventsendpoint", "secret-endpoint", ""},
	{"event-endpoints-azure", "azureappsecret", "businesseventsazureendpoint", "secret-app", ""},
	{"event-endpoints-event-hub", "azureappsecret", "businesseventseventhubendpoint", "secret-hub", ""},
	{"tenant", "name, value", "sysserviceconfigurationsetting", "MONITORURL https://secret-monitor.example; OTHER x; TENANTID secret-tenant", "MONITORURL ; OTHER x; TENANTID "},
	{"service-addresses", "name, value", "sysserviceconfigurationsetting WHERE name = 'MONITORURL'", "MONITORURL https://secret-monitor.example", "MONITORURL "},
	{"integration-files", "recid, submitteddatafile", "integrationactivitymessagetable", "1 -; 2 https://secret-store.example/in/2", "1 -; 2 -"},
	{"power-bi", "isenabled, tenantid, clientid, applicationkey, redirecturl, azureadauthorityuri", "powerbiconfig",
		"1 secret-pbi-tenant client secret-pbi-key https://secret-erp.example/oauth https://sts.example/secret-pbi-tenant", "1 - - - - -"},
	{"provisioning-messages", "message", "provisioningmessagetable", "secret-provisioning", ""},
	{"commerce-download-sessions", "jobid", "retailcdxdownloadsession", "n-1", ""},
	{"commerce-download-stores", "recid", "retailcdxdownloadsessiondatastore", "1", ""},
	{"commerce-download-summary", "recid", "retailcdxdownloadsummarycache", "1", ""},
	{"commerce-upload-sessions", "jobid", "retailcdxuploadsession", "p-1", ""},
	{"commerce-upload-paths", "recid", "retailcdxuploadpathhistory", "1", ""},
	{"commerce-upload-summary", "recid", "retailcdxuploadsummarycache", "1", ""},
	{"commerce-sync-row-versions", "recid", "retailcdxdatasyncrowversion", "1", ""},
	{"commerce-databases", "name, server, username, password, connectionstring, sourcescaleunitid, datastoredata", "retailconndatabaseprofile",
		"store secret-store-db u secret-store-pw secret-store-conn su1 <server>secret-store-db</server>", "store - - - - - -"},
	{"commerce-transaction-service", "profileid, centraltableserver, userid, postspassword, servicehosturl, aosurl", "retailtransactionserviceprofile",
		"000001 secret-central secret-ts-user secret-ts-pw https://secret-ts.example https://secret-aos.example", "000001 - -  - -"},
	{"commerce-transaction-service", "serverservicename, servercertificatedns, issueruri, azureauthority, azureresource, retailtsdata", "retailtransactionserviceprofile",
		"secret-ts secret-dns.example https://secret-sts.example https://secret-login.example https://secret-erp.example secret-tsdata", "- - - - - -"},
	{"commerce-scale-units", "id", "retailscaleunit", "SU-prod; SU-system", "SU-system"},
	{"commerce-channel-profiles", "name", "retailchannelprofile", "Default; secret-rcsu", "Default"},
	{"commerce-channel-properties", "channelprofile, value", "retailchannelprofileproperty", "1 https://secret-default.example/commerce; 2 https://secret-rcsu.example/commerce", ""},
	{"commerce-parameters", "recid", "retailsharedparameters", "1", ""},
	{"commerce-hardware", "profileid, securemerchantproperties", "retailhardwareprofile", `h1 \x7365637265742d7465726d`, "h1 -"},
	{"commerce-hardware-hosts", "profileid, eftservername, eftuserid, eftpassword, eftdata, eftmerchantproperties, eftconnectorproperties, cctvhostname, pharmacyhost, dualdisplaybrowserurl, dualdisplayimagepath, imagepath",
		"retailhardwareprofile", `h1 secret-eft u secret-eft-pw d secret-pay c secret-camera secret-pharmacy https://secret-screen.example \\secret-files\p \\secret-files\i`, "h1 - - - - - - - - - - -"},
	{"commerce-packages", "recid", "retailselfservicepackageinfo", "1", ""},
}

func erpRows(t testing.TB, c *pgtest.Cluster, database, columns, table string) string {
	t.Helper()
	from, where, _ := strings.Cut(table, " WHERE ")
	if where != "" {
		where = " WHERE " + where
	}
	var list []string
	for _, column := range strings.Split(columns, ", ") {
		list = append(list, "coalesce("+column+"::text, '-')")
	}
	return ask(t, c, database, `SELECT coalesce(string_agg(row, '; ' ORDER BY row COLLATE "C"), '') FROM (SELECT concat_ws(' ', `+strings.Join(list, ", ")+`) AS row FROM public.`+from+where+`) r`)
}

func finopsInput(t testing.TB) policy.Input {
	t.Helper()
	packs, err := pack.Load("", erpUAT.Packs)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Input{Run: "20261122t190000-erp1", Source: erpProd, Environment: erpUAT, Packs: packs, Moment: "2026-11-22 18:00:00 UTC"}
}

func makeERP(t testing.TB) *pgtest.Cluster {
	t.Helper()
	c := cluster(t, map[string]string{"autovacuum": "off"})
	c.Exec(t, "postgres", `CREATE ROLE sandglass SUPERUSER LOGIN`, `CREATE DATABASE axdb`)
	c.Exec(t, "axdb", finopsSQL)
	// Old versions of rows, statistics, an index on an expression and a materialized view hold secrets too.
	c.Exec(t, "axdb", `CREATE INDEX ON logisticselectronicaddress (lower(locator))`, `CREATE STATISTICS mail (mcv) ON type, locator FROM logisticselectronicaddress`,
		`INSERT INTO logisticselectronicaddress SELECT i, 2, 'secret-' || i % 7 || '@example.org', 1 FROM generate_series(100, 300) i`,
		`UPDATE logisticselectronicaddress SET locator = 'secret-older@example.org' WHERE recid BETWEEN 100 AND 200`, `DELETE FROM logisticselectronicaddress WHERE recid BETWEEN 150 AND 200`,
		`CREATE MATERIALIZED VIEW mails AS SELECT lower(locator) AS mail, count(*) FROM logisticselectronicaddress GROUP BY 1`,
		`CREATE VIEW over_mails AS SELECT * FROM mails`, `CREATE MATERIALIZED VIEW again AS SELECT mail FROM over_mails`, `ANALYZE`,
		`DELETE FROM logisticselectronicaddress WHERE recid >= 100`)
	contact(t, c)
	return c
}

func TestFinopsPack(t *testing.T) {
	t.Parallel()
	c, in := makeERP(t), finopsInput(t)
	finops := in.Packs[1]
	covered := map[string]bool{}
	for _, f := range erpFixtures {
		covered[f.rule] = true
		if got := erpRows(t, c, "axdb", f.columns, f.table); got != f.want {
			t.Errorf("before %s:\n got %s\nwant %s", f.rule, got, f.want)
		}
	}
	asserted := map[string]bool{}
	for _, a := range finops.Assertions {
		asserted[a.Name] = true
	}
	for _, r := range finops.Rules {
		if r.Merge == "" && (!covered[r.Name] || !asserted[r.Name]) { // TestFinopsOwnRows merges
			t.Errorf("rule %s: fixture %t, assertion %t", r.Name, covered[r.Name], asserted[r.Name])
		}
	}
	st := staging(c)
	conn, err := st.Connect(t.Context(), "axdb")
	if err != nil {
		t.Fatal(err)
	}
	checks, err := policy.Check(t.Context(), conn, finops, "business") // of a database that no restore has seen
	conn.Close(t.Context())
	if err != nil || len(checks) < len(finops.Rules) {
		t.Fatalf("%d checks, %v", len(checks), err)
	}
	for _, c := range checks {
		if c.Level == sandglass.Stop {
			t.Errorf("checked: %+v", c)
		}
	}
	findings, _, err := policy.Inspect(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	warned := strings.Join(levels(findings, sandglass.Warning), "\n")
	for _, want := range []string{"inspect.dynamics365-finops/recurring-messages", "inspect.dynamics365-finops/recurring-jobs"} {
		if !strings.Contains(warned, want) {
			t.Errorf("no warning %s in %s", want, warned)
		}
	}
	if stops := levels(findings, sandglass.Stop); stops != nil {
		t.Errorf("stops: %q", stops)
	}
	secrets, err := policy.ReadSecrets(t.Context(), st, in)
	if err != nil {
		t.Fatal(err)
	}
	var secret []string
	for _, s := range secrets.Values {
		secret = append(secret, string(s.Value))
	}
	slices.Sort(secret)
	if diff := cmp.Diff([]string{"secret-access", "secret-app", "secret-bus", "secret-cards", "secret-csc", "secret-csc-staging", "secret-csrt", "secret-eft-pw", "secret-hire", "secret-hub", "secret-pbi-key",
		"secret-person", "secret-rates", "secret-refresh", "secret-smtp", "secret-storage", "secret-store-conn", "secret-store-pw", "secret-term", "secret-ts-pw"}, secret); diff != "" {
		t.Error("what must be found nowhere", diff)
	}
	// The copy as it came, under its final name: every assertion fails.
	asIs := in
	asIs.Environment.Databases = map[string]string{"business": "axdb"}
	if proof, err := policy.Prove(t.Context(), st, asIs); err != nil {
		t.Fatal(err)
	} else {
		for _, f := range proof {
			if strings.HasPrefix(string(f.Code), "proof.dynamics365") && f.Level == sandglass.OK {
				t.Errorf("%s holds before any rule has run", f.Code)
			}
		}
	}
	if found := files(t, c, "secret-"); len(found) < 30 {
		t.Errorf("the search finds planted secrets in %d files only", len(found))
	}
	report, err := policy.Neutralize(t.Context(), st, in)
	if err != nil {
		t.Fatal(err, c.Log())
	}
	for _, f := range erpFixtures {
		if got := erpRows(t, c, "axdb_uat", f.columns, f.table); got != f.after {
			t.Errorf("after %s:\n got %s\nwant %s", f.rule, got, f.after)
		}
	}
	if stops := prove(t, st, in); stops != nil {
		t.Errorf("proof: %s", strings.Join(stops, "\n"))
	}
	for _, r := range report.Rules {
		if r.Rule == "dynamics365-finops/batch-jobs" && (r.Rows != 4 || r.Seen != 9 || r.Database != "axdb_uat") {
			t.Errorf("report: %+v", r)
		}
	}
	if got := ask(t, c, "axdb_uat", `SELECT concat_ws(' ', table_name, column_name, action, rows) FROM sandglass.changed_columns WHERE rule IN ('batch-jobs', 'smtp-passwords') ORDER BY 1`); got != "public.batchjob status set 4, public.sysemailsmtppassword * keep 1" {
		t.Errorf("changed columns: %s", got)
	}
	if got := ask(t, c, "axdb_uat", `SELECT concat_ws(' ', operation, source, target, moment, policies[2] LIKE 'dynamics365-finops 1 sha256:%') FROM sandglass.origin`); got != "20261122t190000-erp1 prod uat 2026-11-22 18:00:00 UTC t" {
		t.Errorf("origin: %s", got)
	}
	// A migration brings an address back.
	ask(t, c, "axdb_uat", `UPDATE public.logisticselectronicaddress SET locator = 'a@b' WHERE recid = 1 RETURNING ''`)
	in.Synchronized = true
	if stops := strings.Join(prove(t, st, in), "\n"); !strings.Contains(stops, "proof.dynamics365-finops/e-mail-addresses") || !strings.Contains(stops, "is 1 instead of 0") {
		t.Errorf("an address that came back is not seen: %s", stops)
	}
	ask(t, c, "axdb_uat", `UPDATE public.logisticselectronicaddress SET locator = '' WHERE recid = 1 RETURNING ''`)
	// Without a row of the initial partition, its documented number counts.
	ask(t, c, "axdb_uat", `WITH gone AS (DELETE FROM public.partitions WHERE partitionkey = 'initial') UPDATE public.userinfo SET partition = 5637144577 WHERE id = 'alice' RETURNING ''`)
	if stops := strings.Join(prove(t, st, in), "\n"); !strings.Contains(stops, "proof.dynamics365-finops/user-partition") {
		t.Errorf("a user of another partition is not seen where no partition is called initial: %s", stops)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if found := files(t, c, "secret-"); found != nil {
		t.Errorf("secrets are still in %v", found)
	}
}

// TestPackResume ends the work at every rule, the server killed each time, and compares with
// undisturbed work. One rule counts up, so that a second application shows.
func TestPackResume(t *testing.T) {
	t.Parallel()
	calm, rough, in := makeERP(t), makeERP(t), finopsInput(t)
	counting := pack.Rule{Name: "counting", Why: "to be seen", Database: "business", Table: "batchjob", Set: map[string]string{"counter": "counter + 1"}}
	in.Packs[1].Rules = append(in.Packs[1].Rules, counting)
	if _, err := policy.Neutralize(t.Context(), staging(calm), in); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("killed here")
	kills := 0
	for at := int64(0); ; at += oneIn {
		ctx, cancel := context.WithCancelCause(t.Context())
		in.Progress = func(p sandglass.Progress) {
			if p.Done >= at+1 && p.Done < p.Total {
				cancel(stopped)
			}
		}
		_, err := policy.Neutralize(ctx, staging(rough), in)
		ended := context.Cause(ctx) == nil
		cancel(nil)
		if err == nil {
			break
		}
		if ended {
			t.Fatal(err)
		}
		kills++
		if kills%max(2, 12/oneIn) == 1 {
			if err := errors.Join(rough.Kill(), rough.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		if at > 300 {
			t.Fatal("no end")
		}
	}
	t.Logf("%d kills", kills)
	in.Progress = nil
	for _, f := range append(erpFixtures, struct{ rule, columns, table, want, after string }{"counting", "counter", "batchjob", "", "1; 1; 1; 1; 1; 1; 1; 1; 1"}) {
		if got := erpRows(t, rough, "axdb_uat", f.columns, f.table); got != f.after {
			t.Errorf("after %s:\n got %s\nwant %s", f.rule, got, f.after)
		}
	}
	const changed = `SELECT concat_ws(' ', rule, table_name, column_name, action, rows) FROM sandglass.changed_columns ORDER BY 1`
	if diff := cmp.Diff(ask(t, calm, "axdb_uat", changed), ask(t, rough, "axdb_uat", changed)); diff != "" {
		t.Error(diff)
	}
	if stops := prove(t, staging(rough), in); stops != nil {
		t.Errorf("proof: %q", stops)
	}
}
