package pack

// This file is the key secret: which values of production are looked for in the finished copy.

// Columns is a list of columns, or true, which stands for all that a rule changes.
type Columns []string

// everyColumn is what true is read as; no column has this name in a rule.
const everyColumn = "*"

// UnmarshalYAML reads true, false or a list.
func (c *Columns) UnmarshalYAML(unmarshal func(any) error) error {
	var all bool
	if err := unmarshal(&all); err == nil {
		if *c = nil; all {
			*c = Columns{everyColumn}
		}
		return nil
	}
	return unmarshal((*[]string)(c))
}

// SecretColumns are the columns whose values of production must be found nowhere in the finished copy.
func (r Rule) SecretColumns() []string {
	if len(r.Secret) == 1 && r.Secret[0] == everyColumn {
		if r.Carries() {
			return nil
		}
		return r.Columns()
	}
	return r.Secret
}
