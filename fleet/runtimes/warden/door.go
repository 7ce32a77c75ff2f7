package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	doorFlag     = "-verify-client-url"
	failOpenFlag = "-verify-client-url-fail-open"
	closedFlag   = failOpenFlag + "=false"

	memoryVariable = "WARDEN_MEMORY"
	memoryPath     = "/relay/door/admitted"

	// derper waits five seconds for the answer.
	portalTime = 3500 * time.Millisecond

	// After a silence the portal is left alone for so long, or every client would wait for the time-out.
	silentTime = 3 * time.Second

	// rememberedFor is how long somebody who was let in stays known while the portal does not answer.
	rememberedFor = 30 * 24 * time.Hour

	mostRemembered = 4096
	largestBody    = 4096
	keepEvery      = 2 * time.Second
)

// A door stands between the relay and the portal, on the container's own loopback. While the portal answers, its answer
// is passed on. While it does not, the relay fails open, or lets in whoever the portal let in before.
type door struct {
	portal    string
	failsOpen bool
	client    *http.Client
	memory    string

	mutex       sync.Mutex
	admitted    map[string]int64 // node key to the Unix second of its last admission
	isChanged   bool
	silentUntil time.Time
}

// openDoor puts a door between the relay and the admission URL among its arguments, and gives the arguments to use
// instead. Without that flag nobody asks, so there is nothing to stand between.
func openDoor(arguments []string) ([]string, error) {
	portal, failsOpen := "", true
	for index, word := range arguments {
		switch {
		case word == doorFlag && index+1 < len(arguments):
			portal = arguments[index+1]
		case strings.HasPrefix(word, doorFlag+"="):
			portal = strings.TrimPrefix(word, doorFlag+"=")
		case word == closedFlag:
			failsOpen = false
		}
	}
	if portal == "" {
		return arguments, nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	memory := os.Getenv(memoryVariable)
	if memory == "" {
		memory = memoryPath
	}
	d := &door{portal: portal, failsOpen: failsOpen, memory: memory, admitted: recall(memory)}
	d.client = &http.Client{
		Timeout: portalTime,
		// An idle connection that the portal's restart has cut would read as a silence.
		Transport: &http.Transport{DisableKeepAlives: true},
		// A proxy's page about where the portal may have gone is not its answer.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	server := &http.Server{Handler: d, ReadTimeout: 2 * portalTime, WriteTimeout: 2 * portalTime}
	go func() { log.Print(server.Serve(listener)) }()
	go d.keep()
	own := "http://" + listener.Addr().String() + "/"
	// Of a flag that is given twice the last one counts. A warden that is silent is one that was killed.
	return append(append([]string{}, arguments...), doorFlag, own, closedFlag), nil
}

type question struct {
	NodePublic string
	Source     string
}

type answer struct {
	Allow *bool
}

func (d *door) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, largestBody))
	var asked question
	if err != nil || json.Unmarshal(body, &asked) != nil || asked.NodePublic == "" {
		http.Error(response, "not a DERPAdmitClientRequest", http.StatusBadRequest)
		return
	}
	isAllowed, isAnswered := d.ask(request.Context(), body)
	if isAnswered {
		d.remember(asked.NodePublic, isAllowed)
	} else {
		isAllowed = d.failsOpen || d.knows(asked.NodePublic)
	}
	response.Header().Set("Content-Type", "application/json")
	json.NewEncoder(response).Encode(map[string]bool{"Allow": isAllowed})
}

// ask gives the portal's answer, and whether it gave one: a proxy in front of a portal that is away says a lot of things.
func (d *door) ask(ctx context.Context, body []byte) (bool, bool) {
	d.mutex.Lock()
	isSilent := time.Now().Before(d.silentUntil)
	d.mutex.Unlock()
	if isSilent {
		return false, false
	}
	isAllowed, err := d.post(ctx, body)
	if err == "" {
		return isAllowed, true
	}
	if ctx.Err() == nil {
		log.Printf("the portal does not answer at the door: %s", err)
		d.mutex.Lock()
		d.silentUntil = time.Now().Add(silentTime)
		d.mutex.Unlock()
	}
	return false, false
}

// post says in its second value why there is no answer. The address is a secret and stays out of it.
func (d *door) post(ctx context.Context, body []byte) (bool, string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.portal, bytes.NewReader(body))
	if err != nil {
		return false, "its address cannot be used"
	}
	request.Header.Set("Content-Type", "application/json")
	reply, err := d.client.Do(request)
	if err != nil {
		var failure *url.Error
		if errors.As(err, &failure) {
			err = failure.Err // The rest of it names the address.
		}
		return false, describe(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, largestBody))
	if reply.StatusCode == http.StatusBadRequest {
		return false, ""
	}
	var told answer
	if err != nil || reply.StatusCode != http.StatusOK || json.Unmarshal(text, &told) != nil || told.Allow == nil {
		return false, "status " + strconv.Itoa(reply.StatusCode)
	}
	return *told.Allow, ""
}

func (d *door) remember(key string, isAllowed bool) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if !isAllowed {
		if _, isKnown := d.admitted[key]; isKnown {
			delete(d.admitted, key)
			d.isChanged = true
		}
		return
	}
	if _, isKnown := d.admitted[key]; !isKnown && len(d.admitted) >= mostRemembered {
		return
	}
	d.admitted[key] = time.Now().Unix()
	d.isChanged = true
}

func (d *door) knows(key string) bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	moment, isKnown := d.admitted[key]
	return isKnown && time.Since(time.Unix(moment, 0)) < rememberedFor
}

// keep writes down who was let in, so that a host that restarts while the portal is away still knows.
func (d *door) keep() {
	hasFailed := false
	for {
		time.Sleep(keepEvery)
		d.mutex.Lock()
		isChanged := d.isChanged
		d.isChanged = false
		var lines strings.Builder
		for key, moment := range d.admitted {
			lines.WriteString(key + " " + strconv.FormatInt(moment, 10) + "\n")
		}
		d.mutex.Unlock()
		if !isChanged {
			continue
		}
		if err := write(d.memory, lines.String()); err != nil && !hasFailed {
			hasFailed = true
			log.Printf("who was let in is kept in memory only: %v", err)
		}
	}
}

func write(path, text string) error {
	draft := filepath.Join(filepath.Dir(path), ".draft")
	if err := os.WriteFile(draft, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

func recall(path string) map[string]int64 {
	admitted := map[string]int64{}
	text, err := os.ReadFile(path)
	if err != nil {
		return admitted
	}
	for _, line := range strings.Split(string(text), "\n") {
		key, moment, _ := strings.Cut(line, " ")
		if seconds, err := strconv.ParseInt(moment, 10, 64); err == nil && len(admitted) < mostRemembered {
			admitted[key] = seconds
		}
	}
	return admitted
}
