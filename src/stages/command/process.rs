//! Starting a program, listening to it, stopping it.
//!
//! The program leads a process group of its own: a request to stop goes to it and to everything that it started. What it
//! prints goes into the step's log, line by line.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::super::{Context, Result, StageError};

/// Variables that every program gets when soctok has them.
const ALWAYS: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];
/// How often a request to stop is listened for.
const LISTEN: Duration = Duration::from_millis(50);
/// How long after the end of the program its last lines are waited for.
const REST: Duration = Duration::from_secs(2);
/// Lines of stderr in an error.
const LAST_LINES: usize = 20;
/// Longest line kept: a program that prints no newline must not fill the memory.
const LONGEST: u64 = 64 << 10;

/// What to start.
pub(super) struct Call<'a> {
    /// Program and arguments.
    pub arguments: &'a [String],
    /// Where it runs.
    pub folder: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
    pub pass: &'a [String],
    /// Between asking it to stop and ending it.
    pub grace: Duration,
}

struct Line {
    is_error: bool,
    text: String,
}

/// Runs the program to its end; anything but exit code 0 is an error with the last lines of stderr.
pub(super) fn run(call: &Call<'_>, context: &Context) -> Result<()> {
    let (program, arguments) = call.arguments.split_first().ok_or_else(|| StageError::new("no program is named"))?;
    context.log(&format!("$ {}", call.arguments.join(" ")))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(call.folder).env_clear();
    for name in ALWAYS.iter().copied().chain(call.pass.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Python would write its cache beside the script, into an input whose bytes are part of the key.
    command.env("PYTHONDONTWRITEBYTECODE", "1").envs(call.environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    end_with_us(&mut command);
    let child = command.spawn().map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "install it, or correct the first item of `command`",
            std::io::ErrorKind::PermissionDenied => {
                "make the file executable (`chmod +x`), or start it with its interpreter: `[\"python3\", \"{input:script}\"]`"
            }
            _ => "correct the first item of `command`",
        };
        StageError::hint(format!("`{program}` cannot be started: {error}"), hint)
    })?;
    let mut running = Running { child, ended: None };
    let (sender, lines) = channel();
    if let Some(pipe) = running.child.stdout.take() {
        listen(pipe, false, sender.clone());
    }
    if let Some(pipe) = running.child.stderr.take() {
        listen(pipe, true, sender);
    }
    let mut last = VecDeque::new();
    let status = attend(&mut running, &lines, &mut last, call, context)?;
    // What is still in the pipes. A daemon that got away may hold them open for ever: it is not waited for.
    let ended = Instant::now();
    while let Ok(line) = lines.recv_timeout(REST.saturating_sub(ended.elapsed())) {
        hear(line, &mut last, context)?;
    }
    if status.success() {
        return Ok(());
    }
    let ending = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    };
    let said: String = last.iter().map(|line| format!("\n  {line}")).collect();
    let said = if said.is_empty() { "; it wrote nothing to stderr".to_owned() } else { format!("; it wrote:{said}") };
    Err(StageError::hint(format!("`{program}` {ending}{said}"), "`soctok logs FILE STAGE` has all that it printed"))
}

/// Waits for the end and keeps what is printed meanwhile; passes a request to stop on.
fn attend(
    running: &mut Running,
    lines: &Receiver<Line>,
    last: &mut VecDeque<String>,
    call: &Call<'_>,
    context: &Context,
) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        match lines.recv_timeout(LISTEN) {
            Ok(line) => hear(line, last, context)?,
            Err(RecvTimeoutError::Timeout) => {}
            // Both pipes are closed: the end is near, or the program went on without them.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(5)),
        }
        if let Some(status) = running.poll()? {
            return Ok(status);
        }
        let elapsed = started.elapsed();
        if elapsed - told > Duration::from_secs(1) || context.is_cancelled() {
            told = elapsed;
            if let Err(stop) = context.progress(elapsed.as_secs(), 0, "second") {
                running.stop(call.grace)?;
                return Err(stop);
            }
        }
    }
}

fn hear(line: Line, last: &mut VecDeque<String>, context: &Context) -> Result<()> {
    context.log(&line.text)?;
    if line.is_error {
        last.push_back(line.text);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    Ok(())
}

/// Sends each line of a pipe, in a thread that ends with the pipe.
fn listen(pipe: impl Read + Send + 'static, is_error: bool, sender: Sender<Line>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        loop {
            let mut bytes = Vec::new();
            match reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(Line { is_error, text }).is_err() {
                return;
            }
        }
    });
}

/// A program under way. Dropping it ends it and all that it started.
struct Running {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Running {
    /// How it ended, if it has. What it left running ends with it: it would write into a finished artifact.
    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|error| StageError::new(format!("the program: {error}")))?;
            if self.ended.is_some() {
                self.signal(libc::SIGKILL);
            }
        }
        Ok(self.ended)
    }

    /// Asks it to stop, and ends it when it has not after `grace`.
    fn stop(&mut self, grace: Duration) -> Result<()> {
        self.signal(libc::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < grace {
            if self.poll()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn signal(&self, signal: libc::c_int) {
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: `killpg` touches no memory of ours; the group is the child's own.
            unsafe { libc::killpg(group, signal) };
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.signal(libc::SIGKILL);
            self.child.wait().ok();
        }
    }
}

/// Lets the program end when soctok is killed, where the system can: nobody else would stop it.
fn end_with_us(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: `prctl` is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
