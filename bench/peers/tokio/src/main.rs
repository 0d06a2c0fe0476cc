// The main job on tokio, one current-thread runtime. Two forms of gather: a task for each coroutine (peer=tokio, what asyncio's gather
// makes), and join_all, where one task polls them all (peer=tokio_join_all). Arguments and the rule of sampling are those of
// bench/driver.hpp.
use futures_util::future::join_all;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

struct Options {
    works: Vec<String>,
    sizes: Vec<usize>,
    runs: usize,
    budget_s: f64,
    sample_ms: f64,
}

fn parse() -> Options {
    let mut options = Options { works: vec![], sizes: vec![2_000, 10_000, 100_000, 1_000_000], runs: 7, budget_s: 4.0, sample_ms: 30.0 };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        let value = pair.get(1).map(String::as_str).unwrap_or("");
        match pair[0].as_str() {
            "--works" => options.works = value.split(',').map(String::from).collect(),
            "--sizes" => options.sizes = value.split(',').map(|n| n.parse().expect("a number")).collect(),
            "--runs" => options.runs = value.parse().expect("a number"),
            "--budget" => options.budget_s = value.parse().expect("a number"),
            "--sample-ms" => options.sample_ms = value.parse().expect("a number"),
            unknown => panic!("unknown argument {}", unknown),
        }
    }
    options
}

#[derive(Clone, Copy)]
struct Work {
    peer: &'static str,
    name: &'static str,
    threads: usize,
    cpu: bool, // processor time counts, and a sample is one round
}

fn work(name: &'static str, threads: usize) -> Work {
    Work { peer: "tokio", name, threads, cpu: false }
}

fn cpu_ns() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) as f64;
    seconds * 1e9 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) as f64 * 1e3
}

// One sample: its metered time and its time on the wall.
fn take(work: Work, n: usize, count: usize, rounds: &mut dyn FnMut(usize, usize)) -> (f64, f64) {
    let (cpu, began) = (cpu_ns(), Instant::now());
    rounds(n, count);
    let wall = began.elapsed().as_nanos() as f64;
    (if work.cpu { cpu_ns() - cpu } else { wall }, wall)
}

fn report(work: Work, n: usize, mut samples: Vec<f64>, mut walls: Vec<f64>) {
    samples.sort_by(|a, b| a.total_cmp(b));
    walls.sort_by(|a, b| a.total_cmp(b));
    let (median, last) = (samples.len() / 2, samples.len() - 1);
    print!("RESULT peer={} work={} N={} threads={} ns={:.2} min={:.2} max={:.2} runs={}",
        work.peer, work.name, n, work.threads, samples[median], samples[0], samples[last], samples.len());
    if work.cpu {
        print!(" wall_ms={:.2}", walls[median] / 1e6);
    }
    println!();
}

fn measure(options: &Options, work: Work, sizes: &[usize], mut rounds: impl FnMut(usize, usize)) {
    if !options.works.is_empty() && !options.works.iter().any(|wanted| wanted == work.name) {
        return;
    }
    let end = Instant::now() + Duration::from_secs_f64(options.budget_s);
    let sample_ns = options.sample_ms * 1e6;
    let mut item_ns = 0.0;
    for (i, &n) in sizes.iter().enumerate() {
        let left_ns = end.saturating_duration_since(Instant::now()).as_nanos() as f64;
        if item_ns * n as f64 > left_ns {
            println!("SKIP peer={} work={} N={} reason=budget predicted_s={:.1}", work.peer, work.name, n, item_ns * n as f64 / 1e9);
            continue;
        }
        let until = Instant::now() + Duration::from_nanos((left_ns / (sizes.len() - i) as f64) as u64);
        let (mut samples, mut walls) = (vec![], vec![]);
        let (metered, mut wall) = take(work, n, 1, &mut rounds);
        if wall < sample_ns {
            wall = take(work, n, 1, &mut rounds).1;
        } else {
            samples.push(metered / n as f64);
            walls.push(wall);
        }
        item_ns = wall / n as f64;
        let count = if work.cpu { 1 } else { std::cmp::max(1, (sample_ns / wall) as usize) };
        while samples.is_empty() || (samples.len() < options.runs && Instant::now() < until) {
            let (metered, wall) = take(work, n, count, &mut rounds);
            samples.push(metered / (n * count) as f64);
            walls.push(wall);
        }
        report(work, n, samples, walls);
    }
}

async fn immediate(i: u64) -> u64 {
    i
}
async fn yielding(i: u64) -> u64 {
    tokio::task::yield_now().await;
    i
}
async fn sleeping(i: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(1 + i % 10)).await;
    i
}

fn check(results: impl Iterator<Item = u64>) {
    for (i, result) in results.enumerate() {
        assert_eq!(i as u64, result, "wrong result: a result is not in its place");
    }
}

async fn gather<F: Future<Output = u64> + Send + 'static>(n: usize, count: usize, make: fn(u64) -> F) {
    for _ in 0..count {
        let tasks: Vec<_> = (0..n as u64).map(|i| tokio::spawn(make(i))).collect();
        let mut results = Vec::with_capacity(n);
        for task in tasks {
            results.push(task.await.unwrap());
        }
        check(results.into_iter());
    }
}

async fn gather_joined<F: Future<Output = u64>>(n: usize, count: usize, make: fn(u64) -> F) {
    for _ in 0..count {
        check(join_all((0..n as u64).map(make)).await.into_iter());
    }
}

fn gathers<F>(options: &Options, runtime: &Runtime, name: &'static str, cpu: bool, joined: bool, make: fn(u64) -> F)
where
    F: Future<Output = u64> + Send + 'static,
{
    let spawned = Work { cpu, ..work(name, 1) };
    measure(options, spawned, &options.sizes, |n, count| {
        runtime.block_on(async { tokio::spawn(gather(n, count, make)).await.unwrap() })
    });
    if joined {
        let in_one = Work { peer: "tokio_join_all", ..spawned };
        measure(options, in_one, &options.sizes, |n, count| runtime.block_on(gather_joined(n, count, make)));
    }
}

async fn yields(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

fn new_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap()
}

// A token goes through channels to a runtime on another thread and back.
fn wake(options: &Options, runtime: &Runtime) {
    let (there, mut at_there) = tokio::sync::mpsc::unbounded_channel::<usize>();
    let (back, mut at_back) = tokio::sync::mpsc::unbounded_channel::<usize>();
    let other = std::thread::spawn(move || {
        new_runtime().block_on(async move {
            while let Some(token) = at_there.recv().await {
                let _ = back.send(token);
            }
        })
    });
    measure(options, work("wake", 2), &[20_000], |n, count| {
        runtime.block_on(async {
            for token in 0..n * count {
                there.send(token).unwrap();
                assert_eq!(at_back.recv().await, Some(token));
            }
        })
    });
    drop(there);
    other.join().unwrap();
}

fn executor(options: &Options, runtime: &Runtime) {
    measure(options, work("executor_single", 2), &[20_000], |n, count| {
        runtime.block_on(async {
            for _ in 0..n * count {
                assert_eq!(tokio::task::spawn_blocking(|| 1).await.unwrap(), 1);
            }
        })
    });
    measure(options, work("executor_10k", 2), &[10_000], |n, count| {
        runtime.block_on(async {
            for _ in 0..count {
                let calls: Vec<_> = (0..n).map(|_| tokio::task::spawn_blocking(|| 1)).collect();
                for call in calls {
                    assert_eq!(call.await.unwrap(), 1);
                }
            }
        })
    });
}

fn main() {
    let options = parse();
    let runtime = new_runtime();
    gathers(&options, &runtime, "gather_imm", false, true, immediate);
    gathers(&options, &runtime, "gather_yield", false, true, yielding);
    gathers(&options, &runtime, "gather_sleep", true, false, sleeping);
    gathers(&options, &runtime, "spawn_join", false, false, immediate);
    measure(&options, work("yield", 1), &[1_000_000], |n, count| {
        runtime.block_on(async { tokio::spawn(yields(n * count)).await.unwrap() })
    });
    wake(&options, &runtime);
    executor(&options, &runtime);
}
