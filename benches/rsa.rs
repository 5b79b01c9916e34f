//! Speed of the RSA statistics: `cargo bench --bench rsa`. Prints CPU and wall seconds, median with lowest and highest of
//! 11 rounds, for one thread and for all; `docs/performance.md` has the figures and what they are compared with.
//!
//! The case is that of the Python references: 250 stimuli, 31,125 pairs, two correlation matrices of 128 random features,
//! 10,000 label permutations and 1,000 bootstrap draws of stimuli, Spearman's correlation. Ranking is part of the time.

use std::hint::black_box;
use std::time::Instant;

use soctok::stats::pairs::{Judged, Modelled};
use soctok::stats::permutation;
use soctok::stats::random::Streams;
use soctok::stats::ranks::Statistic;
use soctok::stats::rsm::{Similarity, matrix, triangle, upper_triangle};
use soctok::stats::stimuli;

const STIMULI: usize = 250;
const FEATURES: usize = 128;
const LAYERS: usize = 20;
const ROUNDS: usize = 11;

/// Pairs of the judged side, and models of which each has something of it.
struct Case {
    human: Vec<Option<f64>>,
    /// The same with pairs that nobody judged (3%).
    gapped: Vec<Option<f64>>,
    models: Vec<Vec<f64>>,
}

impl Case {
    fn new() -> Self {
        let mut stream = Streams::new(0, "bench").named("data");
        let rows = |stream: &mut soctok::stats::random::Stream, of: Option<&[Vec<f64>]>| -> Vec<Vec<f64>> {
            let value = |i: usize, d: usize, noise: f64| of.map_or(noise, |rows| rows[i][d] + 2.0 * noise);
            (0..STIMULI).map(|i| (0..FEATURES).map(|d| value(i, d, stream.normal())).collect()).collect()
        };
        let similarity = |rows: &[Vec<f64>]| matrix(rows, Similarity::Pearson).expect("random rows have a direction");
        let base = rows(&mut stream, None);
        let human: Vec<Option<f64>> = similarity(&base).into_iter().map(Some).collect();
        let mut gapped = human.clone();
        for (i, j) in upper_triangle(STIMULI) {
            if stream.coin(0.03) {
                (gapped[i * STIMULI + j], gapped[j * STIMULI + i]) = (None, None);
            }
        }
        let models = (0..LAYERS).map(|_| triangle(&similarity(&rows(&mut stream, Some(&base))), STIMULI)).collect();
        Self { human, gapped, models }
    }
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `getrusage` fills the struct that it is given.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0, "getrusage knows this process");
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn measure(name: &str, threads: usize, work: impl Fn() + Sync) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let (cpu, wall) = (cpu_seconds(), Instant::now());
            pool.install(&work);
            (cpu_seconds() - cpu, wall.elapsed().as_secs_f64())
        })
        .collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (low, (median, _), high) = (rounds[0].0, rounds[ROUNDS / 2], rounds[ROUNDS - 1].0);
    rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
    let wall = rounds[ROUNDS / 2].1;
    println!("{name:<58} {threads:>2} threads  CPU {median:.4} s ({low:.4} to {high:.4})  wall {wall:.4} s");
}

fn main() {
    let case = Case::new();
    let streams = Streams::new(1, "bench");
    let sides = |human: &[Option<f64>], models: usize| {
        let judged = Judged::new(STIMULI, human, None).expect("250 stimuli are few");
        let models: Vec<Modelled> = case.models[..models].iter().map(|model| Modelled::new(&judged, model)).collect();
        (judged, models)
    };
    let permuted = |human: &[Option<f64>], models: usize, statistic: Statistic, count: usize| {
        let (judged, models) = sides(human, models);
        black_box(permutation::null(&judged, &models, statistic, count, &streams));
    };
    let drawn = |human: &[Option<f64>], models: usize, count: usize| {
        let (judged, models) = sides(human, models);
        black_box(stimuli::replicates(&judged, &models, Statistic::Spearman, count, &streams));
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let spearman = Statistic::Spearman;
    for threads in [1, all] {
        measure("10,000 permutations", threads, || permuted(&case.human, 1, spearman, 10_000));
        measure("1,000 bootstrap draws", threads, || drawn(&case.human, 1, 1000));
        measure("10,000 permutations, 20 layers", threads, || permuted(&case.human, LAYERS, spearman, 10_000));
        measure("1,000 bootstrap draws, 20 layers", threads, || drawn(&case.human, LAYERS, 1000));
        measure("10,000 permutations, 3% not judged", threads, || permuted(&case.gapped, 1, spearman, 10_000));
        measure("1,000 bootstrap draws, 3% not judged", threads, || drawn(&case.gapped, 1, 1000));
    }
    measure("100 permutations, tau-a", 1, || permuted(&case.human, 1, Statistic::KendallTauA, 100));
}
