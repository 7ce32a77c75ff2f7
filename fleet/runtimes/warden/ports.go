package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	attemptTime  = 3 * time.Second
	pause        = 500 * time.Millisecond
	answerTime   = time.Second
	greeting     = "derp-portal port check\n"
	largestProbe = 1500
	silence      = "timeout"
)

// listen answers on the port until the time is up: TCP with a line, UDP with what it got.
func listen(port string, period time.Duration) int {
	streams, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Print(err)
		return exitFailed
	}
	datagrams, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		log.Print(err)
		return exitFailed
	}
	go greet(streams)
	go echo(datagrams)
	log.Printf("listening on port %s, TCP and UDP, for %s", port, period)
	time.Sleep(period)
	return 0
}

func greet(streams net.Listener) {
	for {
		link, err := streams.Accept()
		if err != nil {
			log.Print(err)
			time.Sleep(pause) // Out of descriptors, most likely; others give theirs back.
			continue
		}
		go func() {
			defer link.Close()
			link.SetDeadline(time.Now().Add(attemptTime))
			io.WriteString(link, greeting)
		}()
	}
}

func echo(datagrams net.PacketConn) {
	buffer := make([]byte, largestProbe)
	for {
		length, sender, err := datagrams.ReadFrom(buffer)
		if err != nil {
			log.Print(err)
			time.Sleep(pause)
			continue
		}
		if _, err := datagrams.WriteTo(buffer[:length], sender); err != nil {
			log.Print(err)
		}
	}
}

// A verdict says which ways to a target are open. An error is "", "refused", "timeout", "unreachable", "closed",
// "unknown_host", or the system's own words.
type verdict struct {
	TCP      bool   `json:"tcp"`
	UDP      bool   `json:"udp"`
	TCPError string `json:"tcp_error"`
	UDPError string `json:"udp_error"`
}

// check tries every target both ways at once until all answer or the time is up, and prints the verdicts.
func check(targets []string, period time.Duration) int {
	ctx, cancel := context.WithTimeout(context.Background(), period)
	defer cancel()
	verdicts := make(map[string]*verdict, len(targets))
	var probes sync.WaitGroup
	for _, target := range targets {
		if verdicts[target] != nil {
			continue
		}
		told := &verdict{}
		verdicts[target] = told
		probes.Add(2)
		go func(target string) {
			defer probes.Done()
			told.TCPError = untilAnswered(ctx, target, askTCP)
			told.TCP = told.TCPError == ""
		}(target)
		go func(target string) {
			defer probes.Done()
			told.UDPError = untilAnswered(ctx, target, askUDP)
			told.UDP = told.UDPError == ""
		}(target)
	}
	probes.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		log.Print(err)
		return exitFailed
	}
	return 0
}

// untilAnswered repeats the attempt until it succeeds or the time is up, and gives the reason it failed, "" for none.
func untilAnswered(ctx context.Context, target string, ask func(context.Context, string) error) string {
	reason := ""
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		err := ask(attempt, target)
		cancel()
		if err == nil {
			return ""
		}
		// Silence says less than any other failure, and the last attempt may just have been cut short.
		if told := describe(err); reason == "" || told != silence {
			reason = told
		}
		select {
		case <-ctx.Done():
			return reason
		case <-time.After(pause):
		}
	}
}

// askTCP wants a byte, not just a connection: an engine's port proxy accepts for a container that does not listen.
func askTCP(ctx context.Context, target string) error {
	var dialer net.Dialer
	link, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	defer link.Close()
	end, _ := ctx.Deadline()
	first := make([]byte, 1)
	link.SetDeadline(earlier(end, time.Now().Add(answerTime)))
	_, err = link.Read(first)
	if isTimeout(err) && ctx.Err() == nil {
		// It waits for us to speak, as a relay does. We send no plain text, which boxes on the way may answer themselves.
		link.SetDeadline(end)
		hello, failed := clientHello()
		if failed != nil {
			return failed
		}
		if _, err = link.Write(hello); err == nil {
			_, err = link.Read(first)
		}
	}
	return err
}

// clientHello is the shortest one that TLS 1.2 allows; whether derper agrees or answers with an alert is all one. By
// hand, because the library's client would nearly double the program.
func clientHello() ([]byte, error) {
	hello := []byte("\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03")
	random := make([]byte, 32)
	_, err := rand.Read(random)
	hello = append(hello, random...)
	// No session, one cipher suite, no compression.
	return append(hello, "\x00\x00\x02\xc0\x2b\x01\x00"...), err
}

// askUDP sends a STUN request; the answer of a relay and the echo of `warden listen` both count.
func askUDP(ctx context.Context, target string) error {
	request, transaction, err := stunRequest()
	if err != nil {
		return err
	}
	var dialer net.Dialer
	link, err := dialer.DialContext(ctx, "udp", target)
	if err != nil {
		return err
	}
	defer link.Close()
	end, _ := ctx.Deadline()
	link.SetDeadline(earlier(end, time.Now().Add(answerTime)))
	if _, err := link.Write(request); err != nil {
		return err
	}
	buffer := make([]byte, largestProbe)
	for {
		length, err := link.Read(buffer)
		if err != nil {
			return err
		}
		answer := buffer[:length]
		if bytes.Equal(answer, request) || isStunAnswer(answer, transaction) {
			return nil
		}
	}
}

// stunRequest is a binding request as derper wants it: with Tailscale's SOFTWARE and a FINGERPRINT at the end.
func stunRequest() (request, transaction []byte, err error) {
	transaction = make([]byte, 12)
	if _, err := rand.Read(transaction); err != nil {
		return nil, nil, err
	}
	request = append(request, "\x00\x01\x00\x14\x21\x12\xa4\x42"...)
	request = append(request, transaction...)
	request = append(request, "\x80\x22\x00\x08tailnode"...)
	fingerprint := crc32.ChecksumIEEE(request) ^ 0x5354554e
	request = append(request, "\x80\x28\x00\x04"...)
	request = append(request, make([]byte, 4)...)
	binary.BigEndian.PutUint32(request[len(request)-4:], fingerprint)
	return request, transaction, nil
}

func isStunAnswer(datagram, transaction []byte) bool {
	return len(datagram) >= 20 && bytes.HasPrefix(datagram, []byte("\x01\x01")) && bytes.Equal(datagram[8:20], transaction)
}

func describe(err error) string {
	var unknown *net.DNSError
	switch {
	case isTimeout(err):
		return silence
	case errors.As(err, &unknown):
		return "unknown_host"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "closed"
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var failure net.Error
	return errors.As(err, &failure) && failure.Timeout()
}

func earlier(one, other time.Time) time.Time {
	if one.Before(other) {
		return one
	}
	return other
}
