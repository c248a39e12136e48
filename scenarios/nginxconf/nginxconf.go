// Package nginxconf fits a person's own nginx.conf to the lab: addresses, the
// user, logs and the paths that nginx writes to. Every line stays where it is,
// so that nginx's messages name the right one. It is text in, text out; nginx
// alone decides whether the configuration is a good one.
package nginxconf

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Main is the name of the adapted configuration among Adapted.Files.
const Main = "nginx.conf"

// Adapted is what Adapt makes of a configuration.
type Adapted struct {
	// Files are the configuration and what it includes, as templates: {{.Dir}},
	// {{index .Upstreams 0}} and so on stand for what only the lab knows.
	Files map[string]string
	// Port is where the first server listens.
	Port uint16
	// Upstreams is the number of servers that requests are passed on to.
	Upstreams int
	// Changes say what is different now, each with its file and line.
	Changes []string
	// Mends are advice for messages of nginx, by a regular expression.
	Mends map[string]string
}

// Adapt fits a configuration to the lab. name is the file's, for messages and to
// find what it includes.
func Adapt(name string, data []byte) (*Adapted, error) {
	a := &adapter{Adapted: Adapted{Files: map[string]string{}, Mends: map[string]string{}}, upstreams: map[string]bool{}, have: map[string]bool{}}
	top, err := parse(name, string(data))
	if err != nil {
		return nil, err
	}
	if err := a.names(name, top); err != nil {
		return nil, err
	}
	f := &source{name: name, as: Main, text: string(data)}
	if err := a.block(f, "", top); err != nil {
		return nil, err
	}
	http := slices.IndexFunc(top, func(d *directive) bool { return d.words[0].text == "http" })
	if http < 0 {
		return nil, fmt.Errorf("%s: there is no http block: a whole nginx.conf is needed, not a file of conf.d", name)
	}
	if a.Port == 0 {
		return nil, fmt.Errorf("%s: no server block is there to listen", name)
	}
	before := ""
	for _, add := range []struct{ word, text string }{{"daemon", "daemon off; "}, {"pid", "pid {{.Dir}}/nginx.pid; "}, {"error_log", "error_log stderr error; "}, {"events", "events {} "}} {
		if !a.have[add.word] {
			before += add.text
			a.say(f, 1, "added: %s", strings.TrimSpace(add.text))
		}
	}
	f.edit(0, 0, before)
	inHTTP := ""
	for _, what := range temps {
		if !a.have[what+"_temp_path"] {
			inHTTP += fmt.Sprintf(" %s_temp_path {{.Dir}}/%s;", what, what)
		}
	}
	if !a.have["access_log"] {
		inHTTP += " access_log off;"
	}
	if inHTTP != "" {
		a.say(f, top[http].words[0].line, "added: %s", strings.TrimSpace(inHTTP))
		f.edit(top[http].open, top[http].open, inHTTP)
	}
	a.Files[Main] = f.result()
	return &a.Adapted, nil
}

// temps are the kinds of files that nginx may write while it serves.
var temps = []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"}

type adapter struct {
	Adapted
	upstreams map[string]bool // by name
	have      map[string]bool // directives that were met
	server    int             // server blocks met
	listens   bool            // the server block at hand says where
}

// source is a file and the edits to it.
type source struct {
	name, as, text string
	edits          []edit
}

type edit struct {
	from, to int
	text     string
}

func (f *source) edit(from, to int, text string) { f.edits = append(f.edits, edit{from, to, text}) }

// result is the text with all edits, as a template.
func (f *source) result() string {
	slices.SortStableFunc(f.edits, func(a, b edit) int { return cmp.Or(a.from-b.from, a.to-b.to) })
	quote := strings.NewReplacer("{{", `{{"{{"}}`)
	var b strings.Builder
	at := 0
	for _, e := range f.edits {
		b.WriteString(quote.Replace(f.text[at:e.from]))
		b.WriteString(e.text)
		at = e.to
	}
	b.WriteString(quote.Replace(f.text[at:]))
	return b.String()
}

func (a *adapter) say(f *source, line int, format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "{{.Dir}}", "DIR")
	a.Changes = append(a.Changes, fmt.Sprintf("%s:%d: %s", f.name, line, text))
}

// replace rewrites a directive, its semicolon included.
func (a *adapter) replace(f *source, d *directive, text, why string) {
	f.edit(d.from, d.to, text)
	if text == "" {
		a.say(f, d.words[0].line, "%s is left out (%s)", d.String(), why)
		return
	}
	a.say(f, d.words[0].line, "%s is now %s (%s)", d.String(), text, why)
}

// names gathers the upstreams, which may be named before they stand.
func (a *adapter) names(file string, list []*directive) error {
	for _, d := range list {
		if d.words[0].text == "upstream" && len(d.words) == 2 {
			a.upstreams[d.words[1].text] = true
		}
		if err := a.names(file, d.block); err != nil {
			return err
		}
		if d.words[0].text == "include" && len(d.words) == 2 {
			files, err := included(file, d)
			if err != nil {
				return err
			}
			for _, name := range files {
				_, list, err := read(name)
				if err != nil {
					return err
				}
				if err := a.names(name, list); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// block adapts the directives of a block, which is called context.
func (a *adapter) block(f *source, context string, list []*directive) error {
	for _, d := range list {
		word := d.words[0].text
		a.have[word] = true
		if err := a.directive(f, context, d); err != nil {
			return err
		}
		if !d.isBlock {
			continue
		}
		if word == "server" {
			a.server++
			a.listens = false
		}
		if err := a.block(f, word, d.block); err != nil {
			return err
		}
		switch {
		case word == "upstream" && !slices.ContainsFunc(d.block, func(d *directive) bool { return d.words[0].text == "server" }):
			f.edit(d.open, d.open, " server "+a.upstream()+";")
			a.say(f, d.words[0].line, "upstream %s has no server: the lab's is added", d.argument())
		case word == "server" && context == "http" && !a.listens:
			port := a.port(80)
			f.edit(d.open, d.open, fmt.Sprintf(" listen %d;", port))
			a.say(f, d.words[0].line, "added: listen %d;", port)
		}
	}
	return nil
}

// port notes where the first server listens.
func (a *adapter) port(p uint16) uint16 {
	if a.Port == 0 {
		a.Port = p
	}
	return p
}

// upstream is the next of the lab's servers.
func (a *adapter) upstream() string {
	a.Upstreams++
	return fmt.Sprintf("{{index .Upstreams %d}}", a.Upstreams-1)
}

func (a *adapter) directive(f *source, context string, d *directive) error {
	word := d.words[0].text
	temp, isTemp := strings.CutSuffix(word, "_temp_path")
	switch {
	case word == "user":
		a.replace(f, d, "", "the lab runs nginx as nobody")
	case word == "daemon":
		a.replace(f, d, "daemon off;", "the lab watches it")
	case word == "pid":
		a.replace(f, d, "pid {{.Dir}}/nginx.pid;", "a directory of its own")
	case word == "error_log":
		level := ""
		if len(d.words) > 2 {
			level = " " + d.words[2].text
		}
		a.replace(f, d, "error_log stderr"+level+";", "the lab keeps what it says")
	case word == "access_log" && d.argument() != "off":
		a.replace(f, d, "access_log off;", "nothing is written outside of the lab")
	case isTemp && slices.Contains(temps, temp):
		a.replace(f, d, fmt.Sprintf("%s {{.Dir}}/%s;", word, temp), "a directory of its own")
	case word == "load_module" && len(d.words) == 2 && !filepath.IsAbs(d.argument()):
		for _, prefix := range []string{"/usr/share/nginx", "/usr/lib/nginx", "/etc/nginx"} { // nginx has another prefix in the lab
			if at := filepath.Join(prefix, d.argument()); exists(at) {
				f.edit(d.words[1].from, d.words[1].to, at)
				break
			}
		}
	case word == "listen" && context == "server":
		return a.listen(f, d)
	case word == "server" && context == "upstream" && len(d.words) > 1:
		w := d.words[1]
		to := a.upstream()
		f.edit(w.from, w.to, to)
		a.say(f, w.line, "upstream server %s is now the lab's", w.text)
	case word == "proxy_pass":
		if len(d.words) > 2 && d.words[2].line > d.words[1].line {
			a.Mends[`invalid number of arguments in "proxy_pass"`] = fmt.Sprintf(
				"%s:%d: a semicolon is missing at the end: write %s %s;", f.as, d.words[1].line, word, d.words[1].text)
		}
		return a.pass(f, d)
	case word == "proxy_set_header" && len(d.words) == 2:
		a.Mends[`invalid number of arguments in "proxy_set_header"`] = fmt.Sprintf(
			`%s:%d: an empty value is written as two quotation marks: write %s %s "";`, f.as, d.words[0].line, word, d.words[1].text)
	case word == "include" && len(d.words) == 2:
		return a.include(f, context, d)
	}
	return nil
}

// listen takes the address away, and leaves the port.
func (a *adapter) listen(f *source, d *directive) error {
	a.listens = true
	if len(d.words) < 2 {
		return nil // nginx will say so
	}
	w := d.words[1]
	for _, option := range d.words[1:] {
		if (option.text == "ssl" || option.text == "quic" || option.text == "proxy_protocol") && a.Port == 0 {
			return fmt.Errorf("%s:%d: %s: the lab's client speaks plain HTTP: have the first server listen without %s", f.name, w.line, d, option.text)
		}
	}
	if strings.HasPrefix(w.text, "unix:") {
		return fmt.Errorf("%s:%d: %s: the lab's client comes by TCP: have the server listen on a port", f.name, w.line, d)
	}
	host, port, err := net.SplitHostPort(w.text)
	if err != nil { // a port or an address alone
		host, port = "", w.text
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			host, port = w.text, "80"
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return nil // nginx will say so
	}
	if host != "" && host != "*" && host != "0.0.0.0" && host != "::" && host != "[::]" {
		f.edit(w.from, w.to, port)
		a.say(f, w.line, "listen %s is now listen %s (the lab has other addresses)", w.text, port)
	}
	a.port(uint16(n))
	return nil
}

// pass turns what is passed on to a server of its own to the lab's.
func (a *adapter) pass(f *source, d *directive) error {
	if len(d.words) < 2 {
		return nil
	}
	w := d.words[1]
	scheme, rest, ok := strings.Cut(w.text, "://")
	if !ok || strings.Contains(w.text, "$") {
		return nil
	}
	host, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if scheme == "http" && a.upstreams[host] {
		return nil
	}
	to := host
	if !a.upstreams[host] {
		to = a.upstream()
	}
	f.edit(w.from, w.to, "http://"+to+path)
	a.say(f, w.line, "proxy_pass %s goes to the lab's server by http", w.text)
	return nil
}

// include takes the included files along, each adapted.
func (a *adapter) include(f *source, context string, d *directive) error {
	files, err := included(f.name, d)
	if err != nil {
		return err
	}
	var names []string
	for _, name := range files {
		text, list, err := read(name)
		if err != nil {
			return err
		}
		g := &source{name: name, as: fmt.Sprintf("include/%d-%s", len(a.Files)+1, filepath.Base(name)), text: text}
		a.Files[g.as] = "" // its number is taken
		if err := a.block(g, context, list); err != nil {
			return err
		}
		a.Files[g.as] = g.result()
		names = append(names, "include {{.Dir}}/"+g.as+";")
	}
	f.edit(d.from, d.to, strings.Join(names, " "))
	return nil
}

// included lists the files of an include, which are relative to nginx.conf.
func included(from string, d *directive) ([]string, error) {
	pattern := d.argument()
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 && !strings.ContainsAny(pattern, "*?[") {
		return nil, fmt.Errorf("%s:%d: include %s: no such file", from, d.words[0].line, d.argument())
	}
	return files, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func read(name string) (string, []*directive, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", nil, err
	}
	list, err := parse(name, string(data))
	return string(data), list, err
}

// A word of a configuration, and where it stands.
type word struct {
	text     string // without quotation marks
	from, to int
	line     int
}

// A directive with its words, and its block if it has one.
type directive struct {
	words    []word
	from, to int // the first byte, and the one after the semicolon or the block
	open     int // the byte after the opening brace
	isBlock  bool
	block    []*directive
}

// String writes the directive as one line.
func (d *directive) String() string {
	var out []string
	for _, w := range d.words {
		out = append(out, w.text)
	}
	return strings.Join(out, " ") + ";"
}

// argument is the first word after the name.
func (d *directive) argument() string {
	if len(d.words) < 2 {
		return ""
	}
	return d.words[1].text
}

// deepest is how far blocks may stand in blocks.
const deepest = 32

// parse reads a configuration: words, quoted or not, that end with a semicolon
// or open a block.
func parse(name, text string) ([]*directive, error) {
	p := &parser{name: name, text: text, line: 1}
	list, err := p.list(0)
	if err == nil && p.at < len(p.text) {
		err = p.errorf("a closing brace has no opening one")
	}
	return list, err
}

type parser struct {
	name, text string
	at, line   int
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.name, p.line, fmt.Sprintf(format, args...))
}

func (p *parser) list(depth int) ([]*directive, error) {
	if depth > deepest {
		return nil, p.errorf("blocks stand in blocks more than %d deep", deepest)
	}
	var out []*directive
	d := &directive{}
	for {
		p.blank()
		if p.at == len(p.text) {
			switch {
			case len(d.words) > 0:
				return nil, p.errorf("the file ends in the middle of %s: a semicolon or a brace is missing", d.words[0].text)
			case depth > 0:
				return nil, p.errorf("the file ends, and a closing brace is missing")
			}
			return out, nil
		}
		switch c := p.text[p.at]; c {
		case ';', '{':
			if len(d.words) == 0 {
				return nil, p.errorf("%q stands where a directive belongs", c)
			}
			p.at++
			d.from, d.to = d.words[0].from, p.at
			if c == '{' {
				d.isBlock, d.open = true, p.at
				var err error
				if strings.HasSuffix(d.words[0].text, "_by_lua_block") {
					return nil, p.errorf("%s: blocks of other languages cannot be read", d.words[0].text)
				}
				if d.block, err = p.list(depth + 1); err != nil {
					return nil, err
				}
				p.at++
				d.to = p.at
			}
			out = append(out, d)
			d = &directive{}
		case '}':
			if len(d.words) > 0 {
				return nil, p.errorf("a semicolon is missing after %s", d.words[len(d.words)-1].text)
			}
			return out, nil // at depth 0 parse says that it is one too many
		default:
			w, err := p.word()
			if err != nil {
				return nil, err
			}
			d.words = append(d.words, w)
		}
	}
}

// blank passes by white space and comments.
func (p *parser) blank() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case '\n':
			p.line++
		case ' ', '\t', '\r':
		case '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
			continue
		default:
			return
		}
		p.at++
	}
}

func (p *parser) word() (word, error) {
	w := word{from: p.at, line: p.line}
	if q := p.text[p.at]; q == '"' || q == '\'' {
		for p.at++; p.at < len(p.text) && p.text[p.at] != q; p.at++ {
			switch p.text[p.at] {
			case '\\':
				p.at++
			case '\n':
				p.line++
			}
		}
		if p.at >= len(p.text) {
			p.line = w.line
			return w, p.errorf("a quotation mark has no end")
		}
		p.at++
		w.to = p.at
		w.text = p.text[w.from+1 : w.to-1]
		return w, nil
	}
	for p.at < len(p.text) && !strings.ContainsRune(" \t\r\n;{}", rune(p.text[p.at])) {
		switch {
		case p.text[p.at] == '\\':
			p.at++
		case strings.HasPrefix(p.text[p.at:], "${"): // a variable's brace is no block's
			for p.at < len(p.text) && p.text[p.at] != '}' {
				p.at++
			}
		}
		p.at++
	}
	p.at = min(p.at, len(p.text))
	w.to, w.text = p.at, p.text[w.from:p.at]
	return w, nil
}
