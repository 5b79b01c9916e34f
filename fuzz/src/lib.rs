//! What the fuzz targets share: a folder in memory for readers that take a path, inputs of several parts, and a limit on
//! what a reader may allocate for an input of a given size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a reader may hold for an input of no bytes at all: 64 MiB.
pub const ALLOWANCE: usize = 64 << 20;

/// Stands between the parts of an input that is several files.
pub const SEPARATOR: &[u8] = b"\n%%%%\n";

/// The system's allocator with a count of the bytes that are held and a ceiling, past which the process aborts. Unlike a
/// limit on resident memory it sees what is allocated and never touched.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static CEILING: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn add(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    let ceiling = CEILING.load(Relaxed);
    if held > ceiling {
        CEILING.store(usize::MAX, Relaxed);
        eprintln!("{held} bytes are held, {bytes} of them just asked for; the ceiling for this input is {ceiling}");
        std::process::abort();
    }
}

// SAFETY: every call is handed to the system's allocator as it came; only counting is added.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `work`, which may hold [`ALLOWANCE`] and `factor` bytes per byte of the input on top of what is held now.
pub fn within<T>(factor: usize, input: &[u8], work: impl FnOnce() -> T) -> T {
    CEILING.store(HELD.load(Relaxed) + ALLOWANCE + factor * input.len(), Relaxed);
    let result = work();
    CEILING.store(usize::MAX, Relaxed);
    result
}

/// A folder of this process in memory (`/dev/shm` where there is one). Folders of processes that are gone are removed.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let shared = PathBuf::from("/dev/shm");
        let base = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let prefix = "soctok-fuzz-";
        for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_prefix(prefix).is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                std::fs::remove_dir_all(entry.path()).ok();
            }
        }
        let folder = base.join(format!("{prefix}{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder in memory can be made");
        folder
    })
}

/// Writes `bytes` as a file of the folder.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).expect("a folder in memory can be made");
    }
    std::fs::write(&path, bytes).expect("the folder in memory can be written");
    path
}

/// The first `N` parts of an input; missing ones are empty.
pub fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut found = [&input[..0]; N];
    let mut rest = input;
    for (index, part) in found.iter_mut().enumerate() {
        let end = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
        match end.filter(|_| index + 1 < N) {
            Some(end) => (*part, rest) = (&rest[..end], &rest[end + SEPARATOR.len()..]),
            None => {
                *part = rest;
                break;
            }
        }
    }
    found
}

/// Shows an error as a person would see it: what makes the message must not fail either.
pub fn shown<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| drop(error.to_string())).ok()
}
