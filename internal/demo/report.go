package demo

// This file tells what the restore left out, kept and proved.

import (
	"context"
	"fmt"
	"strings"
)

func (s *story) report(ctx context.Context) error {
	s.chapter("What was neutralized")
	for _, l := range s.result.Rules {
		s.line(fmt.Sprintf("%q %q %d", l.Step, l.What, l.Rows))
	}
	s.say("%s", strings.Join(s.result.Checklist, "\n"))
	return nil
}
