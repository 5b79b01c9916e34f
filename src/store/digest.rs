//! Digests of files and folders (BLAKE3), and the memory of those of unchanged files.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// A file's state as the file system tells it: device, inode, size, mtime and ctime in nanoseconds. `ctime` cannot be
/// set by a program, so an edit that keeps size and mtime is still seen.
pub(super) type Signature = (u64, u64, u64, i128, i128);

/// Files changed more recently than this are not remembered: a further edit could leave the signature as it is where
/// the file system's clock is coarse.
const SETTLING: Duration = Duration::from_secs(2);

/// Remembers the digests of files that have not changed since they were read.
#[derive(Default)]
pub struct Signatures {
    known: Mutex<HashMap<Signature, blake3::Hash>>,
    fresh: Mutex<Vec<(Signature, blake3::Hash)>>,
}

pub(super) fn signature(metadata: &std::fs::Metadata) -> Signature {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Signatures {
    /// Reads what `save` wrote; an absent file is an empty memory, and a line that cannot be read is forgotten.
    pub fn load(path: &Path) -> Self {
        let mut known = HashMap::new();
        if let Ok(bytes) = std::fs::read(path) {
            known.extend(bytes.split(|byte| *byte == b'\n').filter_map(|line| parse(std::str::from_utf8(line).ok()?)));
        }
        Self { known: Mutex::new(known), fresh: Mutex::default() }
    }

    /// Appends what has been learned since `load`.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        if fresh.is_empty() {
            return Ok(());
        }
        let lines: String = fresh
            .iter()
            .map(|((device, inode, size, modified, changed), digest)| {
                format!("{device} {inode} {size} {modified} {changed} {digest}\n")
            })
            .collect();
        std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(lines.as_bytes())
    }

    /// The digest of a file if it is remembered; reads no content.
    pub fn known(&self, path: &Path) -> std::io::Result<Option<blake3::Hash>> {
        Ok(lock(&self.known).get(&signature(&std::fs::metadata(path)?)).copied())
    }

    /// The digest of a file, from memory or from its bytes.
    pub fn digest(&self, path: &Path) -> std::io::Result<blake3::Hash> {
        let metadata = std::fs::metadata(path)?;
        let before = signature(&metadata);
        if let Some(digest) = lock(&self.known).get(&before) {
            return Ok(*digest);
        }
        let digest = digest_file(path)?;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
        let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLING);
        if settled && signature(&std::fs::metadata(path)?) == before {
            lock(&self.known).insert(before, digest);
            lock(&self.fresh).push((before, digest));
        }
        Ok(digest)
    }
}

fn parse(line: &str) -> Option<(Signature, blake3::Hash)> {
    let mut parts = line.split(' ');
    let signature = (
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    );
    Some((signature, blake3::Hash::from_hex(parts.next()?).ok()?))
}

/// The digest of a file's bytes; large files are mapped.
pub fn digest_file(path: &Path) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path)?;
    Ok(hasher.finalize())
}

/// One digest for a set of files: over their names and digests, in the order of the names.
pub fn digest_tree<'a>(files: impl IntoIterator<Item = (&'a str, blake3::Hash)>) -> blake3::Hash {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = blake3::Hasher::new();
    for (name, digest) in files {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(digest.as_bytes());
    }
    hasher.finalize()
}

/// Every file below `folder`, as (path relative to it, path), sorted; links are followed.
pub fn files_below(folder: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(std::io::Error::from)?;
        if entry.file_type().is_file() {
            let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
            files.push((relative.to_string_lossy().into_owned(), entry.path().to_owned()));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_file_is_read_again_only_when_it_changed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, memory) = (folder.path().join("a"), folder.path().join("signatures"));
        std::fs::write(&file, "one").expect("writes");
        let signatures = Signatures::default();
        let first = signatures.digest(&file).expect("reads");
        assert_eq!(signatures.known(&file).expect("reads"), None, "a file changed just now is not remembered");
        let metadata = std::fs::metadata(&file).expect("reads");
        lock(&signatures.fresh).push((signature(&metadata), first));
        signatures.save(&memory).expect("writes");
        // Lines that a torn write or a bad disk left in between take nothing with them.
        let kept = std::fs::read(&memory).expect("reads");
        std::fs::write(&memory, [&b"1 2 \xff\xfe\n\n9 9 9\n"[..], &kept, b"1 2 3 4 5 00"].concat()).expect("writes");
        let again = Signatures::load(&memory);
        assert_eq!(again.known(&file).expect("reads"), Some(first));
        // Same size, same mtime, other bytes: ctime gives it away.
        std::thread::sleep(Duration::from_millis(20));
        let modified = metadata.modified().expect("has a time");
        std::fs::write(&file, "two").expect("writes");
        std::fs::File::options().write(true).open(&file).and_then(|f| f.set_modified(modified)).expect("sets the time");
        assert_eq!(again.known(&file).expect("reads"), None);
        assert_ne!(again.digest(&file).expect("reads"), first);
    }

    #[test]
    fn a_tree_digest_depends_on_names_and_bytes_only() {
        let (a, b) = (blake3::hash(b"a"), blake3::hash(b"b"));
        assert_eq!(digest_tree([("x", a), ("y", b)]), digest_tree([("y", b), ("x", a)]));
        assert_ne!(digest_tree([("x", a), ("y", b)]), digest_tree([("x", b), ("y", a)]));
        assert_ne!(digest_tree([("x", a)]), digest_tree([("z", a)]));
    }
}
