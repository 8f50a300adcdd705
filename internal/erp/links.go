package erp

// This file has the rows that link an installation to other systems, its stores included, and those that hold secrets.

import (
	"fmt"
	"time"
)

func (w *world) url(what string) string {
	return "https://" + what + "." + w.Name + ".nordwind.example"
}

var entities = []string{"Vendors V2", "Customers V3", "Released products V2", "Vendor groups", "Customer groups", "Currencies", "Exchange rates", "Legal entities"}

func (w *world) links() []filler {
	messages := w.some(2000)
	endpoint := func(r *row, kind string, i int) {
		r.s(fmt.Sprintf("%s %d", kind, i+1)).i(i, 0)
	}
	vault := func(r *row) {
		r.s(w.url("vault"), "erp-events", w.guid(60, 0), w.guid(62, 0))
	}
	return []filler{
		{"dualwriteprojectconfiguration", "projectname externalentityname internalentityname externalenvironmenturl status partitionmap integrationkey", len(entities), func(r *row, i int) {
			r.s(entities[i], fmt.Sprintf("msdyn_%d", i), entities[i], w.url("dataverse")).i(2).s("nwat:main", "accountnum")
		}},
		{"dualwriteprojectfieldconfiguration", "projectname fieldmap externallookupurls storageaccountsasconnectionstring servicebusconnectionstring", len(entities), func(r *row, i int) {
			r.s(entities[i], `{"accountnum":"accountnumber"}`, w.url("dataverse"), "SharedAccessSignature="+w.guid(64, i), "Endpoint=sb://"+w.Name+".bus.example/;SharedAccessKey="+w.guid(66, i))
		}},
		{"businesseventsendpoint", "name type producerconsumertype", 3, func(r *row, i int) { endpoint(r, "Queue", i) }},
		{"businesseventsazureendpoint", "name type producerconsumertype keyvaultdnsname keyvaultsecretname azureappid azureappsecret", 2, func(r *row, i int) {
			endpoint(r, "Topic", i)
			vault(r)
		}},
		{"businesseventseventhubendpoint", "name type producerconsumertype keyvaultdnsname keyvaultsecretname azureappid azureappsecret hubname", 1, func(r *row, i int) {
			endpoint(r, "Event hub", i)
			vault(r)
			r.s("erp-" + w.Name)
		}},
		{"businesseventsdefinition", "reftablename reftableid channel direction enabled roottableid", 12, func(r *row, i int) { r.s("VendTrans").i(500+i).s("DataEvent").i(1, 1, 500+i) }},
		{"businesseventstable", "businesseventid name description contract", 12, func(r *row, i int) {
			r.s(fmt.Sprintf("Event%02d", i+1), jobCaptions[i], "Raised by: "+jobCaptions[i], "EventContract")
		}},
		{"businesseventsparameters", "key enabled processorthreads bundlesize endpointretrycount", 1, func(r *row, _ int) { r.i(0, 1, 4, 50, 3) }},
		{"integrationactivitytable", "name description activityid state direction definitiongroupname sysrecurrencedata", len(entities), func(r *row, i int) {
			r.s("Recurring "+entities[i], "Every ten minutes", w.guid(68, i)).i(1, i%2).s(entities[i]).bytes(40)
		}},
		// Their batch jobs wait; none executes at any moment of ours.
		{"integrationactivityruntimetable", "activitytable batchjobid monitoringjobid", len(entities), func(r *row, i int) { r.id(i).id(10 + 10*i).id(12 + 10*i) }},
		{"integrationactivitymessagetable", "messageid entityname enqueuedatetime enqueueuser processingstarteddatetime processingcompleteddatetime status totalrecordsexported submitteddatafile", messages, func(r *row, i int) {
			at := when(i, messages)
			r.s(w.guid(70, i), entities[i%len(entities)]).t(at).s("DBMovementAPI").t(at, at.Add(40*time.Second)).i(3, r.rng.IntN(500)).s(w.url("storage") + "/messages/" + w.guid(70, i))
		}},
		{"sysserviceconfigurationsetting", "name value", 4, func(r *row, i int) {
			r.s([]string{"TENANTID", "AADREALM", "SESSIONTIMEOUT", "TELEMETRYURL"}[i], []string{w.tenant(), "spn:00000015-0000-0000-c000-000000000000", "60", w.url("telemetry")}[i])
		}},
		{"powerbiconfig", "isenabled azureadauthorityuri tenantid clientid applicationkey redirecturl", 1, func(r *row, _ int) {
			r.i(1).s("https://sts.example/common", w.tenant(), w.guid(72, 0), w.guid(74, 0), w.url("erp")+"/oauth")
		}},
		{"provisioningmessagetable", "createdon message tenantid", 6, func(r *row, i int) {
			r.t(firstDay.AddDate(0, i, 0)).s("Provisioned step "+fmt.Sprint(i+1), w.tenant())
		}},
	}
}

func (w *world) commerce() []filler {
	sessions := w.some(600)
	job := func(i int) string { return fmt.Sprintf("N-%04d", 1000+i%30*10) }
	return []filler{
		{"retailcdxdownloadsession", "datagroup jobid session status rowsaffected filesize checksum", sessions, func(r *row, i int) { r.id(0).s(job(i)).i(i+1, 5, r.rng.IntN(9000), r.rng.IntN(1<<20)).s(w.guid(80, i)) }},
		{"retailcdxdownloadsessiondatastore", "downloadsession databasename status", sessions, func(r *row, i int) { r.id(i).s(fmt.Sprintf("store%02d", i%8+1)).i(5) }},
		{"retailcdxdownloadsummarycache", "jobid sessions", 30, func(r *row, i int) { r.s(job(i)).i(sessions / 30) }},
		{"retailcdxuploadsession", "datastore jobid uploadsessionid status rowsaffected uploadpath datecreated dateuploaded", sessions, func(r *row, i int) {
			at := when(i, sessions)
			r.id(i%8).s("P-0001").i(i+1, 5, r.rng.IntN(900)).s(`\\`+w.host("files", 0)+`\upload\`+w.guid(82, i)).t(at, at.Add(time.Minute))
		}},
		{"retailcdxuploadpathhistory", "uploadsession path", sessions, func(r *row, i int) { r.id(i).s(`\\` + w.host("files", 0) + `\upload\` + w.guid(82, i)) }},
		{"retailcdxuploadsummarycache", "jobid sessions", 1, func(r *row, _ int) { r.s("P-0001").i(sessions) }},
		{"retailcdxdatasyncrowversion", "tablename syncrowversion", 40, func(r *row, i int) { r.s(fmt.Sprintf("ax.retailtable%02d", i+1)).i(100000 + i) }},
		{"retailconndatabaseprofile", "name server database username password connectionstring datastoredata sourcescaleunitid datagroup", 8, func(r *row, i int) {
			r.s(fmt.Sprintf("Store %02d", i+1), w.host("store", i), "channel", "channel_sync", w.guid(84, i), "Server="+w.host("store", i)+";User=channel_sync;Password="+w.guid(84, i), "<Server>"+w.host("store", i)+"</Server>", "SU-"+w.Name).id(0)
		}},
		{"retailtransactionserviceprofile", "profileid name azureauthority language centraltableserver servercertificatedns servicehosturl issueruri aosurl azureresource postspassword", 1, func(r *row, _ int) {
			r.s("000001", "Default", "https://sts.example/common", "en-gb", w.host("aos", 0), w.host("aos", 0), w.url("commerce"), w.url("sts"), w.url("erp"), w.url("erp"), w.guid(108, 0))
		}},
		{"retailscaleunit", "id name type issystemrecord", 3, func(r *row, i int) {
			r.s([]string{"Default", "SU-" + w.Name, "SU-" + w.Name + "-2"}[i], []string{"Default", "Scale unit", "Second scale unit"}[i]).i(1, max(0, 1-i))
		}},
		{"retailchannelprofile", "channelprofiletype name issystemrecord", 3, func(r *row, i int) {
			r.i(1).s([]string{"Default", "scaleunit-" + w.Name, "scaleunit-" + w.Name + "-2"}[i]).i(max(0, 1-i))
		}},
		{"retailhardwareprofile", "profileid name eftconnectorname eftmerchantid securemerchantproperties printerdescription eftservername cctvhostname pharmacyhost dualdisplaybrowserurl imagepath eftmerchantproperties", 10, func(r *row, i int) {
			r.s(fmt.Sprintf("HW%03d", i+1), "Register "+fmt.Sprint(i+1), "Terminal", w.guid(86, i)).bytes(128).s("Receipt printer", w.host("eft", 0), w.host("camera", i), w.host("pharmacy", 0), w.url("screen"), w.folder("pictures"), "<Url>"+w.url("payments")+"</Url>")
		}},
		{"retailsharedparameters", "key environmentid retailserverurl tenantid identitycompany", 1, func(r *row, _ int) { r.i(0).s(w.guid(88, 0), w.url("commerce"), w.tenant(), "nwat") }},
		{"retailselfservicepackageinfo", "packagename fileurl version", 4, func(r *row, i int) {
			r.s([]string{"POS", "Hardware station", "Scale unit", "Async client"}[i], w.url("packages")+"/"+w.guid(90, i), "9.48")
		}},
	}
}

// encrypted are the fields that only the environment's own certificate opens; they are typed again in another.
func (w *world) encrypted() []filler {
	persons := w.workers
	return []filler{
		{"creditcardaccountsetup", "connectorname connectorproperties istest securemerchantproperties merchantproperties dataareaid", len(companies) - 1, func(r *row, i int) {
			r.s("Card connector", "v2").i(0).bytes(160).s("<Url>"+w.url("payments")+"</Url>", companies[i][0])
		}},
		{"creditcardcust", "cardtoken creditcardtypename custaccount name expirydate uniquecardid dataareaid", 300, func(r *row, i int) {
			r.s(w.guid(92, i), "CREDIT", customerAccount(i%w.customers), w.partyName(w.vendors+i%w.customers), "1228", w.guid(94, i), company(i%w.customers))
		}},
		{"exchangerateproviderconfigurationdetails", "exchangerateproviderconfiguration key value", 4, func(r *row, i int) {
			r.id(i/2).s([]string{"ServiceUrl", "ServiceKey"}[i%2], []string{"https://rates.example/v1", w.guid(96, i)}[i%2])
		}},
		{"fiscalestablishment_br", "fiscalestablishmentid name dirpartylocation fiscalestablishmentgroup_br consumerefdoccsc consumerefdoccsctoken dataareaid", 2, func(r *row, i int) {
			r.s(fmt.Sprintf("FE%03d", i+1), "Sao Paulo "+fmt.Sprint(i+1)).id(i).id(0).s(w.guid(98, i), fmt.Sprintf("%06d", i+1), "nwat")
		}},
		{"fiscalestablishmentstaging", "fiscalestablishmentid csc executionid", 2, func(r *row, i int) { r.s(fmt.Sprintf("FE%03d", i+1), w.guid(98, i), "Import 1") }},
		{"hcmpersonidentificationnumber", "person identificationtype personidentificationnumber", persons, func(r *row, i int) {
			r.id(w.vendors+w.customers+i).s("SSN", fmt.Sprintf("%04d-%06d", w.chance(30, i)%10000, w.chance(31, i)%1000000))
		}},
		{"hcmworkeractionhire", "workeractionid personname personidentificationnumber effectivedate", 40, func(r *row, i int) {
			r.s(fmt.Sprintf("HIRE%04d", i+1), w.partyName(w.vendors+w.customers+i), fmt.Sprintf("%04d-%06d", w.chance(30, i)%10000, w.chance(31, i)%1000000)).t(when(i, 40))
		}},
		{"sysoauthusertokens", "sid secureresource encryptedaccesstoken encryptedrefreshtoken expiredate", 60, func(r *row, i int) {
			r.s("S-1-19-"+w.guid(42, i), "https://graph.example", w.guid(100, i)+w.guid(102, i), w.guid(104, i)+w.guid(106, i)).t(firstDay.AddDate(0, 0, days))
		}},
	}
}
