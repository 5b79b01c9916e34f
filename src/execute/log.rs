//! Where messages go: to stderr, and to the `log.txt` of the step that the thread works on.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tracing_subscriber::fmt::MakeWriter;

thread_local! {
    static STEP: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Sends this thread's messages to `path` too, until the guard is dropped.
pub fn into_step(path: &Path) -> io::Result<StepLog> {
    let file = File::options().create(true).append(true).open(path)?;
    STEP.with(|step| *step.borrow_mut() = Some(file));
    Ok(StepLog)
}

/// See [`into_step`].
#[derive(Debug)]
pub struct StepLog;

impl Drop for StepLog {
    fn drop(&mut self) {
        STEP.with(|step| *step.borrow_mut() = None);
    }
}

/// Sets up messages: `RUST_LOG` filters (`info` unless set), without times so that logs of two runs can be compared.
pub fn init() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("soctok=info,warn"));
    let colour = std::env::var_os("NO_COLOR").is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_target(false)
        .with_ansi(colour)
        .with_writer(Messages);
    // `try_init` would also show what dependencies write with the crate `log`; the HTTP client dumps requests there, with
    // the token of the hub. Fails only when a program that uses the library has set up its own.
    tracing::subscriber::set_global_default(subscriber.finish()).ok();
}

struct Messages;

impl<'a> MakeWriter<'a> for Messages {
    type Writer = Tee;

    fn make_writer(&'a self) -> Tee {
        Tee
    }
}

struct Tee;

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        STEP.with(|step| match step.borrow_mut().as_mut() {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        })?;
        // A terminal that was closed is no reason to stop.
        io::stderr().write_all(bytes).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush().ok();
        Ok(())
    }
}
