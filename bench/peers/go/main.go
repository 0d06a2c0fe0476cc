// The main job on goroutines: one thread for the works of one loop (GOMAXPROCS 1), two where a second thread is the work.
// Arguments and the rule of sampling are those of bench/driver.hpp.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	works    = flag.String("works", "", "the works to measure, by comma (default all)")
	sizes    = flag.String("sizes", "2000,10000,100000,1000000", "the sizes of the gather works")
	runs     = flag.Int("runs", 7, "samples")
	budgetS  = flag.Float64("budget", 4, "seconds for one work")
	sampleMs = flag.Float64("sample-ms", 30, "a sample lasts at least so long")
)

type work struct {
	name    string
	threads int
	cpu     bool // processor time counts, and a sample is one round
}

func cpuNs() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano() + usage.Stime.Nano())
}

// take runs one sample and returns its metered time and its time on the wall.
func take(w work, n, count int, rounds func(n, count int)) (float64, float64) {
	runtime.GC()
	cpu, began := cpuNs(), time.Now()
	rounds(n, count)
	wall := float64(time.Since(began).Nanoseconds())
	if w.cpu {
		return cpuNs() - cpu, wall
	}
	return wall, wall
}

func report(w work, n int, samples, walls []float64) {
	sort.Float64s(samples)
	sort.Float64s(walls)
	last := len(samples) - 1
	fmt.Printf("RESULT peer=go work=%s N=%d threads=%d ns=%.2f min=%.2f max=%.2f runs=%d", w.name, n, w.threads,
		samples[len(samples)/2], samples[0], samples[last], len(samples))
	if w.cpu {
		fmt.Printf(" wall_ms=%.2f", walls[len(walls)/2]/1e6)
	}
	fmt.Println()
}

func measure(w work, ns []int, rounds func(n, count int)) {
	if *works != "" && !strings.Contains(","+*works+",", ","+w.name+",") {
		return
	}
	runtime.GOMAXPROCS(w.threads)
	end := time.Now().Add(time.Duration(*budgetS * 1e9))
	itemNs := 0.0
	for i, n := range ns {
		left := float64(time.Until(end).Nanoseconds())
		if itemNs*float64(n) > left {
			fmt.Printf("SKIP peer=go work=%s N=%d reason=budget predicted_s=%.1f\n", w.name, n, itemNs*float64(n)/1e9)
			continue
		}
		until := time.Now().Add(time.Duration(left / float64(len(ns)-i)))
		var samples, walls []float64
		metered, wall := take(w, n, 1, rounds)
		if wall < *sampleMs*1e6 {
			_, wall = take(w, n, 1, rounds)
		} else {
			samples, walls = append(samples, metered/float64(n)), append(walls, wall)
		}
		itemNs = wall / float64(n)
		count := 1
		if !w.cpu && wall < *sampleMs*1e6 {
			count = int(*sampleMs * 1e6 / wall)
		}
		for len(samples) == 0 || (len(samples) < *runs && time.Now().Before(until)) {
			metered, wall = take(w, n, count, rounds)
			samples, walls = append(samples, metered/float64(n*count)), append(walls, wall)
		}
		report(w, n, samples, walls)
	}
}

func gather(f func(i int) int) func(n, count int) {
	return func(n, count int) {
		for ; count > 0; count-- {
			results := make([]int, n)
			var all sync.WaitGroup
			all.Add(n)
			for i := 0; i < n; i++ {
				i := i
				go func() { results[i] = f(i); all.Done() }()
			}
			all.Wait()
			for i, result := range results {
				if result != i {
					panic("wrong result: a result is not in its place")
				}
			}
		}
	}
}

func yields(n, count int) {
	for i := 0; i < n*count; i++ {
		runtime.Gosched()
	}
}

// wake passes a token between two goroutines, each locked to its thread.
func wake(n, count int) {
	there, back := make(chan int), make(chan int)
	go func() {
		runtime.LockOSThread()
		for token := range there {
			back <- token
		}
	}()
	runtime.LockOSThread()
	for i := 0; i < n*count; i++ {
		there <- i
		<-back
	}
	runtime.UnlockOSThread()
	close(there)
}

type call struct {
	function func() int
	result   chan int
}

var calls chan call

func callOne() {
	result := make(chan int, 1)
	calls <- call{func() int { return 1 }, result}
	if <-result != 1 {
		panic("wrong result: executor")
	}
}

func executor() {
	calls = make(chan call, 20000)
	go func() {
		runtime.LockOSThread()
		for c := range calls {
			c.result <- c.function()
		}
	}()
	measure(work{"executor_single", 2, false}, []int{20000}, func(n, count int) {
		for i := 0; i < n*count; i++ {
			callOne()
		}
	})
	measure(work{"executor_10k", 2, false}, []int{10000}, func(n, count int) {
		for ; count > 0; count-- {
			var all sync.WaitGroup
			all.Add(n)
			for i := 0; i < n; i++ {
				go func() { callOne(); all.Done() }()
			}
			all.Wait()
		}
	})
}

func main() {
	flag.Parse()
	var ns []int
	for _, part := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(part)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		ns = append(ns, n)
	}
	immediate := func(i int) int { return i }
	yielding := func(i int) int { runtime.Gosched(); return i }
	sleeping := func(i int) int { time.Sleep(time.Duration(1+i%10) * time.Millisecond); return i }
	measure(work{"gather_imm", 1, false}, ns, gather(immediate))
	measure(work{"gather_yield", 1, false}, ns, gather(yielding))
	measure(work{"gather_sleep", 1, true}, ns, gather(sleeping))
	measure(work{"spawn_join", 1, false}, ns, gather(immediate))
	measure(work{"yield", 1, false}, []int{1000000}, yields)
	measure(work{"wake", 2, false}, []int{20000}, wake)
	executor()
}
