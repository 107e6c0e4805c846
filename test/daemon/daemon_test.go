package daemon

import "testing"

func TestServedIsFoundInTheLog(t *testing.T) {
	for text, want := range map[string]string{
		"time=x level=info msg=serving exports=1 portals=\"127.0.0.1:34567\"\n":                      "127.0.0.1:34567",
		"level=warning msg=\"slow disk\"\nlevel=info msg=serving exports=2 portals=[::1]:3260\n":     "[::1]:3260",
		"time=x level=info msg=serving exports=1 portals=\"127.0.0.1:1 [::1]:2\"\n":                  "127.0.0.1:1",
		"time=x level=info msg=serving exports=1 portals=\"127.0.0.1:34":                             "",
		"time=x level=info msg=\"observing\" portals=127.0.0.1:1\n":                                  "",
		"time=x level=error msg=\"portal 127.0.0.1:1: bind: address already in use\" portals=none\n": "",
	} {
		l := newLog()
		for i := range text { // as it may come: byte by byte
			_, _ = l.Write([]byte(text[i : i+1])) // never fails
		}
		got := ""
		select {
		case got = <-l.served:
		default:
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if l.String() != text {
			t.Errorf("the log is %q, want %q", l, text)
		}
	}
}

func TestNames(t *testing.T) {
	if got, want := FileURI("/srv/a disk?.img", "size=1M"), "file:///srv/a%20disk%3F.img?size=1M"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := Export("d", "mem:?size=1M"), "--export="+Prefix+"d/1=mem:?size=1M"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	d := &Daemon{Addr: "127.0.0.1:99"}
	if got, want := d.URL("d", 3), "iscsi://127.0.0.1:99/"+Prefix+"d/3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
