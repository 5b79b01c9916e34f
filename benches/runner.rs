//! The runner's bars: CPU time of the real binary, and hashing against the crate it is made of.
//!
//! `cargo bench --bench runner`, about two minutes. Every figure is a median of CPU times (user and system) of whole
//! processes, so that other work on the machine hardly shows; each line says whether the bar of `docs/performance.md` is
//! met, and the exit code is 1 when one is missed. The store of ten thousand steps lies in memory (`/dev/shm`) where there is
//! room: what a disk adds is waiting, not CPU time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use soctok::store::digest::digest_file;

/// Points of the large grid.
const POINTS: usize = 10_000;
/// Steps of the run whose cost per step is measured.
const STEPS: usize = 300;
/// Bytes of the file that is hashed.
const BYTES: usize = 512 << 20;

/// What a process took.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
    /// Peak resident memory in MiB.
    memory: f64,
}

/// Runs a command to its end.
#[allow(clippy::zombie_processes, reason = "`wait4` waits for the process and says what it took")]
fn run(command: &mut Command) -> Cost {
    let started = Instant::now();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let (mut status, pid) = (0, i32::try_from(child.id()).expect("a process number"));
    // SAFETY: `rusage` is plain data, and the pointers live through the call; the child is ours and not waited for yet.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid, "the child is there");
        usage
    };
    assert_eq!(status, 0, "{command:?} ends with 0");
    Cost { cpu: cpu(&usage), wall: started.elapsed().as_secs_f64(), memory: usage.ru_maxrss as f64 / 1024.0 }
}

fn cpu(usage: &libc::rusage) -> f64 {
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// CPU seconds of this process so far.
fn own_cpu() -> f64 {
    // SAFETY: `rusage` is plain data, and the pointer lives through the call.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0, "the system counts");
        cpu(&usage)
    }
}

fn soctok(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soctok"));
    command.args(arguments).current_dir(folder);
    command
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of `count` runs, each after `prepare`.
fn medians(count: usize, mut prepare: impl FnMut() -> Command) -> Cost {
    let costs: Vec<Cost> = (0..count).map(|_| run(&mut prepare())).collect();
    let of = |part: fn(&Cost) -> f64| median(costs.iter().map(part).collect());
    Cost { cpu: of(|cost| cost.cpu), wall: of(|cost| cost.wall), memory: of(|cost| cost.memory) }
}

/// One note and `count` notes after it: the graph that the peers were measured with.
fn grid(count: usize) -> String {
    let mut text =
        "name = \"grid\"\n[stages.prep]\nkind = \"note\"\ntext = \"prep\"\n\n[stages.point]\nkind = \"note\"\n\
                    text = \"\"\nafter = \"stage:prep\"\n\n[axes.value]\nto = [\"point.text\"]\nvalues = ["
            .to_owned();
    for value in 0..count {
        write!(text, "\"{value}\",").expect("text takes text");
    }
    text + "]\n\n[tables.all]\nvalue = \"point.characters\"\nover = [\"value\"]\n"
}

/// Says whether a bar is met.
#[derive(Default)]
struct Report {
    missed: usize,
}

impl Report {
    fn line(&mut self, what: &str, measured: f64, bar: f64, unit: &str, beside: &str) {
        let met = measured <= bar;
        self.missed += usize::from(!met);
        let verdict = if met { "ok    " } else { "MISSED" };
        println!("{verdict}  {what:<44} {measured:>9.3} {unit:<8} bar {bar:<6} {beside}");
    }
}

/// A folder in memory if there is one, else on the disk.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = memory.is_dir() && free(memory) > 2 << 30;
    if room { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a temporary folder")
}

fn free(path: &Path) -> u64 {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path without zero bytes");
    // SAFETY: `statvfs` is plain data, and both pointers live through the call.
    unsafe {
        let mut found = std::mem::zeroed::<libc::statvfs>();
        if libc::statvfs(name.as_ptr(), &mut found) != 0 {
            return 0;
        }
        found.f_bavail as u64 * found.f_frsize as u64
    }
}

fn runner(report: &mut Report) {
    let disk = tempfile::tempdir().expect("a temporary folder");
    let start = medians(41, || soctok(disk.path(), &["--version"]));
    report.line("start-up (`--version`)", start.cpu * 1e3, 5.0, "ms CPU", "");

    let folder = place();
    let kept = |place: &Path, count: usize| {
        std::fs::write(place.join("grid.toml"), grid(STEPS)).expect("writes");
        let mut store = 0;
        medians(count, || {
            store += 1;
            soctok(place, &["run", "grid.toml", "--store", &format!("store-{store}")])
        })
    };
    let each = |cost: f64| cost * 1e3 / STEPS as f64;
    let steps = kept(disk.path(), 3);
    let wall = format!("({:.1} ms with waiting for the disk)", each(steps.wall));
    report.line("a trivial step, kept on the disk", each(steps.cpu), 2.0, "ms CPU", &wall);
    report.line("a trivial step, kept in memory", each(kept(folder.path(), 5).cpu), 2.0, "ms CPU", "");
    std::fs::write(folder.path().join("grid.toml"), grid(POINTS)).expect("writes");
    let plan = medians(5, || soctok(folder.path(), &["plan", "grid.toml"]));
    report.line("plan of 10,000 unbuilt points", plan.cpu, 0.3, "s CPU", "");
    report.line("plan of 10,000 unbuilt points, memory", plan.memory, 100.0, "MiB", "");
    let all = run(&mut soctok(folder.path(), &["run", "grid.toml", "--jobs", "2"]));
    println!("        (10,000 steps run and kept: {:.1} s CPU, {:.1} s)", all.cpu, all.wall);
    let again = medians(5, || soctok(folder.path(), &["run", "grid.toml"]));
    report.line("`run` of 10,000 points with nothing to do", again.cpu, 0.5, "s CPU", "");
}

fn hashing(report: &mut Report) {
    let folder = place();
    let path = folder.path().join("bytes");
    let bytes: Vec<u8> = (0..BYTES as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&path, &bytes).expect("writes");
    drop(bytes);
    let gigabytes = BYTES as f64 / 1e9;
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let all = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let ours = || {
        std::hint::black_box(digest_file(&path).expect("reads"));
    };
    let crates = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap(&path).expect("reads");
        std::hint::black_box(hasher.finalize());
    };
    let (mut single, mut direct, mut alone, mut together) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let timed = |work: &(dyn Fn() + Sync), pool: &rayon::ThreadPool| {
        let (cpu, wall) = (own_cpu(), Instant::now());
        pool.install(work);
        (own_cpu() - cpu, wall.elapsed().as_secs_f64())
    };
    // Turn by turn, so that what else the machine does meets all alike.
    for _ in 0..7 {
        direct.push(timed(&crates, &one).0);
        let (cpu, wall) = timed(&ours, &one);
        single.push(cpu);
        alone.push(wall);
        together.push(timed(&ours, &all).1);
    }
    let (single, direct) = (median(single), median(direct));
    let speed = format!("({:.2} GB per CPU second; the crate {:.2})", gigabytes / single, gigabytes / direct);
    report.line("hashing, one thread, against the crate", single / direct, 1.1, "times", &speed);
    let (alone, together) = (median(alone), median(together));
    let threads = all.current_num_threads();
    let speed = format!("({:.2} GB/s on one thread, {:.2} on {threads})", gigabytes / alone, gigabytes / together);
    if threads > 1 {
        report.line("hashing, all threads, against one", together / alone, 1.0, "times", &speed);
    } else {
        println!("        (hashing on several threads: this machine has one)");
    }
    match b3sum() {
        Some(program) => {
            let sum = medians(7, || {
                let mut command = Command::new(&program);
                command.args(["--num-threads", "1"]).arg(&path);
                command
            });
            let speed = format!("({:.2} GB per CPU second)", gigabytes / sum.cpu);
            report.line("hashing, one thread, against `b3sum`", single / sum.cpu, 1.1, "times", &speed);
        }
        None => println!("        (`b3sum` is not on PATH: not compared with it)"),
    }
}

fn b3sum() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join("b3sum")).find(|path| path.is_file())
}

fn main() -> ExitCode {
    let mut report = Report::default();
    runner(&mut report);
    hashing(&mut report);
    match report.missed {
        0 => ExitCode::SUCCESS,
        missed => {
            println!("{missed} bars missed");
            ExitCode::FAILURE
        }
    }
}
