//! Ctrl-C and SIGTERM: the first asks steps to stop at their next report of progress, a second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A flag that is raised by the first SIGINT or SIGTERM.
pub fn flag() -> Arc<AtomicBool> {
    let flag = FLAG.get_or_init(Arc::default).clone();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only touches an initialised `OnceLock`, an atomic and `signal`, all async-signal-safe.
        unsafe { libc::signal(signal, raise as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
    flag
}

extern "C" fn raise(signal: libc::c_int) {
    if let Some(flag) = FLAG.get() {
        flag.store(true, Ordering::Relaxed);
    }
    // SAFETY: resetting to the default action is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
