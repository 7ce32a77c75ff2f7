// Warden is the entry point of the relay image. It keeps a relay from outliving its deadline when nobody is there to
// stop it, and checks ports from one host of the fleet to another. docs/adr/0008-warden.md says why it exists.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"
)

const usage = `usage:
  warden run PROGRAM [ARGUMENT...]                 run PROGRAM until the moment in the deadline file
  warden listen PORT [--seconds N]                 answer on PORT, TCP and UDP
  warden check [--seconds N] HOST:PORT...          say as JSON which of them answer, TCP and UDP
  warden version
`

const (
	exitFailed = 1
	exitUsage  = 2
)

// version is set by the build, to what the image's tag says.
var version = "unknown"

// The kernel ends the child with the thread that started it (see start), so main keeps to the thread it is on.
func init() {
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1) // It mostly sleeps; its threads count against the container's limit.
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("warden: ")
	os.Exit(command(os.Args[1:]))
}

func command(arguments []string) int {
	if len(arguments) == 0 {
		return misused(errors.New("a command is missing"))
	}
	name, rest := arguments[0], arguments[1:]
	switch name {
	case "run":
		if len(rest) == 0 {
			return misused(errors.New("a program to run is missing"))
		}
		return run(rest)
	case "listen":
		words, seconds, err := parse(rest, 60)
		if err == nil && len(words) != 1 {
			err = errors.New("listen takes one port")
		}
		if err == nil {
			err = checkPort(words[0])
		}
		if err != nil {
			return misused(err)
		}
		return listen(words[0], seconds)
	case "check":
		targets, seconds, err := parse(rest, 10)
		if err == nil {
			err = checkTargets(targets)
		}
		if err != nil {
			return misused(err)
		}
		return check(targets, seconds)
	case "version":
		fmt.Println(version)
		return 0
	}
	return misused(fmt.Errorf("%q is not a command", name))
}

func misused(err error) int {
	log.Print(err)
	fmt.Fprint(os.Stderr, usage)
	return exitUsage
}

// parse separates the plain words from --seconds, which may stand before, between or behind them.
func parse(arguments []string, fallback int) ([]string, time.Duration, error) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	seconds := flags.Int("seconds", fallback, "")
	var words []string
	for {
		if err := flags.Parse(arguments); err != nil {
			return nil, 0, err
		}
		if flags.NArg() == 0 {
			break
		}
		words = append(words, flags.Arg(0))
		arguments = flags.Args()[1:]
	}
	if *seconds < 1 || *seconds > 3600 {
		return nil, 0, errors.New("--seconds must be from 1 to 3600")
	}
	return words, time.Duration(*seconds) * time.Second, nil
}

func checkPort(text string) error {
	if port, err := strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
		return fmt.Errorf("%q is not a port", text)
	}
	return nil
}

func checkTargets(targets []string) error {
	if len(targets) == 0 {
		return errors.New("check takes at least one HOST:PORT")
	}
	for _, target := range targets {
		host, port, err := net.SplitHostPort(target)
		if err != nil || host == "" {
			return fmt.Errorf("%q is not HOST:PORT", target)
		}
		if err := checkPort(port); err != nil {
			return err
		}
	}
	return nil
}
