//! Leases: who works on a step.
//!
//! A lease is the file `work/<step>.lease`, holding its owner. It appears whole, as a hard link of a draft, which fails
//! when the name is taken (shared file systems keep this promise, unlike locks). The owner's heartbeat renews the file's time. A lease is dead when its owner is a process of this host
//! that is gone, or when its time has stood still for half a minute as seen by the waiting process's own clock: clocks
//! of two hosts are never compared. A dead lease is renamed away and the step taken; an owner that finds another name in
//! its lease has lost it, is told to stop, and keeps nothing. Each owner writes into an outputs folder of its own, so that one that wakes
//! up late cannot touch what its successor writes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use super::{Store, StoreError, io};

/// How often an owner renews its lease.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A lease whose time has stood still this long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// The right to work on one step. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    owner: String,
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    heartbeat: std::thread::Thread,
}

/// What was found when a lease was asked for.
#[derive(Debug)]
pub enum Claim {
    /// It is ours.
    Taken(Lease),
    /// Another owner works on the step; ask again later.
    Busy(Waiting),
}

/// What a waiting process has seen of another's lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    owner: String,
    renewed: Option<SystemTime>,
    since: Instant,
}

/// This machine's name.
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

/// Where process numbers mean the same: host, boot and process namespace (containers of one host may share its name). As
/// it was when it was first asked for: a step asks a dozen times.
static PLACE: LazyLock<String> = LazyLock::new(|| {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{}/{}/{}", host(), boot.trim(), namespace.display())
});

/// Start time of this process.
static OWN_START: LazyLock<Option<u64>> = LazyLock::new(|| started(std::process::id()));

/// `place pid start number`: the start time tells a process from a later one of the same number.
fn me() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{} {} {} {number}", *PLACE, std::process::id(), OWN_START.unwrap_or(0))
}

/// A name that no other process on any host uses: for drafts that are renamed into their place. It tells its process, so
/// that what a killed one left behind can be recognised (`is_left_behind`).
pub fn unique() -> String {
    let me = me();
    let numbers: Vec<&str> = me.split(' ').skip(1).collect();
    format!("{}-{}", token_of_place(), numbers.join("-"))
}

fn token_of_place() -> String {
    blake3::hash(PLACE.as_bytes()).to_hex()[..16].to_owned()
}

/// Does a name that ends in one of [`unique`]'s belong to a process of this host that is gone?
pub(super) fn is_left_behind(name: &str) -> bool {
    let parts: Vec<&str> = name.rsplitn(4, '-').collect();
    let [_number, start, pid, rest] = parts[..] else { return false };
    rest.ends_with(&token_of_place()) && is_gone(&format!("{} {pid} {start}", *PLACE))
}

/// Start time of a process of this host in clock ticks since boot; `None` when there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// True when the owner was a process of this host and is gone.
pub(super) fn is_gone(owner: &str) -> bool {
    let parts: Vec<&str> = owner.split(' ').collect();
    let [owner_place, pid, start, ..] = parts[..] else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { return false };
    // Where the system tells no start times nobody can be seen to be gone.
    OWN_START.is_some() && owner_place == *PLACE && started(pid) != Some(start)
}

impl Waiting {
    /// Nothing has been seen of the owner yet.
    pub fn unseen() -> Self {
        Self { owner: String::new(), renewed: None, since: Instant::now() }
    }
}

/// Makes the lease, whole, unless there is one. True when it is `owner`'s.
fn make(path: &Path, owner: &str) -> Result<bool, StoreError> {
    use std::io::ErrorKind::{AlreadyExists, PermissionDenied, Unsupported};
    let draft = path.with_extension(format!("draft-{}", unique()));
    let written = std::fs::write(&draft, owner).map_err(io(&draft));
    let linked = written.map(|()| std::fs::hard_link(&draft, path));
    std::fs::remove_file(&draft).ok();
    match linked? {
        Ok(()) => Ok(true),
        // Over a network the answer to a link that was made may be lost and the question asked twice.
        Err(error) if error.kind() == AlreadyExists => {
            Ok(std::fs::read_to_string(path).is_ok_and(|found| found == owner))
        }
        // A file system without hard links.
        Err(error) if matches!(error.kind(), Unsupported | PermissionDenied) => {
            let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
            match file.and_then(|mut file| file.write_all(owner.as_bytes())) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == AlreadyExists => Ok(false),
                Err(error) => {
                    // It is ours and holds nobody's name.
                    std::fs::remove_file(path).ok();
                    Err(io(path)(error))
                }
            }
        }
        Err(error) => Err(io(path)(error)),
    }
}

impl Store {
    /// Asks for the right to work on the step `name`. Pass what the previous call found, so that a dead owner is seen.
    pub fn claim(&self, name: &str, before: Option<&Waiting>) -> Result<Claim, StoreError> {
        let path = self.root().join("work").join(format!("{name}.lease"));
        let owner = me();
        if make(&path, &owner)? {
            return Ok(Claim::Taken(Lease::held(path, owner)));
        }
        let seen = Waiting {
            owner: std::fs::read_to_string(&path).unwrap_or_default(),
            renewed: std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok(),
            since: Instant::now(),
        };
        let unchanged = before.filter(|before| before.owner == seen.owner && before.renewed == seen.renewed);
        if is_gone(&seen.owner) || unchanged.is_some_and(|before| before.since.elapsed() > DEAD_AFTER) {
            // Renaming decides between two that see the same dead lease: one of them finds nothing to rename.
            let grave = path.with_extension(format!("dead-{}", unique()));
            if std::fs::rename(&path, &grave).is_ok() {
                if std::fs::read_to_string(&grave).unwrap_or_default() != seen.owner {
                    // A living lease, taken between the look and the rename: put it back, unless a third process has
                    // taken the step meanwhile; then its owner finds out at its next heartbeat.
                    std::fs::hard_link(&grave, &path).ok();
                }
                std::fs::remove_file(&grave).map_err(io(&grave))?;
            }
        }
        Ok(Claim::Busy(unchanged.cloned().unwrap_or(seen)))
    }
}

impl Lease {
    fn held(path: PathBuf, owner: String) -> Self {
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (heartbeat_path, heartbeat_owner, heartbeat_stop) = (path.clone(), owner.clone(), stop.clone());
        let heartbeat_lost = lost.clone();
        let heartbeat = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !heartbeat_stop.load(Ordering::Relaxed) {
                std::thread::park_timeout(HEARTBEAT);
                if last.elapsed() >= HEARTBEAT && !heartbeat_stop.load(Ordering::Relaxed) {
                    if !renew(&heartbeat_path, &heartbeat_owner) {
                        heartbeat_lost.store(true, Ordering::Relaxed);
                        return;
                    }
                    last = Instant::now();
                }
            }
        });
        Self { path, owner, stop, lost, heartbeat: heartbeat.thread().clone() }
    }

    /// A flag that the heartbeat raises when it finds another owner's name in the lease, or none.
    pub fn lost(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    /// What tells this owner's outputs from another's.
    pub fn token(&self) -> String {
        blake3::hash(self.owner.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Is it still ours?
    pub fn is_held(&self) -> bool {
        std::fs::read_to_string(&self.path).is_ok_and(|owner| owner == self.owner)
    }
}

/// Renews the time of a lease that is still the owner's; false when it is not. Any other failure shows as a lease that
/// stands still: others then take the step, and `is_held` says so at commit.
fn renew(path: &Path, owner: &str) -> bool {
    match std::fs::read_to_string(path) {
        Ok(found) if found != owner => return false,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
        _ => {}
    }
    if let Ok(file) = std::fs::File::options().write(true).open(path) {
        file.set_modified(SystemTime::now()).ok();
    }
    true
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.heartbeat.unpark();
        if self.is_held() {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path());
        store.create().expect("creates");
        (folder, store)
    }

    #[test]
    fn one_owner_at_a_time_and_again_after_it() {
        let (_folder, store) = store();
        let Claim::Taken(lease) = store.claim("a-1", None).expect("asks") else { panic!("the first takes it") };
        assert!(lease.is_held());
        let Claim::Busy(_) = store.claim("a-1", None).expect("asks") else { panic!("the second waits") };
        drop(lease);
        assert!(matches!(store.claim("a-1", None).expect("asks"), Claim::Taken(_)));
    }

    #[test]
    fn the_lease_of_a_dead_process_is_taken_over() {
        let (folder, store) = store();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let owner = format!("{} {} {} 0", *PLACE, child.id(), started(child.id()).expect("it lives"));
        let path = folder.path().join("work/a-1.lease");
        std::fs::write(&path, &owner).expect("writes");
        let Claim::Busy(seen) = store.claim("a-1", None).expect("asks") else { panic!("its owner lives") };
        assert!(path.exists());
        child.kill().expect("kills");
        child.wait().expect("ends");
        let Claim::Busy(_) = store.claim("a-1", Some(&seen)).expect("asks") else { panic!("this call buries it") };
        assert!(matches!(store.claim("a-1", None).expect("asks"), Claim::Taken(_)));
    }

    #[test]
    fn a_lease_of_another_host_is_dead_when_it_has_stood_still_for_long() {
        let (folder, store) = store();
        let path = folder.path().join("work/a-1.lease");
        std::fs::write(&path, "elsewhere/boot/pid 1 2 3").expect("writes");
        let Claim::Busy(seen) = store.claim("a-1", None).expect("asks") else { panic!("it may live") };
        let ago =
            |time: Duration| Waiting { since: Instant::now().checked_sub(time).expect("has run"), ..seen.clone() };
        let Claim::Busy(_) = store.claim("a-1", Some(&ago(DEAD_AFTER / 2))).expect("asks") else {
            panic!("it may live")
        };
        assert!(path.exists());
        // It was renewed meanwhile: the waiting begins again.
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        file.set_modified(SystemTime::now() + Duration::from_secs(5)).expect("sets the time");
        let late = ago(DEAD_AFTER + Duration::from_secs(1));
        let Claim::Busy(seen) = store.claim("a-1", Some(&late)).expect("asks") else { panic!("it lives") };
        assert!(path.exists() && seen.since.elapsed() < DEAD_AFTER);
        let late = Waiting { since: late.since, ..seen };
        let Claim::Busy(_) = store.claim("a-1", Some(&late)).expect("asks") else { panic!("this call buries it") };
        assert!(matches!(store.claim("a-1", None).expect("asks"), Claim::Taken(_)));
    }

    #[test]
    fn what_a_dead_process_left_is_known_by_its_name() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let start = started(child.id()).expect("it lives");
        let name = format!("note-1.alias-{}-{}-{start}-7", token_of_place(), child.id());
        assert!(!is_left_behind(&name) && !is_left_behind(&format!("draft-{}", unique())));
        child.kill().expect("kills");
        child.wait().expect("ends");
        assert!(is_left_behind(&name));
        assert!(!is_left_behind("note-0123456789abcdef") && !is_left_behind("train_projector-1-2-3-4"));
    }

    #[test]
    fn an_owner_that_was_replaced_knows_it() {
        let (folder, store) = store();
        let Claim::Taken(lease) = store.claim("a-1", None).expect("asks") else { panic!("free") };
        std::fs::write(folder.path().join("work/a-1.lease"), "elsewhere 1 2 3").expect("writes");
        assert!(!lease.is_held());
        let path = folder.path().join("work/a-1.lease");
        assert!(!renew(&path, &lease.owner), "the heartbeat finds out");
        drop(lease);
        assert!(folder.path().join("work/a-1.lease").exists(), "what is not ours is not removed");
    }
}
