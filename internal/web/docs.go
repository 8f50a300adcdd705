package web

// The API described for people, from its OpenAPI description, with nothing loaded from elsewhere.

import (
	"bytes"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

const docsPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Sandglass API</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}td{padding:.2rem 1rem .2rem 0;vertical-align:top}code{font-size:.9em;white-space:nowrap}</style>
<h1>Sandglass API {{.Info.Version}}</h1>
<p>{{.Info.Description}}</p>
<p>The whole description, with every type, is <a href="/openapi.json">/openapi.json</a> (OpenAPI {{.OpenAPI}}).</p>
<table>{{range .Rows}}<tr><td><code>{{.Method}}</code></td><td><code>{{.Path}}</code></td><td>{{.Summary}}{{range .Params}}<br><code>{{.Name}}</code> {{.Description}}{{end}}</td></tr>
{{end}}</table></html>
`

type docsRow struct {
	Method, Path, Summary string
	Params                []*huma.Param
}

// docs answers GET /docs.
func (a *api) docs(w http.ResponseWriter, _ *http.Request) {
	spec := a.huma.OpenAPI()
	page := struct {
		Info    *huma.Info
		OpenAPI string
		Rows    []docsRow
	}{spec.Info, spec.OpenAPI, nil}
	for path, item := range spec.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete} {
			if op != nil {
				page.Rows = append(page.Rows, docsRow{op.Method, path, op.Summary, op.Parameters})
			}
		}
	}
	slices.SortFunc(page.Rows, func(x, y docsRow) int { return strings.Compare(x.Path+x.Method, y.Path+y.Method) })
	var b bytes.Buffer
	if err := template.Must(template.New("docs").Parse(docsPage)).Execute(&b, page); err != nil {
		a.log.Error("write docs", "error", err)
		writeProblem(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, _ = w.Write(b.Bytes()) // the client has gone
}
