package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sandglass"
	"sandglass/internal/repo"
)

func days(n float64) time.Time { return epoch.Add(time.Duration(n * 24 * float64(time.Hour))) }

// wal puts segments from..to-1 of timeline 1 with indexes.
func (x *fixture) wal(t testing.TB, inc sandglass.IncarnationID, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		seg := sandglass.SegmentNo(n)
		if err := x.repo.PutSegment(t.Context(), x.env, inc, 1, seg, bytes.NewReader(data(uint64(n), segSize))); err != nil {
			t.Fatal(err)
		}
		if err := x.repo.PutIndex(t.Context(), x.env, inc, 1, seg, []byte("index")); err != nil {
			t.Fatal(err)
		}
	}
}

func imageID(day int) sandglass.ImageID {
	return sandglass.ImageID(days(float64(day)).Format("20060102t150405-img") + fmt.Sprint(day))
}

// The images of history.
const (
	img0 = "20261101t100000-img0"
	img1 = "20261102t100000-img1"
	img2 = "20261103t100000-img2"
	img3 = "20261104t100000-img3"
	img4 = "20261105t100000-img4"
	img5 = "20261106t100000-img5"
)

// history is an incarnation with an image a day, each of which changes one file, and three segments a day.
func (x *fixture) history(t testing.TB, n int) []*repo.Digests {
	t.Helper()
	files := []file{{"base/1/same", data(1, 3*chunk)}, {"base/1/changes", data(2, chunk)}}
	var all []*repo.Digests
	var known *repo.Digests
	for day := range n {
		files[1].data = data(uint64(100+day), chunk)
		x.wal(t, x.inc.ID, 3*day+1, 3*day+4)
		_, known = x.image(t, x.repo, x.inc.ID, imageID(day), days(float64(day)), sandglass.LSN(3*day+1)*segSize+40, known, files)
		all = append(all, known)
	}
	return all
}

func (x *fixture) imageIDs(t testing.TB, inc sandglass.IncarnationID) []string {
	t.Helper()
	images, err := x.fresh(t).Images(t.Context(), x.env, inc)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range images {
		out = append(out, string(i.ID))
	}
	return out
}

func keep(d time.Duration) func(string) time.Duration { return func(string) time.Duration { return d } }

func (x *fixture) prune(t testing.TB, retention time.Duration, now time.Time) *sandglass.PrunePlan {
	t.Helper()
	p, err := x.repo.PlanPrune(t.Context(), keep(retention), now)
	if err != nil {
		t.Fatal(err)
	}
	before := len(x.objects(t, ""))
	done, err := x.repo.ExecutePrune(t.Context(), p.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	after := len(x.objects(t, "")) - 1 // the record that it is done
	if done.Objects != p.Objects || done.Bytes != p.Bytes || before-after != p.Objects {
		t.Errorf("planned %d objects of %d bytes, removed %d of %d, %d are gone", p.Objects, p.Bytes, done.Objects, done.Bytes, before-after)
	}
	return p
}

func TestPruneKeepsTheWindow(t *testing.T) {
	x := newFixture(t)
	x.history(t, 6)
	// The window begins at day 3.5: image-3 reaches it, with the WAL from its segment 10 on.
	p := x.prune(t, 2*24*time.Hour, days(5.5))
	if got := x.imageIDs(t, x.inc.ID); !slices.Equal(got, []string{img3, img4, img5}) {
		t.Errorf("images: %q", got)
	}
	segs := x.segments(t)
	if len(segs) != 9 || segs[0].Segment != 10 || !segs[0].Indexed {
		t.Errorf("segments: %+v", segs)
	}
	// image-0 wrote the file that never changes; image-1 and image-2 wrote only what nobody needs now.
	var left []string
	for key := range x.objects(t, "env/prod/"+string(x.inc.ID)+"/bundle") {
		left = append(left, filepath.Base(filepath.Dir(key)))
	}
	slices.Sort(left)
	if !slices.Equal(left, []string{img0, img3, img4, img5}) {
		t.Errorf("bundles of %q", left)
	}
	for _, id := range []sandglass.ImageID{img3, img5} {
		i, err := x.fresh(t).OpenImage(t.Context(), env, x.inc.ID, id)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Restore(t.Context(), t.TempDir(), nil, nil); err != nil {
			t.Errorf("restore %s: %v", id, err)
		}
	}
	if _, err := x.repo.ExecutePrune(t.Context(), p.ID, nil); sandglass.CodeOf(err) != sandglass.CodePlanExecuted {
		t.Errorf("executed twice: %v", err)
	}
	_, err := x.repo.ExecutePrune(t.Context(), "20200101t000000-none", nil)
	wantCode(t, err, sandglass.CodePlanUnknown)
	if again := x.prune(t, 2*24*time.Hour, days(5.5)); again.Objects != 0 || len(again.Items) != 0 {
		t.Errorf("something is left to prune: %+v", again)
	}
	if none := x.prune(t, -1, days(500)); none.Objects != 0 {
		t.Errorf("an unknown environment is pruned: %+v", none)
	}
	// However old, the newest image and its WAL stay.
	x.prune(t, time.Hour, days(500))
	if got := x.imageIDs(t, x.inc.ID); !slices.Equal(got, []string{img5}) {
		t.Errorf("images: %q", got)
	}
}

func TestPruneOfAnEndedIncarnation(t *testing.T) {
	x := newFixture(t)
	known := x.history(t, 2)
	if err := x.repo.EndIncarnation(t.Context(), env, x.inc.ID, days(2), "cutover"); err != nil {
		t.Fatal(err)
	}
	second := x.begin(t, "20261103t100000-bbbb", days(2))
	files := []file{{"base/1/same", data(1, 3*chunk)}, {"base/1/changes", data(3, chunk)}}
	x.image(t, x.repo, second.ID, "image-x", days(2.1), segSize, known[1], files)

	x.prune(t, 24*time.Hour, days(2.5)) // its last day is still in the window
	if got := x.imageIDs(t, x.inc.ID); !slices.Equal(got, []string{img1}) {
		t.Errorf("images: %q", got)
	}
	x.prune(t, 24*time.Hour, days(3.5))
	incs, err := x.fresh(t).Incarnations(t.Context(), env)
	if err != nil || len(incs) != 1 || incs[0].ID != second.ID {
		t.Errorf("incarnations: %+v, %v", incs, err)
	}
	// Only the bundle that the second incarnation shares is left of the first.
	for key := range x.objects(t, "env/prod/"+string(x.inc.ID)) {
		if !strings.Contains(key, "/bundle/"+img0+"/") {
			t.Errorf("left: %s", key)
		}
	}
	i, err := x.fresh(t).OpenImage(t.Context(), env, second.ID, "image-x")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := i.Restore(t.Context(), root, nil, nil); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, root, files)
}

func TestPruneOfLeftovers(t *testing.T) {
	x := newFixture(t)
	facts := sandglass.Image{ID: "given-up", Environment: env, Incarnation: x.inc.ID}
	ctx, cancel := context.WithCancel(t.Context())
	w, err := x.repo.NewImage(ctx, facts, repo.ImageOptions{Dir: x.state})
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 70<<20)
	incompressible(noise)
	if err := w.File(ctx, "big", 0o600, epoch, int64(len(noise)), bytes.NewReader(noise)); err != nil {
		t.Fatal(err)
	}
	cancel() // as if killed: nobody removes what was written
	w.Finish(ctx, facts)
	if n := len(x.objects(t, "env/prod/"+string(x.inc.ID)+"/bundle")); n != 1 {
		t.Fatalf("%d bundles are left over", n)
	}
	if p := x.prune(t, time.Hour, time.Now().Add(23*time.Hour)); p.Objects != 0 {
		t.Errorf("a young leftover is pruned: %+v", p.Items)
	}
	if p := x.prune(t, time.Hour, time.Now().Add(25*time.Hour)); p.Objects != 1 {
		t.Errorf("an old leftover is not pruned: %+v", p.Items)
	}
}

func TestPlanIsLookedAtAgain(t *testing.T) {
	x := newFixture(t)
	known := x.history(t, 3)
	p, err := x.repo.PlanPrune(t.Context(), keep(24*time.Hour), days(3.5)) // image-0 and image-1 go
	if err != nil {
		t.Fatal(err)
	}
	// Since then image-2 was lost, and a new image shares the chunks of image-1.
	if err := os.Remove(filepath.Join(x.dir, "env/prod", string(x.inc.ID), "image/"+img2)); err != nil {
		t.Fatal(err)
	}
	files := []file{{"base/1/same", data(1, 3*chunk)}, {"base/1/changes", data(101, chunk)}}
	x.image(t, x.repo, x.inc.ID, img3, days(3.2), 10*segSize, known[1], files)
	x.repo = x.fresh(t)
	if _, err := x.repo.ExecutePrune(t.Context(), p.ID, nil); err != nil {
		t.Fatal(err)
	}
	if got := x.imageIDs(t, x.inc.ID); !slices.Equal(got, []string{img1, img3}) {
		t.Errorf("images: %q", got)
	}
	for _, id := range []sandglass.ImageID{img1, img3} {
		i, err := x.fresh(t).OpenImage(t.Context(), env, x.inc.ID, id)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Restore(t.Context(), t.TempDir(), nil, nil); err != nil {
			t.Errorf("restore %s: %v", id, err)
		}
	}
	if segs := x.segments(t); segs[0].Segment != 4 {
		t.Errorf("WAL from segment %d", segs[0].Segment)
	}
}

// Nobody knows what an environment needs while a manifest of it is damaged, so that nothing of it goes. Of others it does.
func TestNothingGoesWhileAManifestIsDamaged(t *testing.T) {
	x := newFixture(t)
	x.history(t, 3)
	other := *x
	other.env = "crm"
	other.inc = other.begin(t, "20261101t100000-bbbb", epoch)
	other.history(t, 3)
	x.flip(t, "env/prod/"+string(x.inc.ID)+"/image/"+img2, 300)
	before := x.objects(t, "env/prod")
	fresh := x.fresh(t)
	plan, err := fresh.PlanPrune(t.Context(), keep(time.Hour), days(5))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.ExecutePrune(t.Context(), plan.ID, nil); err != nil {
		t.Fatal(err)
	}
	for _, i := range plan.Items {
		if i.Environment == env {
			t.Errorf("the plan names %s of %s", i.Name, env)
		}
	}
	if len(plan.Left) != 1 || plan.Left[env] == "" || !maps.Equal(before, x.objects(t, "env/prod")) {
		t.Errorf("left %v; of %s %d objects of %d are there", plan.Left, env, len(x.objects(t, "env/prod")), len(before))
	}
	if images := other.imageIDs(t, other.inc.ID); !slices.Equal(images, []string{img2}) {
		t.Errorf("of crm there is %v", images)
	}
}
