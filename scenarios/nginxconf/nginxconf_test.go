package nginxconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const whole = `user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log warn;
events { worker_connections 768; }
http {
	access_log /var/log/nginx/access.log;
	upstream app { # two of them
		server 10.0.0.1:9000 weight=2;
		server unix:/run/app.sock backup;
		keepalive 32;
	}
	server {
		listen 192.0.2.1:80 default_server;
		listen [::]:80;
		location / { proxy_pass http://app/base; }
		location /other { proxy_pass https://other.example.net/x; }
		set $a "a;b{c}";
		return 200 "${host}#{{";
	}
}
`

func TestAdaptKeepsLinesAndChangesWhatTheLabNeeds(t *testing.T) {
	a, err := Adapt("my.conf", []byte(whole))
	require.NoError(t, err)
	require.Equal(t, uint16(80), a.Port)
	require.Equal(t, 3, a.Upstreams)
	got := a.Files[Main]
	lines := strings.Split(got, "\n")
	require.Len(t, lines, strings.Count(whole, "\n")+1, "nginx's messages name lines of the file")
	require.Equal(t, "daemon off; ", lines[0], "user is gone")
	require.Equal(t, "pid {{.Dir}}/nginx.pid;", lines[2])
	require.Equal(t, "error_log stderr warn;", lines[3])
	require.Contains(t, lines[5], "http { client_body_temp_path {{.Dir}}/client_body;")
	require.Contains(t, lines[6], "access_log off;")
	require.Contains(t, lines[8], "server {{index .Upstreams 0}} weight=2;")
	require.Contains(t, lines[9], "server {{index .Upstreams 1}} backup;")
	require.Contains(t, lines[13], "listen 80 default_server;")
	require.Contains(t, lines[14], "listen [::]:80;")
	require.Contains(t, lines[15], "proxy_pass http://app/base;")
	require.Contains(t, lines[16], "proxy_pass http://{{index .Upstreams 2}}/x;")
	require.Contains(t, lines[18], `"${host}#{{"{{"}}";`, "a template would take it for its own")
	for _, c := range a.Changes {
		require.Regexp(t, `^my\.conf:\d+: `, c)
	}
}

func TestWhatIncludesNameComesAlong(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("nginx.conf", "events {}\nhttp {\n include conf.d/*.conf;\n include none/*.conf;\n}\n")
	write("conf.d/a.conf", "upstream a { server 10.0.0.1; }\n")
	write("conf.d/b.conf", "server { location / { proxy_pass http://a; } }\n")
	name := filepath.Join(dir, "nginx.conf")
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	a, err := Adapt(name, data)
	require.NoError(t, err)
	require.Equal(t, []int{1, 80}, []int{a.Upstreams, int(a.Port)})
	require.Contains(t, a.Files[Main], "include {{.Dir}}/include/1-a.conf; include {{.Dir}}/include/2-b.conf;")
	require.Equal(t, "upstream a { server {{index .Upstreams 0}}; }\n", a.Files["include/1-a.conf"])
	require.Equal(t, "server { listen 80; location / { proxy_pass http://a; } }\n", a.Files["include/2-b.conf"])
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ conf, want string }{
		{"http { server { listen 80;", "x.conf:1: the file ends, and a closing brace is missing"},
		{"http {\n server { listen 80 }\n}", "x.conf:2: a semicolon is missing after 80"},
		{"http { } }", "x.conf:1: a closing brace has no opening one"},
		{"http {\n set $a \"b;\n}", "x.conf:2: a quotation mark has no end"},
		{";", `x.conf:1: ';' stands where a directive belongs`},
		{"events {}", "x.conf: there is no http block"},
		{"http {}", "x.conf: no server block is there to listen"},
		{"http { server { listen 443 ssl; } }", "the lab's client speaks plain HTTP"},
		{"http { server { listen unix:/x; } }", "the lab's client comes by TCP"},
		{"http {\ninclude missing.conf;\n}", "x.conf:2: include missing.conf: no such file"},
		{strings.Repeat("a {", 40), "more than 32 deep"},
	} {
		_, err := Adapt("x.conf", []byte(c.conf))
		require.ErrorContains(t, err, c.want, c.conf)
	}
}

func TestMendsOfTheArticle(t *testing.T) {
	a, err := Adapt("x.conf", []byte("http {\nupstream www { keepalive 65; }\nserver { location / {\nproxy_pass http://www\nproxy_http_version 1.1;\nproxy_set_header Connection ;\n}}}"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		`invalid number of arguments in "proxy_pass"`:       "nginx.conf:4: a semicolon is missing at the end: write proxy_pass http://www;",
		`invalid number of arguments in "proxy_set_header"`: `nginx.conf:6: an empty value is written as two quotation marks: write proxy_set_header Connection "";`,
	}, a.Mends)
}

// Whatever comes in, Adapt ends, and its edits are in order.
func FuzzAdapt(f *testing.F) {
	f.Add(whole)
	f.Add("http{server{listen 1}}")
	f.Add("a \\")
	f.Fuzz(func(_ *testing.T, s string) {
		if strings.Contains(s, "include") {
			return // files of this machine
		}
		_, _ = Adapt("x.conf", []byte(s))
	})
}
