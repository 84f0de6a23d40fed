//! A fresh token, again and again, on 1, 2 and 8 threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::harness::results::{Column, Scenario, Who};
use crate::harness::{Figures, Setting, Subject, figures, now, thread_cpu};

pub const FLOOR: &str = "floor: thread-local + CLOCK_BOOTTIME + Arc clone";
pub const FLOOR_HEADER: &str = "floor, header value cloned";

pub const HOT: Scenario = Scenario {
    name: "hot",
    title: "A fresh token",
    told: "Nanoseconds of one core per call: wall time × cores used ÷ calls; and the processor time \
           of its threads, which other work on the machine disturbs less, but which leaves out the \
           time that a thread is parked. All subjects take turns within a round. Only rounds count in \
           which both controls took, on one thread and on two, the processor time that they cost.",
    case: "threads",
    cases: &[1, 2, 8],
    columns: &[
        Column::plain("ns", "ns"),
        Column { over: Some(FLOOR), ..Column::plain("ns", "× floor") },
        Column::plain("cpu_ns", "CPU ns"),
        Column { over: Some(FLOOR), ..Column::plain("cpu_ns", "× floor") },
    ],
    who: Who::All,
    rounds: None,
};

/// A subject that is ready to be called from so many threads, for so long.
pub type Hammer = Box<dyn Fn(&Handle, usize, Duration) -> Figures>;

pub async fn hammer<S: Subject>(setting: &Setting) -> Hammer {
    let subject = Arc::new(S::new(setting).await);
    subject.get().await.expect("the endpoint answers");
    Box::new(move |runtime, threads, time| cost_of_a_call(&*subject, runtime, threads, time))
}

fn cost_of_a_call<S: Subject>(
    subject: &S,
    runtime: &Handle,
    threads: usize,
    time: Duration,
) -> Figures {
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(threads + 1));
    let call_until_stopped = || {
        ready.wait();
        runtime.block_on(async {
            let (start, used, mut calls) = (now(), thread_cpu(), 0_u64);
            while !stop.load(Relaxed) {
                for _ in 0..64 {
                    // By reference: to move it into the black box would be work of this harness, and a header's
                    // value is five words.
                    let token = subject.get().await.expect("it has a fresh token");
                    black_box(&token);
                }
                calls += 64;
            }
            Run { calls, took: now() - start, used: thread_cpu() - used }
        })
    };
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(call_until_stopped)).collect();
        ready.wait();
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let calls = runs.iter().map(|run| run.calls).sum::<u64>() as f64;
    let longest = runs.iter().map(|run| run.took).max().unwrap_or(0) as f64;
    let used = runs.iter().map(|run| run.used).sum::<u64>() as f64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(threads);
    figures([("ns", longest * cores as f64 / calls), ("cpu_ns", used / calls)])
}

/// One thread's; times in nanoseconds.
struct Run {
    calls: u64,
    took: u64,
    used: u64,
}
