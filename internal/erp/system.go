package erp

// This file has the rows of the installation itself: users, batch jobs, servers, mail, printers, logs, documents.

import (
	"fmt"
	"strings"
	"time"
)

// serviceUsers sign in for programs; the administrator is the first.
var serviceUsers = [][3]string{{"Admin", "Administrator", "admin"}, {"FRServiceUser", "Financial Reporting service", "frservice"}, {"RetailServiceAccount", "Commerce service", "retailservice"}, {"DBMovementAPI", "Pipeline of database movements", "dbmovement"}}

// tenant is the firm's at its identity provider; production and sandbox share it.
func (w *world) tenant() string { return "7a1f3c52-0d4e-4b86-9a27-c1e5d0938b64" }

func (w *world) people() []filler {
	n := len(serviceUsers) + people
	log := w.some(8000)
	id := func(i int) string {
		if i < len(serviceUsers) {
			return serviceUsers[i][0]
		}
		return userID(i - len(serviceUsers))
	}
	return []filler{
		{"partitions", "partitionkey name", 2, func(r *row, i int) { r.s([]string{"initial", "archive"}[i], []string{"Initial", "Archive"}[i]) }},
		{"userinfo", "id name enable networkdomain networkalias objectid company language externaluser partition", n, func(r *row, i int) {
			var name string
			alias, enabled := strings.ToLower(id(i)), 1
			if i < len(serviceUsers) {
				name, alias = serviceUsers[i][1], serviceUsers[i][2]+"."+w.Name
			} else {
				first, last, _ := strings.Cut(alias, ".")
				name = strings.ToUpper(first[:1]) + first[1:] + " " + strings.ToUpper(last[:1]) + last[1:]
			}
			if i%17 == 0 && i > 0 || id(i) == "DBMovementAPI" {
				enabled = 0
			}
			r.s(id(i), name).i(enabled).s("https://sts.example/"+w.tenant(), alias+"@nordwind.example", w.guid(42, i), "nwat", "en-gb").i(0).id(i % 60 / 59)
		}},
		{"sysuserinfo", "id email language startpage theme defaultexcelexportsite defaultexcelexportpath", n, func(r *row, i int) {
			r.s(id(i), strings.ToLower(id(i))+"@nordwind.example", "en-gb", "DefaultDashboard").i(3)
			if i%6 != 0 {
				r.s("", "")
				return
			}
			r.s(w.url("share")+"/finance", w.folder("export")+`\`+strings.ToLower(id(i)))
		}},
		{"usergroupinfo", "id name", 6, func(r *row, i int) {
			r.s([]string{"AP", "AR", "GL", "WH", "PU", "IT"}[i], []string{"Accounts payable", "Accounts receivable", "General ledger", "Warehouse", "Purchasing", "IT"}[i])
		}},
		{"sysuserlog", "userid computername clienttype sessionid logoutdatetime terminatedok type", log, func(r *row, i int) {
			from := fmt.Sprintf("PC-%04d", r.rng.IntN(90))
			if i%9 == 0 {
				from = w.host("terminal", i/9%3)
			}
			r.s(userID(r.rng.IntN(people)), from).i(1, i%400).t(when(i, log).Add(10*time.Hour)).i(1, 0)
		}},
		{"sysclientsessions", "sessionid serverid userid clienttype clientcomputer logindatetime status", 45, func(r *row, i int) {
			r.i(i+1, 1+i%3).s(userID(i)).i(1).s(w.host("pc", i)).t(firstDay.AddDate(0, 0, days)).i(1)
		}},
	}
}

// jobStatus spreads batch jobs over their states: 0 withhold, 1 waiting, 2 executing, 3 error, 4 finished, 5 ready, 6 not run, 7 cancelling, 8 cancelled.
func jobStatus(i int) int {
	if i < 8 {
		return []int{2, 2, 2, 5, 5, 7, 6, 2}[i]
	}
	return []int{1, 4, 1, 4, 0, 4, 1, 3, 4, 8}[i%10]
}

func (w *world) batch() []filler {
	const jobs = 360
	past := w.some(6000)
	caption := func(i int) string { return jobCaptions[i%len(jobCaptions)] + ", " + companies[i/3%len(companies)][0] }
	return []filler{
		{"batchgroup", "group description schedulingpriority", 4, func(r *row, i int) {
			r.s([]string{"", "NIGHT", "STORES", "MAIL"}[i], []string{"Default", "At night", "Stores", "Mail"}[i]).i(i)
		}},
		{"batchjob", "caption status company origstartdatetime startdatetime datapartition batchgroup recurrencedata executingby", jobs, func(r *row, i int) {
			at := firstDay.AddDate(0, 0, days).Add(time.Duration(i) * 7 * time.Minute)
			r.s(caption(i)).i(jobStatus(i)).s(companies[i/3%len(companies)][0]).t(at, at).s("initial", "NIGHT").bytes(24).s(userID(i % people))
		}},
		{"batch", "batchjobid caption classnumber company datapartition groupid status parameters startdatetime serverid info", 3 * jobs, func(r *row, i int) {
			r.id(i/3).s(caption(i/3)).i(20000+i%900).s(companies[i/9%len(companies)][0], "initial", "NIGHT").i(jobStatus(i / 3)).bytes(48).t(firstDay.AddDate(0, 0, days))
			if status := jobStatus(i / 3); status != 2 && status != 4 {
				r.s("").null()
				return
			}
			r.s(w.host("batch", i%2)).binary([]byte("The task ran on " + w.host("batch", i%2)))
		}},
		{"batchjobhistory", "batchjobid caption company origstartdatetime startdatetime enddatetime status executedby", past, func(r *row, i int) {
			at := when(i, past)
			r.id(i%jobs).s(caption(i%jobs), companies[i%jobs/3%len(companies)][0]).t(at, at, at.Add(time.Duration(20+r.rng.IntN(600))*time.Second)).i(4).s(userID(r.rng.IntN(people)))
		}},
		{"batchhistory", "batchid batchjobhistoryid batchjobid caption company startdatetime enddatetime status serverid executedby info", 2 * past, func(r *row, i int) {
			at := when(i, 2*past)
			r.id(i%(3*jobs)).id(i/2).id(i/2%jobs).s(caption(i/2%jobs), "nwat").t(at, at.Add(time.Minute)).i(4).s(w.host("batch", i%2), userID(r.rng.IntN(people))).bytes(32)
		}},
		{"batchconstraintshistory", "batchid dependsonbatchid expectedstatus", w.some(1500), func(r *row, i int) { r.id(i + 1).id(i).i(4) }},
	}
}

// system is what an environment sets for itself: never another's.
func (w *world) system() []filler {
	logged := w.some(8000)
	return []filler{
		{"sysserverconfig", "serverid enablebatch loadbalancingenabled maxsessions serverguid clusterrefrecid", 4, func(r *row, i int) {
			r.s(w.host("aos", i)).i(i/2, 1, 1000).s(w.guid(44, i)).id(0)
		}},
		{"sysserversessions", "serverid aosid instance_name lastupdatetime status loadbalance", 4, func(r *row, i int) {
			r.i(i+1).s(w.host("aos", i), fmt.Sprintf("%02d", i+1)).t(firstDay.AddDate(0, 0, days)).i(1, 1)
		}},
		{"batchserverconfig", "serverid maxbatchsessions starttime endtime", 2, func(r *row, i int) { r.s(w.host("batch", i)).i(16, 0, 86399) }},
		{"batchservergroup", "groupid serverid", 8, func(r *row, i int) {
			r.s([]string{"", "NIGHT", "STORES", "MAIL"}[i/2], w.host("batch", i%2))
		}},
		{"syscorpnetprinters", "printername printerpath description active printerid dataareaid", 12, func(r *row, i int) {
			name := fmt.Sprintf("%s-%s-%02d", w.Name, []string{"OFFICE", "WAREHOUSE", "LABELS"}[i%3], i/3+1)
			r.s(name, `\\`+w.host("print", 0)+`\`+name, "Floor "+fmt.Sprint(i/3)).i(1).s(w.guid(46, i), companies[i%3][0])
		}},
		{"sysemailparameters", "key smtprelayservername smtpusername smtpportnumber smtprequiressl mailernoninteractive mailerinteractiveenabled maxemailattachmentsize attachmentspath", 1, func(r *row, _ int) {
			r.i(0).s("smtp."+w.Name+".nordwind.example", "erp-sender@"+w.Name+".nordwind.example").i(587, 1).s([]string{"Exchange", "SMTP"}[len(w.Name)%2]).bytes(8).i(10).s(w.folder("mail"))
		}},
		{"sysemailsmtppassword", "aosid instancename password", 1, func(r *row, _ int) { r.s(w.host("aos", 0), "01").bytes(64) }},
		{"sysemailtable", "emailid description senderaddr sendername dataareaid", 20, func(r *row, i int) {
			r.s(fmt.Sprintf("MAIL%02d", i+1), "Notice "+jobCaptions[i], "no-reply@nordwind.example", "Nordwind", companies[i%len(companies)][0])
		}},
		{"printmgmtdocinstance", "nodetype documenttype name printtype priorityid referencedrecid dataareaid", 30, func(r *row, i int) {
			r.i(i%3, i%10).s([]string{"Original", "Copy"}[i/10%2]).i(1, 1).id(i).s(companies[i%3][0])
		}},
		{"printmgmtsettings", "parentid description numberofcopies printjobsettings priorityid dataareaid", 60, func(r *row, i int) {
			r.id(i / 2).s("Print " + strings.ToLower(jobCaptions[i%len(jobCaptions)])).i(1).bytes(120).i(1).s(companies[i/2%3][0])
		}},
		{"sqlsystemvariables", "parm value", 3, func(r *row, i int) { r.s([]string{"CONFIGURATIONMODE", "SYSTABLEVERSION", "LOADBALANCE"}[i]).i(0) }},
		{"databaselog", "table logrecid logtype description data", logged, func(r *row, i int) {
			r.i(505).id(r.rng.IntN(w.vendors)).i(1).s("Vendor bank account changed by " + userID(r.rng.IntN(people))).bytes(40 + r.rng.IntN(80))
		}},
	}
}

func (w *world) documents() []filler {
	n := w.some(6000)
	file := func(i int) string { return fmt.Sprintf("RE-%06d.pdf", w.chance(18, i)%1000000) }
	blob := func(r *row, i int) {
		id := w.guid(48, i)
		if i%25 == 0 { // a small one, kept in the database
			r.s(id).i(0).s("", "").bytes(600 + r.rng.IntN(900))
			return
		}
		if i%25 == 1 { // an old one, kept on the file server
			r.s(id).i(0).s("", w.folder("documents")).null()
			return
		}
		r.s(id).i(1).s(`{"Url":"https://`+w.Name+`store.blob.example/documents/`+id+`","Sas":"sig=`+w.guid(50, i)+`"}`, "").null()
	}
	return []filler{
		{"docuvalue", "name filename filetype originalfilename type fileid storageproviderid accessinformation path file", n, func(r *row, i int) {
			r.s(file(i), file(i), "pdf", file(i)).i(0)
			blob(r, i)
		}},
		{"docuref", "refrecid reftableid refcompanyid actualcompanyid typeid name valuerecid documentid author", n, func(r *row, i int) {
			r.id(i).i(505).s(company(i), company(i), "File", file(i)).id(i).s(w.guid(48, i)).id(r.rng.IntN(people))
		}},
		{"docudeletedvalue", "originalrecid name filename filetype originalfilename type fileid storageproviderid accessinformation path file", 200, func(r *row, i int) {
			r.id(n+i).s(file(n+i), file(n+i), "pdf", file(n+i)).i(0)
			blob(r, n+i)
		}},
		{"docutemplate", "templateid templatetype filename filetype description rootentityname displayname fileid", 24, func(r *row, i int) {
			name := "Vendors " + fmt.Sprint(i+1)
			r.s(fmt.Sprintf("TPL%02d", i+1)).i(1).s(name+".xlsx", "xlsx", name, "VendVendorV2Entity", name, w.guid(52, i))
		}},
	}
}
