package main

import (
	"errors"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

const (
	// lookEvery bounds how late a moved deadline or a clock that was set is noticed.
	lookEvery = 2 * time.Second

	// grace is what the relay gets between SIGTERM and SIGKILL.
	grace = 5 * time.Second

	exitCannotRun = 126
	exitNotFound  = 127
)

// A keeper runs one program while its fence is open. All of it happens on one goroutine, which is also the only one
// that reaps, so a pid it holds is never another process's.
type keeper struct {
	program   string
	arguments []string
	fence     *fence

	child    int       // 0 while there is none
	killAt   time.Time // when the deadline has passed and the child was told so: the end of its grace
	isEnding bool      // somebody wants the warden itself to end
	isIdle   bool      // the deadline has passed, and that was said
}

// run keeps the program until it ends by itself or the warden is told to end, and returns the exit code.
func run(arguments []string) int {
	program, err := exec.LookPath(arguments[0])
	if err != nil {
		log.Print(err)
		return startFailure(err)
	}
	arguments, err = openDoor(arguments)
	if err != nil {
		log.Print(err)
		return exitFailed
	}
	children := make(chan os.Signal, 1) // One is enough: reap takes whoever is there.
	signal.Notify(children, syscall.SIGCHLD)
	orders := make(chan os.Signal, 16)
	signal.Notify(orders, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	k := &keeper{program: program, arguments: arguments, fence: newFence()}
	for {
		pause, err := k.look()
		if err != nil {
			log.Printf("%s cannot be run: %v", k.program, err)
			return startFailure(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-children:
		case order := <-orders:
			if k.obey(order.(syscall.Signal)) {
				return 0
			}
		}
		timer.Stop()
		if code, isOver := k.reap(); isOver {
			return code
		}
	}
}

// look compares the clock with the deadline, acts on it, and says how long nothing will need to be done.
func (k *keeper) look() (time.Duration, error) {
	deadline := k.fence.deadline()
	left := time.Until(deadline)
	switch {
	case k.child == 0 && left > 0:
		if k.isIdle {
			log.Printf("the deadline is now %s: starting %s", stamp(deadline), k.program)
		}
		k.isIdle = false
		if err := k.start(); err != nil {
			return 0, err
		}
	case k.child == 0:
		if !k.isIdle {
			log.Printf("%s: %s is not started", reason(deadline), k.program)
		}
		k.isIdle = true
	case !k.killAt.IsZero():
		if time.Now().After(k.killAt) {
			k.send(syscall.SIGKILL)
			return lookEvery, nil
		}
		return shorter(lookEvery, time.Until(k.killAt)+time.Millisecond), nil
	case left <= 0:
		log.Printf("%s: stopping %s", reason(deadline), k.program)
		k.isIdle = true
		k.killAt = time.Now().Add(grace)
		k.send(syscall.SIGTERM)
	default:
		return shorter(lookEvery, left+time.Millisecond), nil
	}
	return lookEvery, nil
}

// start runs the program with our own environment, folder and open streams.
func (k *keeper) start() error {
	child, err := syscall.ForkExec(k.program, k.arguments, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		// No fence, no relay: whatever ends the warden ends the child.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	k.child = child
	return nil
}

// obey passes a signal on; it says true when there is nobody to pass it to and nothing left to do.
func (k *keeper) obey(order syscall.Signal) bool {
	if order != syscall.SIGHUP {
		k.isEnding = true
		if k.child == 0 {
			return true
		}
	}
	k.send(order)
	return false
}

func (k *keeper) send(number syscall.Signal) {
	if k.child == 0 {
		return
	}
	if err := syscall.Kill(k.child, number); err != nil && !errors.Is(err, syscall.ESRCH) {
		log.Printf("signal %d was not delivered: %v", number, err)
	}
}

// reap collects the dead: the child, and as pid 1 also whatever it left behind. It gives the child's exit code and
// whether the warden's work is over with it.
func (k *keeper) reap() (int, bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return 0, false
		}
		if pid != k.child {
			continue
		}
		code := status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
		wasStopped := !k.killAt.IsZero()
		k.child, k.killAt = 0, time.Time{}
		if k.isEnding || !wasStopped {
			return code, true
		}
		log.Printf("%s ended with exit code %d", k.program, code)
	}
}

func startFailure(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return exitNotFound
	}
	return exitCannotRun
}

func reason(deadline time.Time) string {
	if deadline.IsZero() {
		return "there is no valid deadline"
	}
	return "the deadline " + stamp(deadline) + " has passed"
}

func stamp(moment time.Time) string {
	return moment.UTC().Format(time.RFC3339)
}

func shorter(one, other time.Duration) time.Duration {
	if one < other {
		return one
	}
	return other
}
